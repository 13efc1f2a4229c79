//! The one place through which every call that changes something goes into the audit log: a layer below each service, so that a
//! method that is added later is logged unless it is known to change nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{AuditCall, AuditOutcome};
use fieldfare_release::Sha256Digest;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use crate::access::Caller;
use crate::limits::{AUDIT_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

/// What calls of a method mean for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// It changes something: logged before and after.
    Change,
    /// It is asked again and again until there is something to give: logged when it gives. What it gives is in the store by then, and is
    /// not told before it is logged.
    Poll,
    /// It changes nothing that anybody decides.
    Read,
}

/// Methods that are not logged as a change. Whatever is not named here is.
const EXCEPTIONS: [(&str, Sort); 25] = [
    ("fieldfare.v1.Operator/ListTokens", Sort::Read),
    ("fieldfare.v1.Operator/ListDevices", Sort::Read),
    ("fieldfare.v1.Operator/GetDevice", Sort::Read),
    ("fieldfare.v1.Operator/ExplainDevice", Sort::Read),
    ("fieldfare.v1.Operator/GetFleet", Sort::Read),
    ("fieldfare.v1.Operator/GetRepository", Sort::Read),
    ("fieldfare.v1.Operator/ListReleases", Sort::Read),
    ("fieldfare.v1.Operator/GetRelease", Sort::Read),
    ("fieldfare.v1.Operator/PlanPlacement", Sort::Read),
    ("fieldfare.v1.Operator/ListDeployments", Sort::Read),
    ("fieldfare.v1.Operator/GetDeployment", Sort::Read),
    ("fieldfare.v1.Operator/GetRollout", Sort::Read),
    ("fieldfare.v1.Operator/WatchRollout", Sort::Read),
    ("fieldfare.v1.Operator/ListJobs", Sort::Read),
    ("fieldfare.v1.Operator/GetJob", Sort::Read),
    ("fieldfare.v1.Operator/WatchJob", Sort::Read),
    ("fieldfare.v1.Operator/ListTrainers", Sort::Read),
    ("fieldfare.v1.Operator/Examine", Sort::Read),
    ("fieldfare.v1.TrainerGateway/Watch", Sort::Read),
    ("fieldfare.v1.TrainerGateway/Claim", Sort::Poll),
    // A sign of life, every few seconds.
    ("fieldfare.v1.TrainerGateway/RenewClaim", Sort::Read),
    // Progress within a job, which a later decision names.
    ("fieldfare.v1.TrainerGateway/Checkpoint", Sort::Read),
    ("fieldfare.v1.TrainerGateway/OpenRound", Sort::Poll),
    ("fieldfare.v1.TrainerGateway/WatchRound", Sort::Read),
    ("fieldfare.v1.TrainerGateway/GetDelegation", Sort::Read),
];

fn sort(method: &str) -> Sort {
    let known = EXCEPTIONS.iter().find(|(name, _)| *name == method);
    known.map_or(Sort::Change, |(_, sort)| *sort)
}

/// What each caller was last given by each method that is polled: the same answer to the same question is no new decision.
#[derive(Clone, Debug, Default)]
struct Polls(Arc<Mutex<BTreeMap<(String, String), Sha256Digest>>>);

impl Polls {
    /// Whether an answer gives anything that the last one did not.
    fn gives(&self, call: &AuditCall, answer: &Bytes) -> bool {
        if message(answer).is_some_and(|content| content.is_empty()) {
            return false;
        }
        let given = Sha256Digest::of(&[&call.request_sha256[..], Sha256Digest::of(answer).as_bytes()].concat());
        let asked = (call.method.clone(), call.spiffe_id.clone());
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(asked, given) != Some(given)
    }
}

/// A service whose changes are logged.
#[derive(Clone, Debug)]
pub(crate) struct Audited<S> {
    service: S,
    plane: Arc<ControlPlane>,
    polls: Polls,
}

impl<S> Audited<S> {
    pub(crate) fn new(service: S, plane: Arc<ControlPlane>) -> Self {
        Self {
            service,
            plane,
            polls: Polls::default(),
        }
    }
}

