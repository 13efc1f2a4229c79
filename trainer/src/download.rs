//! Downloads into a file: by ranges, taken up again where they broke, never longer than announced.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_member::patience::{Pace, TooSlow};
use fieldfare_release::{ArtifactError, Sha256Digest};
use fieldfare_tls::limits::CONNECT_TIMEOUT;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use tokio::time::Instant;

use crate::gateway::backoff;
use crate::limits::{DOWNLOAD_FRUITLESS_MAX, DOWNLOAD_SILENCE, SOURCE_BYTES_MAX};

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server says no, and will say it again.
    #[error("{url}: the server answers {status}{hint}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What could help.
        hint: &'static str,
    },
    /// The server contradicts itself about what it sends.
    #[error("{url}: {problem}")]
    Lies {
        /// What was asked for.
        url: String,
        /// In which way.
        problem: String,
    },
    /// The connection kept breaking without a single new byte.
    #[error("{url}: no byte came in {DOWNLOAD_FRUITLESS_MAX} attempts, after {received} bytes")]
    Fruitless {
        /// What was asked for.
        url: String,
        /// Bytes on disk; a later download goes on from there.
        received: u64,
        /// What happened last.
        #[source]
        source: Broken,
    },
    /// Hardly anything came, in however many pieces and attempts.
    #[error("{url} comes too slowly, after {received} bytes")]
    Trickles {
        /// What was asked for.
        url: String,
        /// Bytes on disk; a later download goes on from there.
        received: u64,
        /// How slowly.
        #[source]
        source: TooSlow,
    },
    /// The bytes are not those that were promised.
    #[error("{url}: not the promised bytes")]
    Content {
        /// What was asked for.
        url: String,
        /// What is wrong.
        #[source]
        source: ArtifactError,
    },
    /// The file is larger than anything that is imported.
    #[error("{url}: {length} bytes, more than the limit of {SOURCE_BYTES_MAX}")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Its length.
        length: u64,
    },
    /// The system refuses to write.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why one attempt ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection failed.
    #[error("the connection broke")]
    Connection(#[from] reqwest::Error),
    /// Nothing came for too long.
    #[error("no bytes came for {DOWNLOAD_SILENCE:?}")]
    Silent,
    /// The server is in trouble.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// The body ended before its announced length.
    #[error("the body ended early")]
    Short,
    /// Hardly anything came.
    #[error("it comes too slowly")]
    Trickles(#[from] TooSlow),
}

/// What a download must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly these bytes.
    Exactly {
        /// Their digest.
        sha256: Sha256Digest,
        /// Their number.
        length: u64,
    },
    /// Whatever the server has there.
    Anything,
}

/// A file that was downloaded whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Where it lies.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its length, in bytes.
    pub length: u64,
}

/// One file on its way.
pub struct Download<'a> {
    /// Who fetches.
    pub client: &'a Client,
    /// What is fetched.
    pub url: String,
    /// Access token, sent to the server of `url` only.
    pub bearer: Option<&'a str>,
    /// Where it comes to lie once it is whole; until then, beside it with the ending `.part`.
    pub path: &'a Path,
    /// What it must be.
    pub expected: Expected,
}

enum Ended {
    Whole,
    Broken(Broken),
}

