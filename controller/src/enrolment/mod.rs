//! Enrolment: a one-time token and a key become a certificate with a SPIFFE id, and are renewed before it ends.

mod admission;
mod certificates;
mod renewal;

use std::sync::Arc;

use fieldfare_proto::v1::enrolment_server::Enrolment;
use fieldfare_proto::v1::{
    Challenge, EnrolRequest, EnrolResponse, Evidence, RenewRequest, RenewResponse, enrol_request, enrol_response,
    evidence, renew_request, renew_response,
};
use fieldfare_tls::CertificateRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::random_bytes;
use crate::limits::{ENROLMENT_QUEUE, ENROLMENT_STEP_TIMEOUT};
use crate::plane::ControlPlane;
use crate::refusal::Refusal;

pub(crate) use certificates::issue;

/// The Enrolment service.
#[derive(Clone, Debug)]
pub struct EnrolmentService {
    plane: Arc<ControlPlane>,
}

impl EnrolmentService {
    /// Enrols into this control plane.
    pub fn new(plane: Arc<ControlPlane>) -> Self {
        Self { plane }
    }
}

/// The next message of a stream whose sender has one signature to compute and no more.
async fn next_step<M>(incoming: &mut Streaming<M>) -> Result<M, Refusal> {
    let late = || Refusal::TooLate(format!("no message within {} s", ENROLMENT_STEP_TIMEOUT.as_secs()));
    let message = tokio::time::timeout(ENROLMENT_STEP_TIMEOUT, incoming.message())
        .await
        .map_err(|_| late())?;
    let ended = || Refusal::invalid("step", "the stream ended before the answer to the challenge");
    message
        .map_err(|status| Refusal::invalid("step", status.message()))?
        .ok_or_else(ended)
}

fn challenge() -> Result<Challenge, Refusal> {
    Ok(Challenge {
        nonce: random_bytes::<32>()?.to_vec(),
    })
}

/// The only evidence of now is none: the key is in software.
fn check_evidence(evidence: Option<&Evidence>) -> Result<(), Refusal> {
    match evidence.and_then(|evidence| evidence.kind.as_ref()) {
        Some(evidence::Kind::None(_)) => Ok(()),
        None => Err(Refusal::invalid(
            "evidence.kind",
            "expected a kind of evidence that this version knows: none",
        )),
    }
}

fn certificate_request(der: &[u8]) -> Result<CertificateRequest, Refusal> {
    CertificateRequest::parse(der).map_err(|error| Refusal::invalid("csr_der", error))
}

async fn enrol(
    plane: &ControlPlane,
    incoming: &mut Streaming<EnrolRequest>,
    answers: &mpsc::Sender<Result<EnrolResponse, Status>>,
) -> Result<(), Refusal> {
    let Some(enrol_request::Step::Start(start)) = next_step(incoming).await?.step else {
        return Err(Refusal::invalid("step", "the first message is `start`"));
    };
    let application = admission::Application::read(plane, start)?;
    let step = enrol_response::Step::Challenge(challenge()?);
    // A caller that is gone is noticed at the next message.
    let _ = answers.send(Ok(EnrolResponse { step: Some(step) })).await;
    let Some(enrol_request::Step::Evidence(evidence)) = next_step(incoming).await?.step else {
        return Err(Refusal::invalid("step", "the second message is `evidence`"));
    };
    check_evidence(Some(&evidence))?;
    let step = admission::admit(plane, &application).await?;
    let _ = answers.send(Ok(EnrolResponse { step: Some(step) })).await;
    Ok(())
}

async fn renew(
    plane: &ControlPlane,
    renewing: renewal::Renewing,
    incoming: &mut Streaming<RenewRequest>,
    answers: &mpsc::Sender<Result<RenewResponse, Status>>,
) -> Result<(), Refusal> {
    let Some(renew_request::Step::Start(start)) = next_step(incoming).await?.step else {
        return Err(Refusal::invalid("step", "the first message is `start`"));
    };
    let request = certificate_request(&start.csr_der)?;
    let step = renew_response::Step::Challenge(challenge()?);
    let _ = answers.send(Ok(RenewResponse { step: Some(step) })).await;
    let Some(renew_request::Step::Evidence(evidence)) = next_step(incoming).await?.step else {
        return Err(Refusal::invalid("step", "the second message is `evidence`"));
    };
    check_evidence(Some(&evidence))?;
    let issued = renewal::renew(plane, renewing, &request).await?;
    let step = renew_response::Step::Issued(issued);
    let _ = answers.send(Ok(RenewResponse { step: Some(step) })).await;
    Ok(())
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    type EnrolStream = ReceiverStream<Result<EnrolResponse, Status>>;
    type RenewStream = ReceiverStream<Result<RenewResponse, Status>>;

    async fn enrol(&self, request: Request<Streaming<EnrolRequest>>) -> Result<Response<Self::EnrolStream>, Status> {
        let plane = Arc::clone(&self.plane);
        let (answers, stream) = mpsc::channel(ENROLMENT_QUEUE);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = enrol(&plane, &mut incoming, &answers) => outcome,
                () = plane.shutdown.cancelled() => Err(Refusal::ShuttingDown),
            };
            if let Err(refusal) = outcome {
                plane.metrics.enrolment_refused();
                let _ = answers.send(Err(refusal.into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(&self, request: Request<Streaming<RenewRequest>>) -> Result<Response<Self::RenewStream>, Status> {
        let plane = Arc::clone(&self.plane);
        let renewing = renewal::Renewing::from(&plane, request.extensions())?;
        let (answers, stream) = mpsc::channel(ENROLMENT_QUEUE);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = renew(&plane, renewing, &mut incoming, &answers) => outcome,
                () = plane.shutdown.cancelled() => Err(Refusal::ShuttingDown),
            };
            if let Err(refusal) = outcome {
                let _ = answers.send(Err(refusal.into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
