//! The rounds service against real TLS clients that lie, with the decider of rounds that the trainer has.

mod contributions;
mod honest;
mod streams;
mod sums;
mod tickets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fieldfare_fleet::round::{Action, EvaluationRule, Event, JobSpec, JobState, TurnedAway};
use fieldfare_fleet::{Attempt, ByteSize, DeploymentName, DeviceId, Digest, JobName, RoundId, RoundNumber};
use fieldfare_privacy::{RingCodec, RingParameters};
use fieldfare_proto::v1::rounds_client::RoundsClient;
use fieldfare_proto::v1::{
    ContributeRequest, ContributeResponse, ContributionHeader, SignedTicket, contribute_request,
};
use fieldfare_tls::{
    Acceptor, AcceptorSettings, DenyList, Endpoint, ExpectedServer, Identity, IdentityHandle, ServerTrust, connect,
};
use fieldfare_trainer::clock;
use fieldfare_trainer::compute::Stop;
use fieldfare_trainer::rounds::{
    ContributionStore, Offer, OpenGuard, Patience, RoundOffered, RoundsHandle, serve, service, sum,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::fleet::{Fleet, TicketDraft, device_id, now, sha256};

const ENTRIES: usize = 100;
const CONFIGURATION: &[u8] = b"a configuration";

/// The state that training begins with.
static STATE: [u8; 600_000] = [7; 600_000];

/// Devices of the cohort; 1 is the one that lies.
const COHORT: [u8; 3] = [1, 2, 3];

/// How long a round of a test collects: longer than any test.
const COLLECTS: Duration = Duration::from_secs(600);

fn codec() -> RingCodec {
    RingCodec::new(RingParameters {
        length: ENTRIES,
        range: 0.5,
        ring_bits: 32,
        cohort_limit: 256,
    })
    .unwrap()
}

fn round_id(attempt: u32) -> RoundId {
    RoundId {
        job: JobName::new("job").unwrap(),
        round: RoundNumber(1),
        attempt: Attempt(attempt),
    }
}

fn update(seed: u8) -> Vec<u8> {
    let values: Vec<f32> = (0..ENTRIES)
        .map(|i| ((i + usize::from(seed)) % 17) as f32 / 40.0 - 0.2)
        .collect();
    codec().encode(&values).unwrap().bytes
}

/// Three bytes in two's complement, little endian: the wire form, read independently of the codec.
fn level(bytes: &[u8]) -> i64 {
    i64::from(i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8)
}

/// A job whose first round collects from the cohort.
fn collecting() -> JobState {
    let spec = JobSpec {
        job: JobName::new("job").unwrap(),
        deployment: DeploymentName::new("fields").unwrap(),
        rounds: 1,
        cohort: 3,
        enough: 3,
        quorum: 1,
        select_within: COLLECTS,
        collect_within: COLLECTS,
        compute_within: COLLECTS,
        retry_after: COLLECTS,
        max_attempts: 1,
        contribution: ByteSize::new(codec().byte_length() as u64),
        evaluation: EvaluationRule {
            max_round_increase: 0.0,
            min_job_gain: 0.0,
        },
        seed: 1,
    };
    let mut job = JobState::begin(spec, now()).unwrap();
    let chosen = Event::Chosen {
        devices: COHORT.map(device_id).into(),
    };
    let configured = Event::Configured {
        round: round_id(1),
        configuration: sha256(CONFIGURATION),
    };
    for event in [Event::Tick, chosen, configured] {
        job.handle(now(), event, &mut Vec::new()).unwrap();
    }
    job
}

/// A trainer with an open round, and the authority around it.
struct Stage {
    fleet: Fleet,
    controller: Identity,
    trainer: Identity,
    endpoint: Endpoint,
    handle: RoundsHandle,
    job: Arc<Mutex<JobState>>,
    round: Option<OpenGuard>,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    async fn new() -> Self {
        Self::with(Patience::default()).await
    }

    async fn with(patience: Patience) -> Self {
        let fleet = Fleet::new();
        let trainer = fleet.trainer("t1");
        let identity = IdentityHandle::new(trainer.clone());
        let (service, handle) = service(identity.clone(), clock::system(), patience);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let settings = AcceptorSettings::enrolled_only(identity, DenyList::default(), clock::system());
        let stop = CancellationToken::new();
        tokio::spawn(serve(Acceptor::new(listener, settings).unwrap(), service, stop.clone()));
        let controller = fleet.controller();
        let mut stage = Self {
            fleet,
            controller,
            trainer,
            endpoint,
            handle,
            job: Arc::new(Mutex::new(collecting())),
            round: None,
            stop,
            folder: tempfile::tempdir().unwrap(),
        };
        stage.open();
        stage
    }

    fn store(&self) -> ContributionStore {
        ContributionStore::open(self.folder.path(), &round_id(1)).unwrap()
    }

    fn job(&self) -> MutexGuard<'_, JobState> {
        self.job.lock().unwrap()
    }

    /// Opens the round to devices, whose offers the decider answers.
    fn open(&mut self) {
        let (guard, mut offers) = self.handle.open(RoundOffered {
            id: round_id(1),
            configuration: CONFIGURATION.into(),
            configuration_sha256: sha256(CONFIGURATION),
            state: STATE.to_vec().into(),
            codec: codec(),
            store: self.store(),
        });
        self.round = Some(guard);
        let job = Arc::clone(&self.job);
        tokio::spawn(async move {
            while let Some(offer) = offers.recv().await {
                let round = round_id(1);
                let (event, answer) = match offer {
                    Offer::Joined { device, answer } => (Event::Joined { round, device }, answer),
                    Offer::Contributed {
                        device,
                        contribution,
                        bytes,
                        answer,
                    } => {
                        let configuration = sha256(CONFIGURATION);
                        let event = Event::Contributed {
                            round,
                            device,
                            configuration,
                            contribution,
                            bytes,
                        };
                        (event, answer)
                    }
                };
                let decided = job.lock().unwrap().handle(now(), event, &mut Vec::new());
                // Who hung up does not hear it.
                let _ = answer.send(decided);
            }
        });
    }

    fn draft(&self, device: &Identity) -> TicketDraft {
        TicketDraft {
            round: round_id(1),
            configuration: sha256(CONFIGURATION),
            device: device.principal().clone(),
            trainer: self.trainer.principal().clone(),
            not_after: now().saturating_add(Duration::from_secs(60)),
        }
    }

    fn ticket(&self, device: &Identity) -> SignedTicket {
        self.draft(device).sign(&self.controller)
    }

    async fn client(&self, device: &Identity) -> RoundsClient<tonic::transport::Channel> {
        let expected = ExpectedServer::Exactly(self.trainer.principal().clone());
        let trust = ServerTrust::by(device, expected);
        let handle = IdentityHandle::new(device.clone());
        let link = connect(&self.endpoint, Some(&handle), &trust, &clock::system())
            .await
            .unwrap();
        RoundsClient::new(link.channel())
    }

    async fn contribute(&self, device: &Identity, parts: Vec<ContributeRequest>) -> Result<ContributeResponse, Status> {
        let answer = self.client(device).await.contribute(tokio_stream::iter(parts)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A device of the cohort contributes its update.
    async fn honest(&self, number: u8) -> ContributeResponse {
        let device = self.fleet.device(number);
        let bytes = update(number);
        let parts = parts(header(self.ticket(&device), &bytes), &bytes);
        self.contribute(&device, parts).await.unwrap()
    }

    /// The liar brings this, and is told why it is not taken.
    async fn is_turned_away(&self, what: &str, parts: Vec<ContributeRequest>, code: Code, reason: &str) {
        let liar = self.fleet.device(1);
        let refused = self.contribute(&liar, parts).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(reason), "{what}: {}", refused.message());
        assert!(self.store().all().unwrap().is_empty(), "{what}: nothing is kept");
    }

    /// The contributions over which the round sums, once its time to collect is over.
    fn accepted(&self) -> BTreeMap<DeviceId, Digest> {
        let mut actions = Vec::new();
        let over = now().saturating_add(COLLECTS);
        let mut job = self.job();
        job.handle(over, Event::Tick, &mut actions).unwrap();
        match actions.pop() {
            Some(Action::Aggregate { accepted, .. }) => accepted,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the round: the aggregate is the exact sum of the updates of these devices, and the trainer says who was turned away and
    /// why.
    fn ends(&self, contributed: &[u8], turned_away: &[TurnedAway]) {
        let accepted = self.accepted();
        let expected: BTreeMap<_, _> = contributed
            .iter()
            .map(|n| (device_id(*n), sha256(&update(*n))))
            .collect();
        assert_eq!(accepted, expected);
        self.is_summed(&accepted, &contributed.iter().map(|n| update(*n)).collect::<Vec<_>>());
        self.says(turned_away);
    }

    /// The aggregate over this accepted set is the exact sum of these contributions.
    fn is_summed(&self, accepted: &BTreeMap<DeviceId, Digest>, contributions: &[Vec<u8>]) {
        let found = sum(&self.store(), codec(), accepted, &Stop::new()).unwrap();
        let levels: Vec<i64> = (0..ENTRIES)
            .map(|at| {
                contributions
                    .iter()
                    .map(|bytes| level(&bytes[3 * at..3 * at + 3]))
                    .sum()
            })
            .collect();
        assert_eq!(
            (found.levels(), found.count() as usize),
            (levels.as_slice(), contributions.len())
        );
    }

    /// The trainer counts the liar under these reasons, and nobody else.
    fn says(&self, turned_away: &[TurnedAway]) {
        let tally = self.round.as_ref().unwrap().turned_away();
        let said: Vec<_> = tally.reasons().map(|(why, devices)| (why, devices.clone())).collect();
        let mut expected: Vec<_> = turned_away.iter().map(|why| (*why, [device_id(1)].into())).collect();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }
}

fn header(ticket: SignedTicket, bytes: &[u8]) -> ContributionHeader {
    ContributionHeader {
        ticket: Some(ticket),
        configuration_sha256: sha256(CONFIGURATION).as_bytes().to_vec(),
        length_bytes: bytes.len() as u64,
        sha256: sha256(bytes).as_bytes().to_vec(),
    }
}

fn first(header: ContributionHeader) -> ContributeRequest {
    ContributeRequest {
        part: Some(contribute_request::Part::Header(header)),
    }
}

fn chunk(bytes: &[u8]) -> ContributeRequest {
    ContributeRequest {
        part: Some(contribute_request::Part::Chunk(bytes.to_vec())),
    }
}

fn parts(header: ContributionHeader, bytes: &[u8]) -> Vec<ContributeRequest> {
    std::iter::once(first(header))
        .chain(bytes.chunks(64).map(chunk))
        .collect()
}