impl<S: NamedService> NamedService for Audited<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Audited<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let sort = sort(&method);
        // Whoever may not call at all is turned away by the service, and does not fill the log.
        let caller = self.plane.access.caller(request.extensions()).ok();
        let Some(spiffe_id) = caller
            .and_then(|caller| self.principal(&caller))
            .filter(|_| sort != Sort::Read)
        else {
            return Box::pin(self.service.call(request));
        };
        // The one that was ready, not its clone.
        let next = self.service.clone();
        let service = std::mem::replace(&mut self.service, next);
        let plane = Arc::clone(&self.plane);
        // A task of its own: a caller that goes away, or a deadline, does not cut the action off before its outcome is logged.
        let caller = AuditCall {
            spiffe_id,
            method,
            ..AuditCall::default()
        };
        let polls = (sort == Sort::Poll).then(|| self.polls.clone());
        let called = plane
            .calls
            .spawn(carry_out(Arc::clone(&plane), service, polls, caller, request));
        Box::pin(async move {
            let answer = called
                .await
                .unwrap_or_else(|_| Err(Status::internal("the call failed")));
            Ok(answer.unwrap_or_else(|status| status.into_http()))
        })
    }
}

impl<S: NamedService> Audited<S> {
    /// The caller's name, if this service is for callers of its kind.
    fn principal(&self, caller: &Caller) -> Option<String> {
        let access = &self.plane.access;
        match caller {
            Caller::Operator(name) if S::NAME == "fieldfare.v1.Operator" => {
                Some(access.operator_principal(name).to_string())
            }
            Caller::Trainer(name) if S::NAME == "fieldfare.v1.TrainerGateway" => {
                Some(access.trainer_principal(name).to_string())
            }
            _ => None,
        }
    }
}

/// Bytes of a gRPC message before its content: a flag and a length.
const PREFIX: usize = 5;

/// The content of the one message in a body; nothing of a body that holds another number of them, or a compressed one.
fn message(body: &Bytes) -> Option<Bytes> {
    let (prefix, content) = body.split_first_chunk::<PREFIX>()?;
    let [flag, length @ ..] = prefix;
    let whole = *flag == 0 && u32::from_be_bytes(*length) as usize == content.len();
    whole.then(|| body.slice(PREFIX..))
}

/// The message, where it is short enough to be kept.
fn kept(body: &Bytes) -> Vec<u8> {
    let short = message(body).filter(|content| content.len() <= AUDIT_MESSAGE_BYTES_MAX);
    short.unwrap_or_default().to_vec()
}

async fn carry_out<S>(
    plane: Arc<ControlPlane>,
    mut service: S,
    polls: Option<Polls>,
    caller: AuditCall,
    request: Request<Body>,
) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (head, body) = request.into_parts();
    let too_long = |_| {
        Status::out_of_range(format!(
            "message length too large: the limit is {MESSAGE_BYTES_MAX} bytes"
        ))
    };
    let body = Limited::new(body, MESSAGE_BYTES_MAX + PREFIX)
        .collect()
        .await
        .map_err(too_long)?
        .to_bytes();
    let content = message(&body).unwrap_or_else(|| body.clone());
    let call = AuditCall {
        request: kept(&body),
        request_sha256: Sha256Digest::of(&content).as_bytes().to_vec(),
        request_bytes: content.len() as u64,
        ..caller
    };
    let logged = match polls {
        Some(_) => None,
        None => Some(plane.audit.record(Event::Call(call.clone())).await?),
    };
    let Ok(response) = service
        .call(Request::from_parts(head, Body::new(Full::new(body))))
        .await;
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let body = body.to_bytes();
    let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(trailers.as_ref()?));
    let (code, detail) = status.map_or((Code::Ok, String::new()), |status| {
        (status.code(), status.message().to_owned())
    });
    let of_record = match polls {
        Some(polls) if code == Code::Ok && polls.gives(&call, &body) => {
            Some(plane.audit.record(Event::Call(call)).await?)
        }
        _ => logged,
    };
    let response = kept(&body);
    if let Some(of_record) = of_record {
        let outcome = AuditOutcome {
            of_record,
            code: code as u32,
            detail,
            response,
        };
        plane
            .audit
            .record(Event::Outcome(outcome))
            .await
            .map_err(|error| unlogged(code, error))?;
    }
    Ok(Response::from_parts(head, whole(body, trailers)))
}

