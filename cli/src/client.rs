//! Calls to a controller: gRPC, and plain HTTPS for artifacts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use fieldfare_member::enrolment::renewed;
use fieldfare_member::patience::{self, unless_silent};
use fieldfare_proto::v1;
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_release::{ArtifactVerifier, Sha256Digest};
use fieldfare_tls::limits::{CONNECT_TIMEOUT, IDLE_CONNECTION, PEER_SILENCE};
use fieldfare_tls::{ExpectedServer, IdentityHandle, ServerTrust, connect, https_config};
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::clock;
use crate::context::Context;
use crate::exit::Advice;
use crate::limits::{CALL_TIMEOUT, UPLOAD_CHUNK};

/// A connected operator.
#[derive(Clone, Debug)]
pub struct Client {
    operator: OperatorClient<Channel>,
    artifacts: String,
    http: reqwest::Client,
    timeout: Duration,
}

impl Client {
    /// Connects with the context's credential, which is renewed when more than half of its life is over.
    ///
    /// # Errors
    /// The controller cannot be reached, or is not the one of this fleet.
    pub async fn connect(context: &Context, timeout: Option<Duration>) -> Result<Self> {
        let endpoint = context.grpc()?;
        let identity = IdentityHandle::new(context.identity()?);
        let trust = ServerTrust::by(&identity.current(), ExpectedServer::Controller);
        let time = clock::source();
        let unreachable = || {
            let what = format!("no controller answers at {endpoint}");
            Advice::new(
                what,
                "start it with `fieldfare-controller run --dir DIR`, or pick another context",
            )
        };
        let link = connect(&endpoint, Some(&identity), &trust, &time)
            .await
            .with_context(unreachable)?;
        if identity.current().needs_renewal(clock::now()) {
            let renewed = renewed(link.channel(), &identity.current())
                .await
                .context("renewing the credential")?;
            context.replace_identity(&renewed)?;
            identity.replace(renewed);
        }
        let tls = https_config(Some(&identity), &trust, &time)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_CONNECTION)
            .build()
            .context("the HTTPS client")?;
        Ok(Self {
            operator: OperatorClient::new(link.channel()),
            artifacts: context.endpoints()?.artifacts,
            http,
            timeout: timeout.unwrap_or(CALL_TIMEOUT),
        })
    }

    /// The generated client, for calls that stream without an end.
    pub fn streams(&self) -> OperatorClient<Channel> {
        self.operator.clone()
    }

    /// One call with an answer, within the time limit: `client.call(request, |mut api, request| async move { api.x(request).await })`.
    ///
    /// # Errors
    /// What the controller says.
    pub async fn call<M, A, F>(
        &self,
        message: M,
        call: impl FnOnce(OperatorClient<Channel>, Request<M>) -> F,
    ) -> Result<A>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        let answer = timeout(self.timeout, call(self.operator.clone(), request)).await;
        let late = |_| anyhow!("no answer within {} s (see --timeout)", self.timeout.as_secs_f64());
        Ok(answer.map_err(late)?.map_err(refused)?.into_inner())
    }

    /// Uploads a file by its digest; a file that is already there is not sent again. `progress` is told the bytes sent so far.
    ///
    /// # Errors
    /// The file cannot be read, or the controller does not take it.
    pub async fn upload(
        &self,
        path: &Path,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<v1::UploadedArtifact> {
        let (sha256, length) = digest(path).await?;
        let url = format!("{}/blobs/sha256/{sha256}", self.artifacts);
        let artifact = v1::UploadedArtifact {
            sha256: sha256.as_bytes().to_vec(),
            length_bytes: length,
            file_name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        let present = self
            .http
            .head(&url)
            .timeout(self.timeout)
            .send()
            .await
            .context("asking for the artifact")?;
        if present.status().is_success() {
            progress(length, length);
            return Ok(artifact);
        }
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("opening {}", path.display()))?;
        let (moved, seen) = watch::channel(());
        let mut sent = 0;
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, UPLOAD_CHUNK).inspect(move |chunk| {
            sent += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
            moved.send_replace(());
            progress(sent, length);
        });
        let body = reqwest::Body::wrap_stream(chunks);
        let request = self
            .http
            .put(&url)
            .header(reqwest::header::CONTENT_LENGTH, length)
            .body(body);
        let answer = unless_silent(patience::of_receiver(length), seen, request.send())
            .await
            .ok_or_else(silent)
            .and_then(|sent| Ok(sent?))
            .with_context(|| format!("uploading {}", path.display()))?;
        let status = answer.status();
        if !status.is_success() {
            bail!(
                "uploading {}: {status}: {}",
                path.display(),
                answer.text().await.unwrap_or_default().trim()
            );
        }
        Ok(artifact)
    }

    /// One file of the artifact server, of at most `limit` bytes; `None` where there is none.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or sends more than the limit.
    pub async fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let url = format!("{}/{path}", self.artifacts);
        let answer = self
            .http
            .get(&url)
            .timeout(self.timeout)
            .send()
            .await
            .with_context(|| format!("getting {url}"))?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut answer = answer.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.with_context(|| format!("getting {url}"))? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                bail!("{url} has more than the {limit} bytes that are allowed");
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Reads an artifact of the release repository to its end and checks it, keeping nothing.
    ///
    /// # Errors
    /// The artifact is missing, or not what it should be.
    pub async fn check_target(&self, stored_as: &str, length: u64, sha256: Sha256Digest) -> Result<()> {
        let url = format!("{}/targets/{stored_as}", self.artifacts);
        let getting = || format!("getting {url}");
        let answer = timeout(PEER_SILENCE, self.http.get(&url).send()).await;
        let answer = answer.map_err(|_| silent()).with_context(getting)?;
        let mut answer = answer.with_context(getting)?.error_for_status()?;
        let mut verifier = ArtifactVerifier::new(length, sha256);
        loop {
            let chunk = timeout(PEER_SILENCE, answer.chunk()).await;
            let chunk = chunk.map_err(|_| silent()).with_context(getting)?;
            let Some(chunk) = chunk.with_context(getting)? else {
                break;
            };
            verifier.update(&chunk)?;
        }
        Ok(verifier.finish()?)
    }
}

fn silent() -> anyhow::Error {
    anyhow!("the controller's artifact server is silent")
}

/// What a status means, in words; gRPC's own code follows where the words alone would not do.
pub fn refused(status: Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::Unavailable => Advice::new(
            format!("the controller is gone: {}", status.message()),
            "see its log, then try again",
        )
        .into(),
        tonic::Code::Unimplemented => anyhow!("the controller does not know this call; it is older than this command"),
        _ => anyhow!("{}", status.message()),
    }
}

async fn digest(path: &Path) -> Result<(Sha256Digest, u64)> {
    let mut file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("opening {}", path.display()))?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; UPLOAD_CHUNK];
    let mut length = 0;
    loop {
        let read = file
            .read(&mut buffer)
            .await
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
    let bytes = <[u8; 32]>::try_from(hash.finish().as_ref()).unwrap_or_default();
    Ok((Sha256Digest::from_bytes(bytes), length))
}