impl Download<'_> {
    /// Downloads. `progress` learns the bytes on disk and the length, where it is known.
    ///
    /// # Errors
    /// [`DownloadError`]. What has arrived stays for a later attempt, unless it turned out to be wrong.
    pub async fn run(&self, mut progress: impl FnMut(u64, u64)) -> Result<Downloaded, DownloadError> {
        if self.path.exists() {
            return self.verified(self.path);
        }
        let mut total = match self.expected {
            Expected::Exactly { length, .. } => Some(length),
            Expected::Anything => None,
        };
        let (mut fruitless, mut pace) = (0, Pace::new(Instant::now()));
        loop {
            let before = self.received();
            let ended = self.attempt(&mut total, &mut pace, &mut progress).await?;
            let received = self.received();
            let source = match ended {
                Ended::Whole => return self.finish(),
                Ended::Broken(Broken::Trickles(source)) => {
                    return Err(DownloadError::Trickles {
                        url: self.url.clone(),
                        received,
                        source,
                    });
                }
                Ended::Broken(broken) => broken,
            };
            fruitless = if received > before { 0 } else { fruitless + 1 };
            if fruitless >= DOWNLOAD_FRUITLESS_MAX {
                return Err(DownloadError::Fruitless {
                    url: self.url.clone(),
                    received,
                    source,
                });
            }
            tracing::info!(url = self.url, received, why = %source, "the download broke; going on from there");
            tokio::time::sleep(backoff(fruitless)).await;
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    }

    fn part(&self) -> PathBuf {
        self.beside(".part")
    }

    fn received(&self) -> u64 {
        fs::metadata(self.part()).map_or(0, |file| file.len())
    }

    fn lies(&self, problem: impl Into<String>) -> DownloadError {
        DownloadError::Lies {
            url: self.url.clone(),
            problem: problem.into(),
        }
    }

    async fn attempt(
        &self,
        total: &mut Option<u64>,
        pace: &mut Pace,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Ended, DownloadError> {
        let received = self.received();
        if received > 0 && *total == Some(received) {
            return Ok(Ended::Whole);
        }
        let response = match tokio::time::timeout(DOWNLOAD_SILENCE, self.ask(received)?.send()).await {
            Err(_) => return Ok(Ended::Broken(Broken::Silent)),
            Ok(Err(error)) => return Ok(Ended::Broken(error.into())),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let start = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => received,
            // Nothing is left after what we have: it is whole, if the server means the same file.
            StatusCode::RANGE_NOT_SATISFIABLE if received > 0 => {
                files::remove(&self.part())?;
                return Ok(Ended::Broken(Broken::Status(status)));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(Ended::Broken(Broken::Status(status)));
            }
            status => return Err(self.refused(status)),
        };
        let announced = self.announced(&response, start)?;
        match *total {
            Some(known) if known != announced => {
                return Err(self.lies(format!("the file has {announced} bytes, and {known} were expected")));
            }
            _ if announced > SOURCE_BYTES_MAX => {
                return Err(DownloadError::TooLong {
                    url: self.url.clone(),
                    length: announced,
                });
            }
            _ => *total = Some(announced),
        }
        self.remember_version(response.headers())?;
        self.receive(response, (start, announced), pace, progress).await
    }

    fn ask(&self, received: u64) -> Result<reqwest::RequestBuilder, DownloadError> {
        let mut request = self.client.get(&self.url);
        if let Some(token) = self.bearer {
            request = request.bearer_auth(token);
        }
        if received > 0 {
            request = request.header(RANGE, format!("bytes={received}-"));
            // Another version of the file begins anew instead of being glued to the old one.
            if let Some(version) = files::read_text(&self.beside(".etag"))? {
                request = request.header(IF_RANGE, version);
            }
        }
        Ok(request)
    }

    fn refused(&self, status: StatusCode) -> DownloadError {
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.bearer.is_none() => {
                "; if the repository is gated, start the trainer with HF_TOKEN"
            }
            _ => "",
        };
        DownloadError::Refused {
            url: self.url.clone(),
            status,
            hint,
        }
    }

    /// The length of the whole file, as the head of the answer says it.
    fn announced(&self, response: &Response, start: u64) -> Result<u64, DownloadError> {
        if response.status() == StatusCode::OK {
            return response
                .content_length()
                .ok_or_else(|| self.lies("the answer has no Content-Length"));
        }
        let text = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let parse = || {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            Some((
                first.parse::<u64>().ok()?,
                last.parse::<u64>().ok()?,
                total.parse::<u64>().ok()?,
            ))
        };
        match parse() {
            Some((first, last, total)) if first == start && last.checked_add(1) == Some(total) => Ok(total),
            _ => Err(self.lies(format!(
                "it was asked for bytes from {start} on and answers Content-Range {text:?}"
            ))),
        }
    }

    /// Keeps the version of the file, so that a later process goes on with no other one.
    fn remember_version(&self, headers: &HeaderMap) -> Result<(), DownloadError> {
        let strong = |text: &&str| text.starts_with('"');
        match headers.get(ETAG).and_then(|value| value.to_str().ok()).filter(strong) {
            Some(version) => Ok(files::replace(
                &self.beside(".etag"),
                version.as_bytes(),
                Secrecy::Secret,
            )?),
            None => Ok(()),
        }
    }

    async fn receive(
        &self,
        mut response: Response,
        (start, announced): (u64, u64),
        pace: &mut Pace,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Ended, DownloadError> {
        let part = self.part();
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&part)
            .map_err(FileError::of("open", &part))?;
        file.set_len(start).map_err(FileError::of("cut", &part))?;
        let mut received = start;
        loop {
            let chunk = match tokio::time::timeout(DOWNLOAD_SILENCE, response.chunk()).await {
                Err(_) => return Ok(Ended::Broken(Broken::Silent)),
                Ok(Err(error)) => return Ok(Ended::Broken(error.into())),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            received += chunk.len() as u64;
            if received > announced {
                drop(file);
                files::remove(&part)?;
                return Err(self.lies(format!("it announced {announced} bytes and sends more")));
            }
            file.write_all(&chunk).map_err(FileError::of("write", &part))?;
            progress(received, announced);
            if let Err(slow) = pace.note(Instant::now(), chunk.len() as u64) {
                return Ok(Ended::Broken(slow.into()));
            }
        }
        file.sync_all().map_err(FileError::of("sync", &part))?;
        Ok(if received == announced {
            Ended::Whole
        } else {
            Ended::Broken(Broken::Short)
        })
    }

    fn finish(&self) -> Result<Downloaded, DownloadError> {
        let part = self.part();
        let found = match self.verified(&part) {
            Err(DownloadError::Content { url, source }) => {
                files::remove(&part)?;
                return Err(DownloadError::Content { url, source });
            }
            found => found?,
        };
        files::rename(&part, self.path)?;
        Ok(Downloaded {
            path: self.path.to_owned(),
            ..found
        })
    }

    fn verified(&self, path: &Path) -> Result<Downloaded, DownloadError> {
        let (found, length) = digest_of(path)?;
        if let Expected::Exactly { sha256, length: listed } = self.expected {
            let content = |source| DownloadError::Content {
                url: self.url.clone(),
                source,
            };
            if length < listed {
                return Err(content(ArtifactError::TooShort {
                    listed,
                    received: length,
                }));
            }
            if found != sha256 {
                return Err(content(ArtifactError::WrongDigest { listed: sha256, found }));
            }
        }
        Ok(Downloaded {
            path: path.to_owned(),
            sha256: found,
            length,
        })
    }
}

/// Digest and length of a file.
pub(crate) fn digest_of(path: &Path) -> Result<(Sha256Digest, u64), FileError> {
    let mut file = File::open(path).map_err(FileError::of("open", path))?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer).map_err(FileError::of("read", path))?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
        length += read as u64;
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok((Sha256Digest::from_bytes(bytes), length))
}

/// A client for the open internet: certificates by the system's authorities, HTTP/1.1, bounded waiting.
///
/// # Errors
/// The TLS library has no usable settings.
pub fn internet_client() -> Result<Client, reqwest::Error> {
    // Installed already where this is not the first client of the process; either way it is ring's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(5))
        .user_agent(concat!("fieldfare-trainer/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[cfg(test)]
mod tests;