/// A body as it was before it was collected. A refusal is headers alone.
fn whole(body: Bytes, trailers: Option<HeaderMap>) -> Body {
    match trailers {
        None if body.is_empty() => Body::empty(),
        None => Body::new(Full::new(body)),
        Some(trailers) => Body::new(Full::new(body).with_trailers(ready(Some(Ok::<_, Infallible>(trailers))))),
    }
}

/// What was done and cannot be logged any more is not acknowledged: as with a store that fails, the caller looks what came of it.
fn unlogged(code: Code, error: Refusal) -> Status {
    if code == Code::Ok {
        return Status::unavailable(format!("it was done, but its outcome is not in the audit log: {error}"));
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn what_is_not_known_to_change_nothing_is_a_change() {
        assert_eq!(sort("fieldfare.v1.Operator/CreateToken"), Sort::Change);
        assert_eq!(sort("fieldfare.v1.Operator/WhateverComesNext"), Sort::Change);
        assert_eq!(sort("fieldfare.v1.Operator/ListTokens"), Sort::Read);
    }

    /// A method of these services that is in neither list is a change, and stands in this one when somebody has thought about it.
    const CHANGES: [&str; 18] = [
        "fieldfare.v1.Operator/CreateToken",
        "fieldfare.v1.Operator/RevokeToken",
        "fieldfare.v1.Operator/ApproveDevice",
        "fieldfare.v1.Operator/RevokeDevice",
        "fieldfare.v1.Operator/InstallRoot",
        "fieldfare.v1.Operator/PublishTargets",
        "fieldfare.v1.Operator/ImportModel",
        "fieldfare.v1.Operator/ApplyDeployment",
        "fieldfare.v1.Operator/CommandRollout",
        "fieldfare.v1.Operator/StartJob",
        "fieldfare.v1.Operator/CancelJob",
        // It changes nothing, and hands everything out.
        "fieldfare.v1.Operator/ExportRecords",
        "fieldfare.v1.Operator/CollectArtifacts",
        "fieldfare.v1.TrainerGateway/CloseRound",
        "fieldfare.v1.TrainerGateway/ProposeRelease",
        "fieldfare.v1.TrainerGateway/PublishRelease",
        "fieldfare.v1.TrainerGateway/HandBack",
        "fieldfare.v1.TrainerGateway/Finish",
    ];

    #[test]
    fn every_method_of_operators_and_trainers_was_thought_about() {
        let described = prost_types::FileDescriptorSet::decode(fieldfare_proto::FILE_DESCRIPTOR_SET).unwrap();
        let services = described.file.iter().flat_map(|file| &file.service);
        let ours = services.filter(|service| ["Operator", "TrainerGateway"].contains(&service.name()));
        let methods: Vec<String> = ours
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(|method| format!("fieldfare.v1.{}/{}", service.name(), method.name()))
            })
            .collect();
        assert!(methods.len() > 30, "{methods:?}");
        for method in &methods {
            let (change, exception) = (
                CHANGES.contains(&&**method),
                EXCEPTIONS.iter().any(|(name, _)| name == method),
            );
            assert!(
                change != exception,
                "say in EXCEPTIONS what {method} is for the audit log, or in CHANGES that it is a change, and not both"
            );
            assert_eq!(sort(method) == Sort::Change, change, "{method}");
        }
        for name in CHANGES {
            assert!(
                methods.iter().any(|method| method == name),
                "{name} is no method any more"
            );
        }
        for (name, _) in EXCEPTIONS {
            assert!(
                methods.iter().any(|method| method == name),
                "{name} is no method any more"
            );
        }
    }

    #[test]
    fn a_body_that_is_not_one_plain_message_has_none() {
        let body = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        assert_eq!(message(&body(&[0, 0, 0, 0, 2, 7, 8])), Some(body(&[7, 8])));
        assert_eq!(message(&body(&[0, 0, 0, 0, 0])), Some(body(&[])));
        for odd in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 1, 7],
            &[0, 0, 0, 0, 2, 7],
            &[0, 0, 0, 0, 1, 7, 8],
        ] {
            assert_eq!(message(&body(odd)), None, "{odd:?}");
        }
    }
}
