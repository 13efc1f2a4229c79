//! The release repository over HTTPS: what may be installed, and its bytes.

use fieldfare_files::FileError;
use fieldfare_member::patience::TooSlow;
use fieldfare_release::limits::{MAX_MANIFEST_BYTES, MAX_ROOT_BYTES};
use fieldfare_release::tuf::{
    FileRequest, ListedTarget, Lookup, Purpose, TrustError, TrustedState, Update, UpdateError, VerifiedRepository,
};
use fieldfare_release::{ArtifactError, ArtifactVerifier, ManifestError, ReleaseManifest, Sha256Digest, TargetName};
use fieldfare_tls::limits::{CONNECT_TIMEOUT, IDLE_CONNECTION};
use fieldfare_tls::{ConnectError, Endpoint, ExpectedServer, IdentityHandle, ServerTrust, TimeSource, https_config};
use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, header};
use tokio::time::timeout;

use super::trust::{KeptTrustError, TrustFile, TrustTurn};
use crate::clock::now_seconds;
use crate::config::AgentConfig;
use crate::folder::Folder;
use crate::limits::{DOWNLOAD_SILENCE, METADATA_TIMEOUT};

/// Why something of the repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No HTTPS client can be made.
    #[error("the HTTPS client")]
    Client(#[source] Box<ConnectError>),
    /// The server cannot be reached or broke off.
    #[error("cannot fetch {name}")]
    Fetch {
        /// What was asked for.
        name: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The server was silent for too long.
    #[error("no bytes of {name} came for {DOWNLOAD_SILENCE:?}")]
    Silent {
        /// What was asked for.
        name: String,
    },
    /// The server took too long over a small file.
    #[error("{name} did not come within {METADATA_TIMEOUT:?}")]
    TooSlow {
        /// What was asked for.
        name: String,
    },
    /// The server sends a large file, and hardly anything of it.
    #[error("{name} comes too slowly")]
    Trickles {
        /// What was asked for.
        name: String,
        /// How slowly.
        #[source]
        source: TooSlow,
    },
    /// The server sent less than the signed metadata list.
    #[error("the server sent {received} of the {listed} bytes of {name}")]
    BrokenOff {
        /// What was asked for.
        name: String,
        /// Bytes that came, now and before.
        received: u64,
        /// Bytes that are listed.
        listed: u64,
    },
    /// The server answered something else.
    #[error("the server answered {status} for {name}")]
    Status {
        /// What was asked for.
        name: String,
        /// The answer.
        status: StatusCode,
    },
    /// The server sends more than anything honest has.
    #[error("{name} is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// The first root is not the one that the join token promised, or what is trusted was damaged.
    #[error("the trusted state of the release repository")]
    Trust(#[source] Box<TrustError>),
    /// The metadata are refused.
    #[error("the release metadata are refused")]
    Metadata(#[source] Box<UpdateError>),
    /// The metadata do not list the target.
    #[error("the signed metadata do not list {target}")]
    NotListed {
        /// Which target.
        target: Box<TargetName>,
    },
    /// The bytes are not what is listed.
    #[error("the bytes of {name} are not what the signed metadata list")]
    Artifact {
        /// What was asked for.
        name: String,
        /// In which way.
        #[source]
        source: ArtifactError,
    },
    /// The manifest is none.
    #[error("the manifest {target}")]
    Manifest {
        /// Which one.
        target: Box<TargetName>,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The folder refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file cannot be written.
    #[error("cannot write {name}")]
    Write {
        /// What was asked for.
        name: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

impl From<UpdateError> for RepositoryError {
    fn from(error: UpdateError) -> Self {
        Self::Metadata(Box::new(error))
    }
}

impl From<TrustError> for RepositoryError {
    fn from(error: TrustError) -> Self {
        Self::Trust(Box::new(error))
    }
}

impl From<KeptTrustError> for RepositoryError {
    fn from(error: KeptTrustError) -> Self {
        match error {
            KeptTrustError::File(error) => error.into(),
            KeptTrustError::Trust(error) => error.into(),
        }
    }
}

impl RepositoryError {
    /// Whether the server was away, now or in the midst of an answer: nobody's failure, to be waited out.
    pub const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Fetch { .. }
                | Self::Silent { .. }
                | Self::TooSlow { .. }
                | Self::Trickles { .. }
                | Self::BrokenOff { .. }
        )
    }

    /// Whether it is this device's disk that refuses.
    pub const fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::File(_))
    }

    /// Whether trying the same again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Write { .. } | Self::File(_) | Self::Client(_) => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            // Bytes of a name that contains their digest do not change, but a proxy may have broken these.
            Self::Artifact { .. } => true,
            _ => self.is_outage(),
        }
    }
}

