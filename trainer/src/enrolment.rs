//! Enrolment and renewal: how the trainer gets its certificate and keeps it current.

use std::time::Duration;

use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::{
    EnrolRequest, EnrolStart, Evidence, IssuedIdentity, NoEvidence, RenewRequest, RenewStart, enrol_request,
    enrol_response, evidence, renew_request, renew_response,
};
use fieldfare_tls::{
    BundleError, ConnectError, ExpectedServer, Identity, IdentityError, IdentityHandle, JoinRole, JoinToken, KeyError,
    Link, PrivateKey, ServerTrust, StorageError, TimeSource, TokenError, TrustBundle, connect,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::config::{self, SCHEMA, TrainerConfig};
use crate::folder::{self, Folder, FolderError};
use crate::limits::{APPROVAL_TIMEOUT, ENROLMENT_TIMEOUT};

/// Why a trainer could not enrol or renew.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is none.
    #[error("the join token")]
    Token(#[from] TokenError),
    /// The token lets somebody else join.
    #[error("the join token is for a {found}, expected one for a trainer")]
    Role {
        /// For whom.
        found: JoinRole,
    },
    /// The folder holds an identity already.
    #[error("{path} is enrolled already; use another folder")]
    EnrolledAlready {
        /// Which folder.
        path: String,
    },
    /// No controller could be reached.
    #[error("cannot connect to a controller")]
    Connect(#[from] ConnectError),
    /// The controller refused.
    #[error("the controller refused: {}", .0.message())]
    Refused(#[from] Box<Status>),
    /// The controller did not follow the protocol.
    #[error("the controller answered {found}, expected {expected}")]
    Protocol {
        /// What it said.
        found: &'static str,
        /// What should come.
        expected: &'static str,
    },
    /// The controller did not answer.
    #[error("the controller did not answer within {ENROLMENT_TIMEOUT:?}")]
    Silent,
    /// Nobody approved the trainer.
    #[error("no operator approved this trainer (key digest {key_digest}) within {APPROVAL_TIMEOUT:?}")]
    NotApproved {
        /// What the operator compares.
        key_digest: String,
    },
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The issued certificate is not usable.
    #[error("the issued identity")]
    Identity(#[from] IdentityError),
    /// The issued authorities are not usable.
    #[error("the issued authorities")]
    Authorities(#[from] BundleError),
    /// The issued authorities are not the one that the token names.
    #[error("the controller issued other authorities than the one that the join token names")]
    OtherAuthorities,
    /// The identity could not be saved.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration could not be saved.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Enrols this trainer: a key, a certificate from the controller that the token pins, and the configuration.
///
/// # Errors
/// [`EnrolError`]; the folder is not enrolled then.
pub async fn enrol(options: &config::Enrol, time: &TimeSource) -> Result<Identity, EnrolError> {
    let token = JoinToken::parse(&options.token)?;
    if token.role != JoinRole::Trainer {
        return Err(EnrolError::Role { found: token.role });
    }
    let folder = Folder::new(&options.dir);
    if Identity::load(&folder.identity())?.is_some() {
        return Err(EnrolError::EnrolledAlready {
            path: folder.path().display().to_string(),
        });
    }
    folder.create()?;
    let identity = join(&token, &options.name, time).await?;
    let endpoints = token.endpoints.iter().map(ToString::to_string).collect();
    let config = TrainerConfig {
        schema: SCHEMA,
        name: options.name.clone(),
        endpoints,
    };
    // The identity is last: a folder with an identity has everything else.
    folder::replace_json(&folder.config(), &config)?;
    identity.save(&folder.identity())?;
    Ok(identity)
}

async fn first_reachable(token: &JoinToken, time: &TimeSource) -> Result<Link, EnrolError> {
    let trust = ServerTrust::PinnedAuthority(token.authority);
    let mut last = None;
    for endpoint in &token.endpoints {
        match connect(endpoint, None, &trust, time).await {
            Ok(link) => return Ok(link),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(EnrolError::Silent, EnrolError::Connect))
}

async fn join(token: &JoinToken, name: &str, time: &TimeSource) -> Result<Identity, EnrolError> {
    let key = PrivateKey::generate()?;
    let start = EnrolStart {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_der: key.certificate_request()?,
        display_name: name.to_owned(),
        ..EnrolStart::default()
    };
    let link = first_reachable(token, time).await?;
    let begun = tokio::time::Instant::now();
    loop {
        match ask(&link, start.clone()).await? {
            enrol_response::Step::Issued(issued) => {
                let identity = issued_identity(key, &issued)?;
                let mut authorities = identity.bundle().authorities().iter();
                let pinned = authorities.any(|authority| authority.digest() == token.authority);
                return if pinned {
                    Ok(identity)
                } else {
                    Err(EnrolError::OtherAuthorities)
                };
            }
            enrol_response::Step::Pending(pending) => {
                let key_digest = hex::encode(&pending.key_digest);
                if begun.elapsed() > APPROVAL_TIMEOUT {
                    return Err(EnrolError::NotApproved { key_digest });
                }
                tracing::info!(key_digest, "waiting for an operator's approval");
                tokio::time::sleep(Duration::from_millis(u64::from(
                    pending.retry_after_ms.clamp(200, 60_000),
                )))
                .await;
            }
            enrol_response::Step::Challenge(_) => {
                return Err(EnrolError::Protocol {
                    found: "a second challenge",
                    expected: "an identity",
                });
            }
        }
    }
}

const fn no_evidence() -> Evidence {
    Evidence {
        kind: Some(evidence::Kind::None(NoEvidence {})),
    }
}

async fn next<M>(answers: &mut Streaming<M>) -> Result<M, EnrolError> {
    let message = tokio::time::timeout(ENROLMENT_TIMEOUT, answers.message())
        .await
        .map_err(|_| EnrolError::Silent)?;
    message.map_err(Box::new)?.ok_or(EnrolError::Protocol {
        found: "nothing",
        expected: "the next step",
    })
}

fn closed<T>(_: T) -> EnrolError {
    EnrolError::Protocol {
        found: "a closed stream",
        expected: "a challenge",
    }
}

/// One pass through the challenge stream of `Enrol`.
async fn ask(link: &Link, start: EnrolStart) -> Result<enrol_response::Step, EnrolError> {
    let (steps, stream) = mpsc::channel(2);
    let step = |step| EnrolRequest { step: Some(step) };
    steps
        .send(step(enrol_request::Step::Start(start)))
        .await
        .map_err(closed)?;
    let mut client = EnrolmentClient::new(link.channel());
    let mut answers = client
        .enrol(ReceiverStream::new(stream))
        .await
        .map_err(Box::new)?
        .into_inner();
    let Some(enrol_response::Step::Challenge(_)) = next(&mut answers).await?.step else {
        return Err(EnrolError::Protocol {
            found: "another step",
            expected: "a challenge",
        });
    };
    steps
        .send(step(enrol_request::Step::Evidence(no_evidence())))
        .await
        .map_err(closed)?;
    next(&mut answers).await?.step.ok_or(EnrolError::Protocol {
        found: "an empty step",
        expected: "an identity",
    })
}

fn issued_identity(key: PrivateKey, issued: &IssuedIdentity) -> Result<Identity, EnrolError> {
    let bundle = TrustBundle::from_der(&issued.authorities_der)?;
    let chain = issued
        .chain_der
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    Ok(Identity::new(key, chain, bundle)?)
}

/// Renews the certificate with a fresh key, and saves it.
///
/// # Errors
/// [`EnrolError`]; the old identity stays then.
pub async fn renew(
    folder: &Folder,
    handle: &IdentityHandle,
    controllers: &[fieldfare_tls::Endpoint],
    time: &TimeSource,
) -> Result<Identity, EnrolError> {
    let current = handle.current();
    let link = connect_first(controllers, handle, time).await?;
    let key = PrivateKey::generate()?;
    let (steps, stream) = mpsc::channel(2);
    let step = |step| RenewRequest { step: Some(step) };
    let start = RenewStart {
        csr_der: key.certificate_request()?,
    };
    steps
        .send(step(renew_request::Step::Start(start)))
        .await
        .map_err(closed)?;
    let mut client = EnrolmentClient::new(link.channel());
    let mut answers = client
        .renew(ReceiverStream::new(stream))
        .await
        .map_err(Box::new)?
        .into_inner();
    let Some(renew_response::Step::Challenge(_)) = next(&mut answers).await?.step else {
        return Err(EnrolError::Protocol {
            found: "another step",
            expected: "a challenge",
        });
    };
    steps
        .send(step(renew_request::Step::Evidence(no_evidence())))
        .await
        .map_err(closed)?;
    let Some(renew_response::Step::Issued(issued)) = next(&mut answers).await?.step else {
        return Err(EnrolError::Protocol {
            found: "another step",
            expected: "an identity",
        });
    };
    let identity = issued_identity(key, &issued)?;
    if identity.principal() != current.principal() {
        return Err(EnrolError::Protocol {
            found: "another principal",
            expected: "our own",
        });
    }
    identity.save(&folder.identity())?;
    handle.replace(identity.clone());
    Ok(identity)
}

/// A link to the first controller that can be reached and is genuine.
pub(crate) async fn connect_first(
    controllers: &[fieldfare_tls::Endpoint],
    handle: &IdentityHandle,
    time: &TimeSource,
) -> Result<Link, EnrolError> {
    let trust = ServerTrust::by(&handle.current(), ExpectedServer::Controller);
    let mut last = EnrolError::Silent;
    for endpoint in controllers {
        match connect(endpoint, Some(handle), &trust, time).await {
            Ok(link) => return Ok(link),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
