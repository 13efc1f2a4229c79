//! A trainer as a device sees it: the real protocol over real TLS, with answers that get lost.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldfare_agent::clock;
use fieldfare_lm::adapter::Projection;
use fieldfare_proto::v1::rounds_server::{Rounds, RoundsServer};
use fieldfare_proto::v1::{
    ConfigureRequest, ConfigureResponse, ContributeRequest, ContributeResponse, DpSgd, LocalTraining, LoraShape,
    PrivacyBudget, RingCodec, RoundConfiguration, RoundInvitation, RoundRef, RoundTicket, SignedTicket,
    configure_response, contribute_request,
};
use fieldfare_release::Sha256Digest;
use fieldfare_release::tuf::SigningKey;
use fieldfare_tls::{Acceptor, AcceptorSettings, DenyList, Endpoint, Identity, IdentityHandle};
use futures_util::Stream;
use prost::Message;
use ring::rand::SystemRandom;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::device::{Device, PATIENCE};
use crate::fleet::Fleet;
use crate::releases::Release;

/// What becomes of the answer to a contribution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The trainer stores the bytes and dies before it answers.
    Lost,
    /// The answer never comes.
    Silence,
    /// The answer is about other bytes.
    Confused,
}

/// What happens while a device trains: at its question whether the round is still open, before it is answered.
pub(crate) type Meanwhile = Box<dyn FnOnce() -> Result<(), Status> + Send>;

#[derive(Default)]
struct State {
    configuration: Vec<u8>,
    state: Vec<u8>,
    fates: VecDeque<Fate>,
    configured: u32,
    meanwhile: Option<Meanwhile>,
}

#[derive(Clone)]
struct Service {
    shared: Arc<Mutex<State>>,
    contributed: mpsc::Sender<Sha256Digest>,
}

pub(crate) struct Trainer {
    identity: Identity,
    controller: Identity,
    endpoint: Endpoint,
    shared: Arc<Mutex<State>>,
    service: Service,
    contributed: mpsc::Receiver<Sha256Digest>,
}

type Parts = Pin<Box<dyn Stream<Item = Result<ConfigureResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Rounds for Service {
    type ConfigureStream = Parts;

    async fn configure(&self, _: Request<ConfigureRequest>) -> Result<Response<Parts>, Status> {
        let mut shared = self.shared.lock().unwrap();
        shared.configured += 1;
        if shared.configured == 2
            && let Some(meanwhile) = shared.meanwhile.take()
        {
            meanwhile()?;
        }
        let parts = [
            configure_response::Part::Configuration(shared.configuration.clone()),
            configure_response::Part::StateChunk(shared.state.clone()),
        ];
        let parts = parts.map(|part| Ok(ConfigureResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn contribute(
        &self,
        request: Request<Streaming<ContributeRequest>>,
    ) -> Result<Response<ContributeResponse>, Status> {
        let mut parts = request.into_inner();
        let (mut promised, mut bytes) = (Vec::new(), Vec::new());
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(contribute_request::Part::Header(header)) => promised = header.sha256,
                Some(contribute_request::Part::Chunk(chunk)) => bytes.extend(chunk),
                None => return Err(Status::invalid_argument("an empty part")),
            }
        }
        let digest = Sha256Digest::of(&bytes);
        let sha256 = digest.as_bytes().to_vec();
        assert_eq!(sha256, promised);
        self.contributed.try_send(digest).unwrap();
        let fate = self.shared.lock().unwrap().fates.pop_front();
        match fate {
            Some(Fate::Lost) => return Err(Status::unavailable("the trainer died")),
            Some(Fate::Silence) => std::future::pending::<()>().await,
            Some(Fate::Confused) => {
                return Ok(Response::new(ContributeResponse {
                    sha256: vec![0; 32],
                    repeated: false,
                }));
            }
            None => {}
        }
        Ok(Response::new(ContributeResponse {
            sha256,
            repeated: false,
        }))
    }
}

/// Serves on a free port, as this trainer.
async fn listen(identity: &Identity, service: Service) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let handle = IdentityHandle::new(identity.clone());
    let settings = AcceptorSettings::enrolled_only(handle, DenyList::default(), clock::time_source());
    let acceptor = Acceptor::new(listener, settings).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(RoundsServer::new(service))
        .serve_with_incoming(acceptor);
    tokio::spawn(async { server.await.unwrap() });
    endpoint
}

impl Trainer {
    pub(crate) async fn start(fleet: &Fleet) -> Self {
        let identity = fleet.trainer();
        let (sender, contributed) = mpsc::channel(1024);
        let service = Service {
            shared: Arc::default(),
            contributed: sender,
        };
        Self {
            endpoint: listen(&identity, service.clone()).await,
            identity,
            controller: fleet.controller(),
            shared: Arc::clone(&service.shared),
            service,
            contributed,
        }
    }