/// A release that may be installed: signed, unexpired and listed.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest.
    pub manifest: ReleaseManifest,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// The repository behind one artifact endpoint.
#[derive(Clone, Debug)]
pub struct RemoteRepository {
    client: Client,
    base: Endpoint,
    pub(super) folder: Folder,
    pub(super) root: (u64, Sha256Digest),
    pub(super) trust: TrustFile,
}

impl RemoteRepository {
    /// A client of the artifact server of a controller.
    ///
    /// # Errors
    /// The TLS library refuses the settings.
    pub fn new(
        base: &Endpoint,
        identity: &IdentityHandle,
        config: &AgentConfig,
        folder: &Folder,
        trust: &TrustFile,
        time: &TimeSource,
    ) -> Result<Self, RepositoryError> {
        let server = ServerTrust::by(&identity.current(), ExpectedServer::Controller);
        let tls = https_config(Some(identity), &server, time)
            .map_err(Box::new)
            .map_err(RepositoryError::Client)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build()
            .map_err(|source| RepositoryError::Fetch {
                name: "anything".to_owned(),
                source,
            })?;
        let root = (
            config.root_version,
            Sha256Digest::from_bytes(*config.root_sha256.as_bytes()),
        );
        Ok(Self {
            client,
            base: base.clone(),
            folder: folder.clone(),
            root,
            trust: trust.clone(),
        })
    }

    /// Asks for a file, from a byte on.
    pub(super) async fn get(&self, path: &str, from: u64) -> Result<Response, RepositoryError> {
        let failed = |source| RepositoryError::Fetch {
            name: path.to_owned(),
            source,
        };
        let mut request = self.client.get(format!("{}/{path}", self.base));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let sent = timeout(DOWNLOAD_SILENCE, request.send()).await;
        sent.map_err(|_| RepositoryError::Silent { name: path.to_owned() })?
            .map_err(failed)
    }

    /// A small file; nothing where the server has none.
    pub(super) async fn small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, RepositoryError> {
        let response = self.get(path, 0).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => {
                return Err(RepositoryError::Status {
                    name: path.to_owned(),
                    status,
                });
            }
        }
        Ok(Some(collect(response.bytes_stream(), path, limit).await?))
    }

    /// What is trusted: as kept, or at first the root that the join token promised.
    async fn trusted(&self, turn: &TrustTurn<'_>) -> Result<TrustedState, RepositoryError> {
        if let Some(state) = turn.read()? {
            return Ok(state);
        }
        let name = format!("metadata/{}.root.json", self.root.0);
        let root = self.small(&name, MAX_ROOT_BYTES).await?;
        let root = root.ok_or(RepositoryError::Status {
            name,
            status: StatusCode::NOT_FOUND,
        })?;
        let state = TrustedState::pinned(&root, &self.root.1)?;
        turn.keep(&state)?;
        Ok(state)
    }

    async fn metadata(&self, request: &FileRequest) -> Result<Option<Vec<u8>>, RepositoryError> {
        self.small(&format!("metadata/{}", request.name), request.max_bytes)
            .await
    }

    /// Brings the metadata up to date. What was learnt is kept also when something is refused, as the specification asks.
    async fn update(&self) -> Result<VerifiedRepository, RepositoryError> {
        let turn = self.trust.turn().await;
        let mut update = Update::begin(self.trusted(&turn).await?, now_seconds(), Purpose::Install);
        let walked = self.walk(&mut update).await;
        turn.keep(update.state())?;
        drop(turn);
        walked?;
        update.finish().map_err(|_| RepositoryError::Status {
            name: "metadata".to_owned(),
            status: StatusCode::NOT_FOUND,
        })
    }

    pub(super) async fn walk(&self, update: &mut Update) -> Result<(), RepositoryError> {
        while let Some(request) = update.next_file() {
            match self.metadata(&request).await? {
                Some(bytes) => update.supply(&bytes)?,
                None => update.missing()?,
            }
        }
        Ok(())
    }

    /// What the signed metadata say of a target.
    async fn listed(&self, target: &TargetName) -> Result<ListedTarget, RepositoryError> {
        let mut repository = self.update().await?;
        loop {
            match repository.look_up(target)? {
                Lookup::Listed(listed) => return Ok(listed),
                Lookup::NotListed => {
                    return Err(RepositoryError::NotListed {
                        target: Box::new(target.clone()),
                    });
                }
                Lookup::Needs(request) => {
                    let name = request.file.name.clone();
                    let bytes = self.metadata(&request.file).await?;
                    let bytes = bytes.ok_or(RepositoryError::Status {
                        name,
                        status: StatusCode::NOT_FOUND,
                    })?;
                    repository.supply(&request, &bytes)?;
                }
            }
        }
    }

    /// A release by the name of its manifest: everything about it verified against signed, unexpired metadata.
    ///
    /// # Errors
    /// [`RepositoryError`]; nothing of the release may be installed then.
    pub async fn resolve(&self, target: &TargetName) -> Result<Resolved, RepositoryError> {
        let listed = self.listed(target).await?;
        let name = format!("targets/{}", target.stored_as(&listed.sha256));
        let limit = listed.length.min(MAX_MANIFEST_BYTES as u64);
        let bytes = self.small(&name, limit).await?;
        let bytes = bytes.ok_or(RepositoryError::Status {
            name: name.clone(),
            status: StatusCode::NOT_FOUND,
        })?;
        let artifact = |source| RepositoryError::Artifact {
            name: name.clone(),
            source,
        };
        ArtifactVerifier::check(listed.length, listed.sha256, &bytes).map_err(artifact)?;
        let manifest = |source| RepositoryError::Manifest {
            target: Box::new(target.clone()),
            source,
        };
        Ok(Resolved {
            manifest: ReleaseManifest::decode(target, &bytes).map_err(manifest)?,
            bytes,
        })
    }
}

