//! The rounds service against real TLS clients that lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use fieldfare_fleet::round::{Answer, Refused};
use fieldfare_fleet::{Attempt, Digest, JobName, RoundId, RoundNumber};
use fieldfare_privacy::{ExactSum, RingCodec, RingParameters};
use fieldfare_proto::v1::rounds_client::RoundsClient;
use fieldfare_proto::v1::{
    ConfigureRequest, ContributeRequest, ContributeResponse, ContributionHeader, SignedTicket, configure_response,
    contribute_request,
};
use fieldfare_tls::{
    Acceptor, AcceptorSettings, DenyList, Endpoint, ExpectedServer, Identity, IdentityHandle, ServerTrust, connect,
};
use fieldfare_trainer::clock;
use fieldfare_trainer::compute::Stop;
use fieldfare_trainer::rounds::{ContributionStore, Offer, OpenGuard, RoundOffered, RoundsHandle, serve, service, sum};
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::fleet::{Fleet, TicketDraft, device_id, now, sha256};

const ENTRIES: usize = 100;
const CONFIGURATION: &[u8] = b"a configuration";

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

/// A trainer with an open round, and the authority around it.
struct Stage {
    fleet: Fleet,
    controller: Identity,
    trainer: Identity,
    endpoint: Endpoint,
    handle: RoundsHandle,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let trainer = fleet.trainer("t1");
        let identity = IdentityHandle::new(trainer.clone());
        let (service, handle) = service(identity.clone(), clock::system());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let settings = AcceptorSettings::enrolled_only(identity, DenyList::default(), clock::system());
        let stop = CancellationToken::new();
        tokio::spawn(serve(Acceptor::new(listener, settings).unwrap(), service, stop.clone()));
        let controller = fleet.controller();
        Self {
            fleet,
            controller,
            trainer,
            endpoint,
            handle,
            stop,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn store(&self) -> ContributionStore {
        ContributionStore::open(self.folder.path(), &round_id(1)).unwrap()
    }

    /// Opens the round; every contribution is answered as `decide` says. Device 2 has left it.
    fn open(&self, decide: impl Fn(Digest) -> Result<Answer, Refused> + Send + 'static) -> (OpenGuard, JoinHandle<()>) {
        let (guard, mut offers) = self.handle.open(RoundOffered {
            id: round_id(1),
            configuration: CONFIGURATION.into(),
            configuration_sha256: sha256(CONFIGURATION),
            state: vec![7; 600_000].into(),
            codec: codec(),
            store: self.store(),
        });
        let deciding = tokio::spawn(async move {
            while let Some(offer) = offers.recv().await {
                match offer {
                    Offer::Contributed {
                        contribution, answer, ..
                    } => answer.send(decide(contribution)).unwrap(),
                    Offer::Joined { device, answer } if device == device_id(2) => {
                        answer.send(Err(Refused::LeftRound { device })).unwrap();
                    }
                    Offer::Joined { answer, .. } => answer.send(Ok(Answer::Taken)).unwrap(),
                }
            }
        });
        (guard, deciding)
    }

    fn draft(&self, device: &Identity) -> TicketDraft {
        TicketDraft {
            round: round_id(1),
            configuration: sha256(CONFIGURATION),
            device: device.principal().clone(),
            trainer: self.trainer.principal().clone(),
            not_after: now().saturating_add(std::time::Duration::from_secs(60)),
        }
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
}

fn header(ticket: SignedTicket, bytes: &[u8]) -> ContributionHeader {
    ContributionHeader {
        ticket: Some(ticket),
        configuration_sha256: sha256(CONFIGURATION).as_bytes().to_vec(),
        length_bytes: bytes.len() as u64,
        sha256: sha256(bytes).as_bytes().to_vec(),
    }
}

fn parts(header: ContributionHeader, bytes: &[u8]) -> Vec<ContributeRequest> {
    let part = |part| ContributeRequest { part: Some(part) };
    let chunks = bytes
        .chunks(64)
        .map(|chunk| part(contribute_request::Part::Chunk(chunk.to_vec())));
    std::iter::once(part(contribute_request::Part::Header(header)))
        .chain(chunks)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invited_device_gets_the_configuration_and_state_and_contributes_once_however_often_it_asks() {
    let stage = Stage::new().await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let known = Arc::clone(&seen);
    let (_guard, _deciding) = stage.open(move |digest| {
        let mut seen = known.lock().unwrap();
        let answer = if seen.contains(&digest) {
            Answer::Known
        } else {
            Answer::Taken
        };
        seen.push(digest);
        Ok(answer)
    });
    let device = stage.fleet.device(1);
    let ticket = stage.draft(&device).sign(&stage.controller);
    let request = ConfigureRequest {
        ticket: Some(ticket.clone()),
    };
    let mut stream = stage
        .client(&device)
        .await
        .configure(request)
        .await
        .unwrap()
        .into_inner();
    let (mut configuration, mut state) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        match message.part.unwrap() {
            configure_response::Part::Configuration(bytes) => configuration.extend(bytes),
            configure_response::Part::StateChunk(bytes) => state.extend(bytes),
        }
    }
    assert_eq!(configuration, CONFIGURATION);
    assert!(state == vec![7; 600_000]);

    let bytes = update(1);
    let answer = stage
        .contribute(&device, parts(header(ticket.clone(), &bytes), &bytes))
        .await
        .unwrap();
    assert!(!answer.repeated && answer.sha256 == sha256(&bytes).as_bytes());
    assert_eq!(
        stage.store().all().unwrap().len(),
        1,
        "it is on disk when it is acknowledged"
    );
    let answer = stage
        .contribute(&device, parts(header(ticket.clone(), &bytes), &bytes))
        .await
        .unwrap();
    assert!(answer.repeated);

    let other = update(2);
    let refused = stage
        .contribute(&device, parts(header(ticket, &other), &other))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert_eq!(
        stage.store().read(&device_id(1), sha256(&bytes)).unwrap(),
        bytes,
        "the first contribution stays"
    );
    stage.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_left_the_round_is_told_before_it_trains_or_pays() {
    let stage = Stage::new().await;
    let (_guard, _deciding) = stage.open(|_| Ok(Answer::Taken));
    let device = stage.fleet.device(2);
    let request = ConfigureRequest {
        ticket: Some(stage.draft(&device).sign(&stage.controller)),
    };
    let refused = stage.client(&device).await.configure(request).await.unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("has left the round"),
        "{refused}"
    );
    stage.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lies_is_turned_away_with_the_reason_and_nothing_is_kept() {
    let stage = Stage::new().await;
    let (_guard, _deciding) = stage.open(|_| Ok(Answer::Taken));
    let (device, other) = (stage.fleet.device(1), stage.fleet.device(2));
    let good = stage.draft(&device);
    let bytes = update(1);
    let signed = |draft: TicketDraft| draft.sign(&stage.controller);
    let honest = || header(signed(good.clone()), &bytes);
    let mut forged = signed(good.clone());
    forged.ticket[8] ^= 1;
    // The one value of three bytes that lies outside the levels: -2^23.
    let garbage = [0, 0, 0x80].repeat(ENTRIES);
    let longer = [bytes.clone(), vec![0; 3]].concat();
    let elsewhere = Fleet::new();
    let cases: Vec<(&str, Vec<ContributeRequest>, Code, &str)> = vec![
        (
            "a ticket of another device",
            parts(
                header(
                    signed(TicketDraft {
                        device: other.principal().clone(),
                        ..good.clone()
                    }),
                    &bytes,
                ),
                &bytes,
            ),
            Code::PermissionDenied,
            "not for",
        ),
        (
            "a ticket for another trainer",
            parts(
                header(
                    signed(TicketDraft {
                        trainer: stage.fleet.trainer("t2").principal().clone(),
                        ..good.clone()
                    }),
                    &bytes,
                ),
                &bytes,
            ),
            Code::PermissionDenied,
            "t2",
        ),
        (
            "a ticket signed by the device itself",
            parts(header(good.sign(&device), &bytes), &bytes),
            Code::PermissionDenied,
            "not acceptable",
        ),
        (
            "a ticket signed by another fleet's controller",
            parts(header(good.sign(&elsewhere.controller()), &bytes), &bytes),
            Code::PermissionDenied,
            "not genuine",
        ),
        (
            "a ticket changed after signing",
            parts(header(forged, &bytes), &bytes),
            Code::PermissionDenied,
            "not genuine",
        ),
        (
            "a ticket that is over",
            parts(
                header(
                    signed(TicketDraft {
                        not_after: fieldfare_fleet::Timestamp::from_unix_ms(1),
                        ..good.clone()
                    }),
                    &bytes,
                ),
                &bytes,
            ),
            Code::FailedPrecondition,
            "ended at",
        ),
        (
            "a ticket of another attempt",
            parts(
                header(
                    signed(TicketDraft {
                        round: round_id(2),
                        ..good.clone()
                    }),
                    &bytes,
                ),
                &bytes,
            ),
            Code::FailedPrecondition,
            "under way is",
        ),
        (
            "a ticket for another configuration",
            parts(
                header(
                    signed(TicketDraft {
                        configuration: sha256(b"x"),
                        ..good.clone()
                    }),
                    &bytes,
                ),
                &bytes,
            ),
            Code::FailedPrecondition,
            "the ticket names",
        ),
        (
            "a header with another configuration",
            parts(
                ContributionHeader {
                    configuration_sha256: vec![1; 32],
                    ..honest()
                },
                &bytes,
            ),
            Code::FailedPrecondition,
            "the header names",
        ),
        (
            "no ticket",
            parts(
                ContributionHeader {
                    ticket: None,
                    ..honest()
                },
                &bytes,
            ),
            Code::InvalidArgument,
            "ticket",
        ),
        (
            "no header",
            parts(honest(), &bytes)[1..].to_vec(),
            Code::InvalidArgument,
            "header",
        ),
        (
            "another digest",
            parts(
                ContributionHeader {
                    sha256: vec![1; 32],
                    ..honest()
                },
                &bytes,
            ),
            Code::InvalidArgument,
            "announced was",
        ),
        (
            "a contribution that is announced too long",
            parts(header(signed(good.clone()), &longer), &longer),
            Code::InvalidArgument,
            "300 bytes",
        ),
        (
            "a contribution that gets longer on the way",
            parts(honest(), &longer),
            Code::InvalidArgument,
            "300 bytes",
        ),
        (
            "a contribution that ends early",
            parts(honest(), &bytes[..64]),
            Code::InvalidArgument,
            "this one has 64",
        ),
        (
            "an upload without bytes",
            parts(honest(), &[]),
            Code::InvalidArgument,
            "this one has 0",
        ),
        (
            "entries that no device encodes",
            parts(header(signed(good.clone()), &garbage), &garbage),
            Code::InvalidArgument,
            "no contribution",
        ),
    ];
    for (what, parts, code, reason) in cases {
        let refused = stage.contribute(&device, parts).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(reason), "{what}: {}", refused.message());
        assert!(stage.store().all().unwrap().is_empty(), "{what}");
    }
    stage.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_contribution_is_refused_and_one_to_a_closed_round_may_be_tried_again() {
    let stage = Stage::new().await;
    let (guard, deciding) = stage.open(|_| Err(Refused::Late { phase: "evaluating" }));
    let device = stage.fleet.device(1);
    let ticket = stage.draft(&device).sign(&stage.controller);
    let bytes = update(1);
    let late = stage
        .contribute(&device, parts(header(ticket.clone(), &bytes), &bytes))
        .await
        .unwrap_err();
    assert!(
        late.code() == Code::FailedPrecondition && late.message().contains("too late"),
        "{late}"
    );
    drop(guard);
    deciding.abort();
    let closed = stage
        .contribute(&device, parts(header(ticket, &bytes), &bytes))
        .await
        .unwrap_err();
    assert_eq!(closed.code(), Code::Unavailable, "{closed}");
    stage.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_of_this_fleet_gets_no_connection() {
    let stage = Stage::new().await;
    let stranger = Fleet::new().device(1);
    let trust = ServerTrust::by(
        &stage.fleet.device(1),
        ExpectedServer::Exactly(stage.trainer.principal().clone()),
    );
    let handle = IdentityHandle::new(stranger);
    let link = connect(&stage.endpoint, Some(&handle), &trust, &clock::system()).await;
    let refused = match link {
        Err(_) => true,
        Ok(link) => RoundsClient::new(link.channel())
            .configure(ConfigureRequest { ticket: None })
            .await
            .is_err(),
    };
    assert!(refused);
    stage.stop.cancel();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Real encoded contributions, kept and summed by the service's own code: the sum is that of the levels, whatever the order
    /// in which they arrived and the devices they came from.
    #[test]
    fn the_sum_over_the_accepted_set_is_exact_in_any_order(
        updates in prop::collection::vec(prop::collection::vec(-0.6f32..0.6, ENTRIES), 1..12),
        rotation in 0usize..12,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = ContributionStore::open(folder.path(), &round_id(1)).unwrap();
        let encoded: Vec<Vec<u8>> = updates.iter().map(|update| codec().encode(update).unwrap().bytes).collect();
        let mut accepted = BTreeMap::new();
        for index in 0..encoded.len() {
            let at = (index + rotation) % encoded.len();
            store.put(&device_id(at as u8), &encoded[at]).unwrap();
            accepted.insert(device_id(at as u8), sha256(&encoded[at]));
        }
        // One more is on disk and not accepted: it does not count.
        store.put(&device_id(200), &encoded[0]).unwrap();
        let found = sum(&store, codec(), &accepted, &Stop::new()).unwrap();
        let mut backwards = ExactSum::new(codec());
        for bytes in encoded.iter().rev() {
            backwards.add(bytes).unwrap();
        }
        prop_assert_eq!(found.levels(), backwards.levels());
        prop_assert_eq!(found.count() as usize, encoded.len());
        let expected: Vec<i64> = (0..ENTRIES)
            .map(|entry| encoded.iter().map(|bytes| level(&bytes[3 * entry..3 * entry + 3])).sum())
            .collect();
        prop_assert_eq!(found.levels(), expected.as_slice());
    }
}

/// Three bytes in two's complement, little endian: the wire form, read independently of the codec.
fn level(bytes: &[u8]) -> i64 {
    i64::from(i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8)
}

#[test]
fn a_contribution_that_changed_on_disk_is_never_summed() {
    let folder = tempfile::tempdir().unwrap();
    let store = ContributionStore::open(folder.path(), &round_id(1)).unwrap();
    let bytes = update(1);
    store.put(&device_id(1), &bytes).unwrap();
    let accepted = BTreeMap::from([(device_id(1), sha256(&bytes))]);
    let path = folder
        .path()
        .join("contributions/round-1.attempt-1")
        .join(device_id(1).to_string());
    std::fs::write(path, update(2)).unwrap();
    let error = sum(&store, codec(), &accepted, &Stop::new()).unwrap_err();
    assert!(error.to_string().contains("on disk is"), "{error}");
}