    /// The address of the same trainer after a restart.
    pub(crate) async fn restarted(&self) -> String {
        listen(&self.identity, self.service.clone()).await.to_string()
    }

    /// What becomes of the next answers; those after them arrive.
    pub(crate) fn fates(&self, fates: &[Fate]) {
        self.shared.lock().unwrap().fates.extend(fates);
    }

    /// What happens while the device trains.
    pub(crate) fn meanwhile(&self, happens: Meanwhile) {
        self.shared.lock().unwrap().meanwhile = Some(happens);
    }

    /// Digest of the next contribution that arrives.
    pub(crate) async fn contribution(&mut self) -> Sha256Digest {
        let next = tokio::time::timeout(PATIENCE, self.contributed.recv()).await;
        next.expect("a contribution arrives").unwrap()
    }

    /// Opens an attempt at a round on top of a release, and invites a device as a controller does.
    pub(crate) fn invite(&self, device: &Device, base: &Release, round: RoundRef, entries: u64) -> RoundInvitation {
        self.invite_to(device, base, round, entries, |_| {})
    }

    /// An invitation to an attempt whose configuration is changed before the ticket names it.
    pub(crate) fn invite_to(
        &self,
        device: &Device,
        base: &Release,
        round: RoundRef,
        entries: u64,
        change: impl FnOnce(&mut RoundConfiguration),
    ) -> RoundInvitation {
        let state = vec![0; entries as usize * 4];
        let mut configuration = configuration(base, round.clone(), entries, &state);
        change(&mut configuration);
        let configuration = configuration.encode_to_vec();
        let sha256 = Sha256Digest::of(&configuration);
        let mut shared = self.shared.lock().unwrap();
        (shared.configuration, shared.state) = (configuration, state);
        self.ticket(device, round, &sha256)
    }

    /// A genuine ticket to a round that this trainer does not describe as it does.
    pub(crate) fn ticket_to(&self, device: &Device, round: RoundRef) -> RoundInvitation {
        self.ticket(device, round, &Sha256Digest::of(b"another configuration"))
    }

    /// How often this trainer was asked for a configuration.
    pub(crate) fn configured(&self) -> u32 {
        self.shared.lock().unwrap().configured
    }

    fn ticket(&self, device: &Device, round: RoundRef, configuration: &Sha256Digest) -> RoundInvitation {
        let not_after = clock::now().saturating_add(Duration::from_secs(600));
        let ticket = RoundTicket {
            round: Some(round),
            configuration_sha256: configuration.as_bytes().to_vec(),
            device_spiffe_id: device.identity.principal().to_string(),
            trainer_spiffe_id: self.identity.principal().to_string(),
            not_after_unix_ms: not_after.unix_ms() as i64,
        };
        RoundInvitation {
            ticket: Some(self.sign(&ticket)),
            trainer_endpoint: self.endpoint.to_string(),
            deadline_unix_ms: not_after.unix_ms() as i64,
        }
    }

    fn sign(&self, ticket: &RoundTicket) -> SignedTicket {
        let random = SystemRandom::new();
        let key = SigningKey::from_pem(&self.controller.key().to_pem(), &random).unwrap();
        let ticket = ticket.encode_to_vec();
        SignedTicket {
            signature: hex::decode(key.sign(&ticket, &random).unwrap().sig).unwrap(),
            ticket,
            chain_der: self.controller.chain().iter().map(|der| der.to_vec()).collect(),
        }
    }
}

/// Two private steps of rank 4.
fn configuration(base: &Release, round: RoundRef, entries: u64, state: &[u8]) -> RoundConfiguration {
    RoundConfiguration {
        round: Some(round),
        tenant: "north".into(),
        deployment: "soil".into(),
        model: crate::releases::MODEL.into(),
        base_manifest_target: base.name.to_string(),
        base_manifest_sha256: Sha256Digest::of(&base.manifest).as_bytes().to_vec(),
        lora: Some(LoraShape {
            rank: 4,
            alpha: 8.0,
            a_seed: 3,
            projections: Projection::ALL
                .map(|projection| projection.hf_name().to_owned())
                .to_vec(),
        }),
        state_sha256: Sha256Digest::of(state).as_bytes().to_vec(),
        state_entries: entries,
        dp: Some(DpSgd {
            sampling_rate: 0.2,
            steps: 2,
            clip_norm: 0.5,
            noise_multiplier: 2.0,
            divisor: 8.0,
        }),
        budget: Some(PrivacyBudget {
            epsilon: 8.0,
            delta: 1e-5,
        }),
        codec: Some(RingCodec {
            range: 0.5,
            bits: 32,
            entries,
            cohort_limit: 64,
        }),
        training: Some(LocalTraining {
            learning_rate: 0.01,
            max_sequence_tokens: 32,
            physical_batch: 4,
        }),
        deadline_unix_ms: i64::MAX,
    }
}