/// A whole body, which is neither long nor slow.
pub(super) async fn collect<S>(mut stream: S, name: &str, limit: u64) -> Result<Vec<u8>, RepositoryError>
where
    S: futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin,
{
    let collecting = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = next_chunk(&mut stream, name).await? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                let name = name.to_owned();
                return Err(RepositoryError::TooLong { name, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let slow = |_| RepositoryError::TooSlow { name: name.to_owned() };
    timeout(METADATA_TIMEOUT, collecting).await.map_err(slow)?
}

/// The next bytes of a body, which must not keep silent for too long.
pub(super) async fn next_chunk<S>(stream: &mut S, name: &str) -> Result<Option<bytes::Bytes>, RepositoryError>
where
    S: futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin,
{
    let chunk = timeout(DOWNLOAD_SILENCE, stream.next()).await;
    let chunk = chunk.map_err(|_| RepositoryError::Silent { name: name.to_owned() })?;
    chunk.transpose().map_err(|source| RepositoryError::Fetch {
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use futures_util::stream;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A byte each time, for ever.
    pub(crate) fn trickle(every: Duration) -> impl futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin {
        Box::pin(
            stream::repeat_with(|| Ok(bytes::Bytes::from_static(b" "))).then(move |byte| async move {
                sleep(every).await;
                byte
            }),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn attack_metadata_that_come_a_byte_at_a_time_are_given_up() {
        let begun = Instant::now();
        let slow = collect(
            trickle(DOWNLOAD_SILENCE - Duration::from_secs(1)),
            "timestamp.json",
            16_384,
        )
        .await;
        let slow = slow.unwrap_err();
        assert!(
            matches!(slow, RepositoryError::TooSlow { .. }) && slow.is_outage(),
            "{slow}"
        );
        assert_eq!(begun.elapsed(), METADATA_TIMEOUT);
        let silent = collect(trickle(DOWNLOAD_SILENCE * 2), "timestamp.json", 16_384)
            .await
            .unwrap_err();
        assert!(matches!(silent, RepositoryError::Silent { .. }), "{silent}");
        let long = collect(trickle(Duration::from_millis(1)), "timestamp.json", 100)
            .await
            .unwrap_err();
        assert!(matches!(long, RepositoryError::TooLong { limit: 100, .. }), "{long}");
    }
}
