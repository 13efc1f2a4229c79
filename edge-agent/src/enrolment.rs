//! Enrolment and renewal: how the device gets its certificate and keeps it current.

use std::time::Duration;

use fieldfare_fleet::limits::MAX_NAME_BYTES;
use fieldfare_fleet::{ByteSize, CapabilityProfile, reference_profile};
use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::{
    EnrolRequest, EnrolStart, Evidence, IssuedIdentity, NoEvidence, RenewRequest, RenewStart, enrol_request,
    enrol_response, evidence, renew_request, renew_response,
};
use fieldfare_tls::{
    ConnectError, Endpoint, ExpectedServer, Identity, IdentityError, IdentityHandle, JoinRole, JoinToken, KeyError,
    Link, PrivateKey, ServerTrust, StorageError, TimeSource, TokenError, TrustBundle, connect,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::args;
use crate::config::{AgentConfig, Consent, SCHEMA, Settings, parse_labels};
use crate::folder::{self, Folder, FolderError};
use crate::limits::{APPROVAL_TIMEOUT, ENROLMENT_TIMEOUT};
use crate::measure;

/// Why a device could not enrol or renew.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is none.
    #[error("the join token")]
    Token(#[from] TokenError),
    /// The token lets somebody else join.
    #[error("the join token is for a {found}, expected one for a device")]
    Role {
        /// For whom.
        found: JoinRole,
    },
    /// An argument cannot be.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which one.
        argument: &'static str,
        /// What is wrong.
        reason: String,
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
    /// Nobody approved the device.
    #[error("no operator approved this device (key digest {key_digest}) within {APPROVAL_TIMEOUT:?}")]
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
    Authorities(#[from] fieldfare_tls::BundleError),
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

/// Enrols this device: a key, a certificate from the controller that the token pins, configuration and settings.
///
/// # Errors
/// [`EnrolError`]; the folder is not enrolled then.
pub async fn enrol(arguments: &args::Enrol, time: &TimeSource) -> Result<Identity, EnrolError> {
    let token = JoinToken::parse(&arguments.token)?;
    if token.role != JoinRole::Device {
        return Err(EnrolError::Role { found: token.role });
    }
    let folder = Folder::new(&arguments.dir);
    if Identity::load(&folder.identity())?.is_some() {
        return Err(EnrolError::EnrolledAlready {
            path: folder.path().display().to_string(),
        });
    }
    folder.create()?;
    let (config, settings) = configuration(arguments, &token, &folder)?;
    let identity = join(&token, &config, time).await?;
    // The identity is last: a folder with an identity has everything else.
    folder::replace_json(&folder.config(), &config)?;
    folder::replace_json(&folder.settings(), &settings)?;
    identity.save(&folder.identity())?;
    Ok(identity)
}

fn argument(argument: &'static str) -> impl Fn(String) -> EnrolError {
    move |reason| EnrolError::Argument { argument, reason }
}

fn configuration(
    arguments: &args::Enrol,
    token: &JoinToken,
    folder: &Folder,
) -> Result<(AgentConfig, Settings), EnrolError> {
    let mut profile = profile(&arguments.profile, folder).map_err(argument("--profile"))?;
    if let Some(bytes) = arguments.model_memory {
        profile.model_memory = ByteSize::new(bytes);
    }
    profile
        .validate()
        .map_err(|error| argument("--model-memory")(error.to_string()))?;
    let consent = match arguments.consent {
        args::Answer::Yes => Consent::Given,
        args::Answer::No => Consent::Withheld,
    };
    let config = AgentConfig {
        schema: SCHEMA,
        name: arguments.name.clone().unwrap_or_else(host_name),
        labels: parse_labels(&arguments.labels).map_err(argument("--labels"))?,
        endpoints: token.endpoints.iter().map(ToString::to_string).collect(),
        root_sha256: token.root.sha256,
        root_version: token.root.version,
        profile: profile.clone(),
    };
    Ok((config, Settings::new(consent, profile.model_memory)))
}

fn profile(name: &str, folder: &Folder) -> Result<CapabilityProfile, String> {
    if name == "measured" {
        return measure::profile(folder.path()).map_err(|error| error.to_string());
    }
    reference_profile(name).ok_or_else(|| {
        let known: Vec<_> = fieldfare_fleet::reference_profiles()
            .into_iter()
            .map(|profile| profile.device_model)
            .collect();
        format!("{name:?} is neither `measured` nor one of {}", known.join(", "))
    })
}

/// The host's name as a DNS label.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let label: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_NAME_BYTES)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "device".to_owned()
    } else {
        label.to_owned()
    }
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

async fn join(token: &JoinToken, config: &AgentConfig, time: &TimeSource) -> Result<Identity, EnrolError> {
    let key = PrivateKey::generate()?;
    let start = EnrolStart {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_der: key.certificate_request()?,
        display_name: config.name.clone(),
        profile: Some((&config.profile).into()),
        labels: config
            .labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    };
    let link = first_reachable(token, time).await?;
    let begun = tokio::time::Instant::now();
    loop {
        match ask(&link, start.clone()).await? {
            enrol_response::Step::Issued(issued) => {
                let identity = issued_identity(key, &issued)?;
                let pinned = identity
                    .bundle()
                    .authorities()
                    .iter()
                    .any(|authority| authority.digest() == token.authority);
                return if pinned {
                    Ok(identity)
                } else {
                    Err(EnrolError::OtherAuthorities)
                };
            }
            enrol_response::Step::Pending(pending) => {
                if begun.elapsed() > APPROVAL_TIMEOUT {
                    return Err(EnrolError::NotApproved {
                        key_digest: hex::encode(pending.key_digest),
                    });
                }
                tracing::info!(
                    key_digest = hex::encode(&pending.key_digest),
                    "waiting for an operator's approval"
                );
                let wait = Duration::from_millis(u64::from(pending.retry_after_ms.clamp(200, 60_000)));
                tokio::time::sleep(wait).await;
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

/// One pass through the challenge stream of `Enrol`.
async fn ask(link: &Link, start: EnrolStart) -> Result<enrol_response::Step, EnrolError> {
    let (steps, stream) = mpsc::channel(2);
    let step = |step| EnrolRequest { step: Some(step) };
    let gone = |_| EnrolError::Protocol {
        found: "a closed stream",
        expected: "a challenge",
    };
    steps
        .send(step(enrol_request::Step::Start(start)))
        .await
        .map_err(gone)?;
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
        .map_err(gone)?;
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
        .map(|der| rustls::pki_types::CertificateDer::from(der.clone()))
        .collect();
    Ok(Identity::new(key, chain, bundle)?)
}

/// Renews the certificate with a fresh key, and saves it. Works also with an expired certificate within the grace that the
/// controller allows.
///
/// # Errors
/// [`EnrolError`]; the old identity stays then.
pub async fn renew(
    folder: &Folder,
    handle: &IdentityHandle,
    gateway: &Endpoint,
    time: &TimeSource,
) -> Result<Identity, EnrolError> {
    let current = handle.current();
    let trust = ServerTrust::by(&current, ExpectedServer::Controller);
    let link = connect(gateway, Some(handle), &trust, time).await?;
    let key = PrivateKey::generate()?;
    let (steps, stream) = mpsc::channel(2);
    let step = |step| RenewRequest { step: Some(step) };
    let gone = |_| EnrolError::Protocol {
        found: "a closed stream",
        expected: "a challenge",
    };
    let start = RenewStart {
        csr_der: key.certificate_request()?,
    };
    steps
        .send(step(renew_request::Step::Start(start)))
        .await
        .map_err(gone)?;
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
        .map_err(gone)?;
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
