//! The controller's artifact server, by digest.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fieldfare_files::FileError;
use fieldfare_member::patience::{self, unless_silent};
use fieldfare_release::{ArtifactError, ArtifactVerifier, Sha256Digest};
use fieldfare_tls::limits::{CONNECT_TIMEOUT, IDLE_CONNECTION};
use fieldfare_tls::{ConnectError, ExpectedServer, IdentityHandle, ServerTrust, TimeSource, https_config};
use reqwest::{Body, Client, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tokio_util::io::ReaderStream;

use crate::download::{Download, DownloadError, Downloaded, Expected};
use crate::failure::WorkError;
use crate::gateway::backoff;
use crate::limits::{CHUNK_BYTES, DOWNLOAD_FRUITLESS_MAX, DOWNLOAD_SILENCE};

/// Why a blob could not be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    /// The controller has not said where artifacts are.
    #[error("the controller has not said where its artifact server is")]
    NoServer,
    /// The blob could not be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The blob is longer than it may be here.
    #[error("blob {sha256} has more than {limit} bytes")]
    TooLong {
        /// Which blob.
        sha256: Sha256Digest,
        /// Most bytes.
        limit: u64,
    },
    /// The server said nothing, and took nothing, for too long.
    #[error("blob {sha256}: the artifact server is silent")]
    Silent {
        /// Which blob.
        sha256: Sha256Digest,
    },
    /// A connection failed.
    #[error("blob {sha256}: the connection to the artifact server failed")]
    Connection {
        /// Which blob.
        sha256: Sha256Digest,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The server refuses the blob.
    #[error("blob {sha256}: the artifact server answers {status}: {text}")]
    Status {
        /// Which blob.
        sha256: Sha256Digest,
        /// The answer.
        status: StatusCode,
        /// Its text.
        text: String,
    },
    /// The bytes are others than asked for.
    #[error("blob {sha256} is not what the artifact server sent")]
    Content {
        /// Which blob.
        sha256: Sha256Digest,
        /// What is wrong.
        #[source]
        source: ArtifactError,
    },
    /// A local file fails.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ArtifactsError> for WorkError {
    fn from(error: ArtifactsError) -> Self {
        Self::Interrupted {
            doing: "exchanging artifacts with the controller",
            source: Box::new(error),
        }
    }
}

/// The artifact server of the controller, wherever the latest hint says that it is.
#[derive(Clone, Debug)]
pub struct Artifacts {
    client: Client,
    base: watch::Receiver<String>,
}

impl Artifacts {
    /// A client with our identity; the server must be a controller.
    ///
    /// # Errors
    /// The TLS library refuses the settings.
    pub fn new(
        identity: &IdentityHandle,
        time: &TimeSource,
        base: watch::Receiver<String>,
    ) -> Result<Self, ConnectError> {
        let trust = ServerTrust::by(&identity.current(), ExpectedServer::Controller);
        let tls = https_config(Some(identity), &trust, time)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build();
        let broken = |error: reqwest::Error| ConnectError::Settings(rustls::Error::General(error.to_string()));
        Ok(Self {
            client: client.map_err(broken)?,
            base,
        })
    }

    fn url(&self, sha256: Sha256Digest) -> Result<String, ArtifactsError> {
        let base = self.base.borrow();
        if base.is_empty() {
            return Err(ArtifactsError::NoServer);
        }
        Ok(format!("{}/blobs/sha256/{sha256}", base.trim_end_matches('/')))
    }

    /// Downloads a blob into a file, whole and verified.
    ///
    /// # Errors
    /// [`ArtifactsError`]
    pub async fn fetch(
        &self,
        sha256: Sha256Digest,
        length: u64,
        path: &Path,
        progress: impl FnMut(u64, u64),
    ) -> Result<Downloaded, ArtifactsError> {
        let expected = Expected::Exactly { sha256, length };
        let download = Download {
            client: &self.client,
            url: self.url(sha256)?,
            bearer: None,
            path,
            expected,
        };
        Ok(download.run(progress).await?)
    }

    /// Reads a blob of at most `limit` bytes into memory, verified.
    ///
    /// # Errors
    /// [`ArtifactsError`]
    pub async fn read(&self, sha256: Sha256Digest, limit: u64) -> Result<Vec<u8>, ArtifactsError> {
        let mut attempt = 0;
        loop {
            match self.read_once(sha256, limit).await {
                Err(ArtifactsError::Connection { .. } | ArtifactsError::Silent { .. })
                    if attempt < DOWNLOAD_FRUITLESS_MAX =>
                {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn read_once(&self, sha256: Sha256Digest, limit: u64) -> Result<Vec<u8>, ArtifactsError> {
        let broken = |source| ArtifactsError::Connection { sha256, source };
        let silent = |_| ArtifactsError::Silent { sha256 };
        let asked = self.client.get(self.url(sha256)?).send();
        let mut response = timeout(DOWNLOAD_SILENCE, asked)
            .await
            .map_err(silent)?
            .map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(refused(sha256, response).await);
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = timeout(DOWNLOAD_SILENCE, response.chunk()).await.map_err(silent)?;
            let Some(chunk) = chunk.map_err(broken)? else { break };
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(ArtifactsError::TooLong { sha256, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        let content = |source| ArtifactsError::Content { sha256, source };
        ArtifactVerifier::check(bytes.len() as u64, sha256, &bytes).map_err(content)?;
        Ok(bytes)
    }

    /// Stores bytes under their digest.
    ///
    /// # Errors
    /// [`ArtifactsError`]
    pub async fn store(&self, bytes: Vec<u8>) -> Result<Sha256Digest, ArtifactsError> {
        let sha256 = Sha256Digest::of(&bytes);
        let bytes = Bytes::from(bytes);
        let length = bytes.len() as u64;
        let pieces = || {
            let bytes = bytes.clone();
            let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
            let pieces = starts.map(move |start| Ok(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))));
            async { Ok(tokio_stream::iter(pieces)) }
        };
        self.put(sha256, length, pieces).await?;
        Ok(sha256)
    }

    /// Stores a file under its digest.
    ///
    /// # Errors
    /// [`ArtifactsError`]
    pub async fn store_file(&self, file: &Downloaded) -> Result<(), ArtifactsError> {
        let path: Arc<Path> = Arc::from(file.path.as_path());
        let open = || {
            let path = Arc::clone(&path);
            async move {
                let file = tokio::fs::File::open(&path)
                    .await
                    .map_err(FileError::of("open", &path))?;
                Ok(ReaderStream::with_capacity(file, CHUNK_BYTES))
            }
        };
        self.put(file.sha256, file.length, open).await
    }

    async fn put<F, S>(&self, sha256: Sha256Digest, length: u64, body: impl Fn() -> F) -> Result<(), ArtifactsError>
    where
        F: Future<Output = Result<S, FileError>>,
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let mut attempt = 0;
        loop {
            let request = self
                .client
                .put(self.url(sha256)?)
                .header(reqwest::header::CONTENT_LENGTH, length);
            let (moved, seen) = watch::channel(());
            let pieces = body().await?.map(move |piece| {
                moved.send_replace(());
                piece
            });
            let sending = request.body(Body::wrap_stream(pieces)).send();
            let sent = unless_silent(patience::of_receiver(length), seen, sending).await;
            match sent {
                Some(Ok(response)) if response.status().is_success() => return Ok(()),
                Some(Ok(response)) if !response.status().is_server_error() || attempt >= DOWNLOAD_FRUITLESS_MAX => {
                    return Err(refused(sha256, response).await);
                }
                Some(Err(source)) if attempt >= DOWNLOAD_FRUITLESS_MAX => {
                    return Err(ArtifactsError::Connection { sha256, source });
                }
                None if attempt >= DOWNLOAD_FRUITLESS_MAX => return Err(ArtifactsError::Silent { sha256 }),
                _ => {}
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }
}

async fn refused(sha256: Sha256Digest, mut response: reqwest::Response) -> ArtifactsError {
    let first = response.chunk().await.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&first[..first.len().min(512)])
        .trim()
        .to_owned();
    ArtifactsError::Status {
        sha256,
        status: response.status(),
        text,
    }
}
