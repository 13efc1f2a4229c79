//! How a member gets its certificate, and keeps it current. Both are a challenge stream, whose evidence is none for now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldfare_proto::v1::enrolment_client::EnrolmentClient;
use fieldfare_proto::v1::{
    CapabilityProfile, EnrolRequest, EnrolStart, Evidence, IssuedIdentity, NoEvidence, RenewRequest, RenewStart,
    enrol_request, enrol_response, evidence, renew_request, renew_response,
};
use fieldfare_tls::{
    BundleError, ConnectError, Endpoint, ExpectedServer, Identity, IdentityError, IdentityHandle, JoinRole, JoinToken,
    KeyError, Link, PrivateKey, ServerTrust, StorageError, TimeSource, TokenError, TrustBundle, connect,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::limits::{APPROVAL_TIMEOUT, APPROVAL_WAIT_RANGE, ENROLMENT_TIMEOUT, RENEWAL_CHECK, STEP_QUEUE};

/// Why somebody could not join, or not renew.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The token is none.
    #[error("the join token")]
    Token(#[from] TokenError),
    /// The token lets somebody else join.
    #[error("the join token is for a {found}, expected one for a {expected}")]
    Role {
        /// For whom it is.
        found: JoinRole,
        /// Who wants to join.
        expected: JoinRole,
    },
    /// There is an identity already.
    #[error("{path} is enrolled already; use another folder")]
    EnrolledAlready {
        /// Where.
        path: String,
    },
    /// No controller could be reached.
    #[error("cannot connect to a controller")]
    Connect(#[from] ConnectError),
    /// No controller is known.
    #[error("no controller is known")]
    NoController,
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
    /// Nobody approved the applicant.
    #[error("no operator approved this {role} (key digest {key_digest}) within {APPROVAL_TIMEOUT:?}")]
    NotApproved {
        /// Who applied.
        role: JoinRole,
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
    /// The identity could not be saved or loaded.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What an applicant tells of itself.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// As what it joins.
    pub role: JoinRole,
    /// The name that operators see.
    pub display_name: String,
    /// What it is and can do: a device's alone.
    pub profile: Option<CapabilityProfile>,
    /// Labels that selectors match.
    pub labels: BTreeMap<String, String>,
}

/// Reads a join token for `role`, and sees that no identity is in the folder yet.
///
/// # Errors
/// [`EnrolmentError::Token`], [`EnrolmentError::Role`], [`EnrolmentError::EnrolledAlready`]; or the folder cannot be read.
pub fn admit(token: &str, role: JoinRole, identity_folder: &Path) -> Result<JoinToken, EnrolmentError> {
    let token = JoinToken::parse(token)?;
    if token.role != role {
        return Err(EnrolmentError::Role {
            found: token.role,
            expected: role,
        });
    }
    if Identity::load(identity_folder)?.is_some() {
        let path = identity_folder.parent().unwrap_or(identity_folder);
        return Err(EnrolmentError::EnrolledAlready {
            path: path.display().to_string(),
        });
    }
    Ok(token)
}

/// Makes a key and gets a certificate for it from the controller that the token pins, waiting for an operator's approval
/// where the controller wants one. Nothing is saved.
///
/// # Errors
/// [`EnrolmentError`].
pub async fn join(token: &JoinToken, applicant: Applicant, time: &TimeSource) -> Result<Identity, EnrolmentError> {
    let key = PrivateKey::generate()?;
    let role = applicant.role;
    let start = EnrolStart {
        token_secret: token.secret.as_bytes().to_vec(),
        csr_der: key.certificate_request()?,
        display_name: applicant.display_name,
        profile: applicant.profile,
        labels: applicant.labels,
    };
    let trust = ServerTrust::PinnedAuthority(token.authority);
    let link = first_link(&token.endpoints, None, &trust, time).await?;
    let begun = tokio::time::Instant::now();
    loop {
        match enrol(&link, start.clone()).await? {
            enrol_response::Step::Issued(issued) => {
                let identity = issued_identity(key, &issued)?;
                let mut authorities = identity.bundle().authorities().iter();
                let pinned = authorities.any(|authority| authority.digest() == token.authority);
                return pinned.then_some(identity).ok_or(EnrolmentError::OtherAuthorities);
            }
            enrol_response::Step::Pending(pending) => {
                let key_digest = hex::encode(&pending.key_digest);
                if begun.elapsed() > APPROVAL_TIMEOUT {
                    return Err(EnrolmentError::NotApproved { role, key_digest });
                }
                tracing::info!(key_digest, "waiting for an operator's approval");
                let (shortest, longest) = APPROVAL_WAIT_RANGE;
                let wait = Duration::from_millis(u64::from(pending.retry_after_ms));
                tokio::time::sleep(wait.clamp(shortest, longest)).await;
            }
            enrol_response::Step::Challenge(_) => return Err(unexpected("a second challenge", "an identity")),
        }
    }
}

/// Gets a certificate for a fresh key over a link to a controller. Works also with an expired certificate, within the grace
/// that the controller allows. Nothing is saved.
///
/// # Errors
/// [`EnrolmentError`].
pub async fn renewed(channel: Channel, current: &Identity) -> Result<Identity, EnrolmentError> {
    let key = PrivateKey::generate()?;
    let start = RenewStart {
        csr_der: key.certificate_request()?,
    };
    let (steps, stream) = mpsc::channel(STEP_QUEUE);
    let step = |step| RenewRequest { step: Some(step) };
    give(&steps, step(renew_request::Step::Start(start))).await?;
    let answers = EnrolmentClient::new(channel).renew(ReceiverStream::new(stream)).await;
    let mut answers = answers.map_err(Box::new)?.into_inner();
    let Some(renew_response::Step::Challenge(_)) = next(&mut answers).await?.step else {
        return Err(unexpected("another step", "a challenge"));
    };
    give(&steps, step(renew_request::Step::Evidence(no_evidence()))).await?;
    let Some(renew_response::Step::Issued(issued)) = next(&mut answers).await?.step else {
        return Err(unexpected("another step", "an identity"));
    };
    let identity = issued_identity(key, &issued)?;
    if identity.principal() != current.principal() {
        return Err(unexpected("another principal", "our own"));
    }
    Ok(identity)
}

/// Renews the certificate at the first controller that can be reached, saves it and puts it to use.
///
/// # Errors
/// [`EnrolmentError`]; the old identity stays then.
pub async fn renew(
    identity_folder: &Path,
    handle: &IdentityHandle,
    controllers: &[Endpoint],
    time: &TimeSource,
) -> Result<Identity, EnrolmentError> {
    let link = connect_first(controllers, handle, time).await?;
    let identity = renewed(link.channel(), &handle.current()).await?;
    identity.save(identity_folder)?;
    handle.replace(identity.clone());
    Ok(identity)
}

/// Keeps the certificate current until it is told to stop: renews at half its life, and also when it has expired within the
/// controller's grace. After a failure it waits for as long as `wait_after` says of the number of failures in a row.
pub async fn keep_certificate(
    identity_folder: PathBuf,
    handle: IdentityHandle,
    controllers: Vec<Endpoint>,
    time: TimeSource,
    wait_after: impl Fn(u32) -> Duration,
    stop: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let mut wait = RENEWAL_CHECK;
        if handle.current().needs_renewal(time.now()) {
            match renew(&identity_folder, &handle, &controllers, &time).await {
                Ok(renewed) => {
                    failures = 0;
                    tracing::info!(until = %renewed.certificate().validity.not_after(), "the certificate was renewed");
                }
                Err(error) => {
                    wait = wait_after(failures);
                    failures = failures.saturating_add(1);
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "the certificate cannot be renewed yet");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A link to the first controller that can be reached and is genuine.
///
/// # Errors
/// [`EnrolmentError::Connect`] of the last one, or [`EnrolmentError::NoController`].
pub async fn connect_first(
    controllers: &[Endpoint],
    handle: &IdentityHandle,
    time: &TimeSource,
) -> Result<Link, EnrolmentError> {
    let trust = ServerTrust::by(&handle.current(), ExpectedServer::Controller);
    first_link(controllers, Some(handle), &trust, time).await
}

async fn first_link(
    endpoints: &[Endpoint],
    handle: Option<&IdentityHandle>,
    trust: &ServerTrust,
    time: &TimeSource,
) -> Result<Link, EnrolmentError> {
    let mut last = EnrolmentError::NoController;
    for endpoint in endpoints {
        match connect(endpoint, handle, trust, time).await {
            Ok(link) => return Ok(link),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// One pass through the challenge stream of `Enrol`.
async fn enrol(link: &Link, start: EnrolStart) -> Result<enrol_response::Step, EnrolmentError> {
    let (steps, stream) = mpsc::channel(STEP_QUEUE);
    let step = |step| EnrolRequest { step: Some(step) };
    give(&steps, step(enrol_request::Step::Start(start))).await?;
    let answers = EnrolmentClient::new(link.channel())
        .enrol(ReceiverStream::new(stream))
        .await;
    let mut answers = answers.map_err(Box::new)?.into_inner();
    let Some(enrol_response::Step::Challenge(_)) = next(&mut answers).await?.step else {
        return Err(unexpected("another step", "a challenge"));
    };
    give(&steps, step(enrol_request::Step::Evidence(no_evidence()))).await?;
    let step = next(&mut answers).await?.step;
    step.ok_or_else(|| unexpected("an empty step", "an identity"))
}

const fn no_evidence() -> Evidence {
    Evidence {
        kind: Some(evidence::Kind::None(NoEvidence {})),
    }
}

const fn unexpected(found: &'static str, expected: &'static str) -> EnrolmentError {
    EnrolmentError::Protocol { found, expected }
}

async fn give<M>(steps: &mpsc::Sender<M>, step: M) -> Result<(), EnrolmentError> {
    let given = steps.send(step).await;
    given.map_err(|_| unexpected("a closed stream", "the next step"))
}

async fn next<M>(answers: &mut Streaming<M>) -> Result<M, EnrolmentError> {
    let message = tokio::time::timeout(ENROLMENT_TIMEOUT, answers.message()).await;
    let message = message.map_err(|_| EnrolmentError::Silent)?.map_err(Box::new)?;
    message.ok_or_else(|| unexpected("nothing", "the next step"))
}

fn issued_identity(key: PrivateKey, issued: &IssuedIdentity) -> Result<Identity, EnrolmentError> {
    let bundle = TrustBundle::from_der(&issued.authorities_der)?;
    let chain = issued.chain_der.iter().cloned().map(CertificateDer::from).collect();
    Ok(Identity::new(key, chain, bundle)?)
}
