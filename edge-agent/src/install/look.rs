//! A look at the release repository that keeps nothing of what it sees.

use fieldfare_fleet::Timestamp;
use fieldfare_release::UnixSeconds;
use fieldfare_release::limits::{MAX_ROOT_BYTES, MAX_TIMESTAMP_BYTES};
use fieldfare_release::tuf::{self, Purpose, Signed, TrustedState, Update};
use reqwest::{StatusCode, header};

use super::repository::{RemoteRepository, RepositoryError, collect};

const TIMESTAMP: &str = "metadata/timestamp.json";

/// What the repository's server shows of itself.
#[derive(Debug)]
pub struct Looked {
    /// When the server says that it is.
    pub server_time: Option<Timestamp>,
    /// When the repository's newest metadata expire; nothing where nothing is published yet.
    pub expires: Option<UnixSeconds>,
    /// Whether this device would install by these metadata now.
    pub update: Result<(), RepositoryError>,
}

/// The time of an HTTP header (RFC 9110, section 5.6.7).
fn http_date(headers: &header::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let since = httpdate::parse_http_date(text)
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    Some(Timestamp::UNIX_EPOCH.saturating_add(since))
}

impl RemoteRepository {
    /// Asks for the newest metadata and judges them, as an installation would at the time `now`. What is trusted stays as it is.
    ///
    /// # Errors
    /// [`RepositoryError`]: the server cannot be reached.
    pub async fn look(&self, now: UnixSeconds) -> Result<Looked, RepositoryError> {
        let response = self.get(TIMESTAMP, 0).await?;
        let server_time = http_date(response.headers());
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Looked {
                server_time,
                expires: None,
                update: Ok(()),
            });
        }
        let bytes = collect(response.bytes_stream(), TIMESTAMP, MAX_TIMESTAMP_BYTES).await?;
        let timestamp = Signed::<tuf::Timestamp>::read(&bytes).ok();
        Ok(Looked {
            server_time,
            expires: timestamp.map(|file| file.payload().header.expires),
            update: self.would_update(now).await,
        })
    }

    async fn would_update(&self, now: UnixSeconds) -> Result<(), RepositoryError> {
        let known = self.trust.turn().await.read()?;
        let state = match known {
            Some(state) => state,
            None => {
                let name = format!("metadata/{}.root.json", self.root.0);
                let root = self.small(&name, MAX_ROOT_BYTES).await?;
                let status = StatusCode::NOT_FOUND;
                TrustedState::pinned(&root.ok_or(RepositoryError::Status { name, status })?, &self.root.1)?
            }
        };
        self.walk(&mut Update::begin(state, now, Purpose::Install)).await
    }
}
