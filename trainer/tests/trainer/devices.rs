//! Devices that take part in rounds: they train as a device does, on real examples, and speak the real protocol. What they
//! leave out is the noise and the ledger, whose tests stand elsewhere: without noise a few steps suffice to learn.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;

use fieldfare_fleet::{Digest, RoundId};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::{Gguf, TensorType};
use fieldfare_lm::tokenizer::Tokenizer;
use fieldfare_lm::train::memory::PhysicalBatch;
use fieldfare_lm::train::{
    AdamConfig, DecoderWeights, FrozenDecoder, GradientMechanism, LocalRound, LocalRoundConfig, LoraDecoder, LoraSpec,
    TrainingExample, WrongLength,
};
use fieldfare_privacy::{RingCodec, RingParameters};
use fieldfare_proto::v1::rounds_client::RoundsClient;
use fieldfare_proto::v1::{
    ConfigureRequest, ContributeRequest, ContributionHeader, RoundConfiguration, SignedTicket, configure_response,
    contribute_request,
};
use fieldfare_release::Sha256Digest;
use fieldfare_tls::{Endpoint, ExpectedServer, Identity, IdentityHandle, Principal, ServerTrust, connect};
use fieldfare_trainer::clock;
use fieldfare_trainer::farm::Example;
use fieldfare_trainer::pretrain::tokenise;
use prost::Message;
use tonic::Status;

use crate::fleet::{TicketDraft, now, sha256};

/// The mean gradient over an eighth of the examples, the same for every run.
struct Plain {
    sum: Vec<f32>,
    count: usize,
}

impl GradientMechanism for Plain {
    type Error = Infallible;

    fn batch(&mut self, step: u64, examples: usize) -> Vec<usize> {
        (0..examples).filter(|index| index % 8 == step as usize % 8).collect()
    }

    fn add(&mut self, gradient: &[f32]) -> Result<(), Infallible> {
        self.sum.resize(gradient.len(), 0.0);
        self.sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
        self.count += 1;
        Ok(())
    }

    fn finish(&mut self, _: u64) -> Result<Vec<f32>, Infallible> {
        let count = std::mem::take(&mut self.count).max(1) as f32;
        Ok(std::mem::take(&mut self.sum)
            .into_iter()
            .map(|sum| sum / count)
            .collect())
    }
}

/// A device with its model and its examples.
pub(crate) struct Device {
    pub(crate) identity: Identity,
    decoder: FrozenDecoder,
    examples: Vec<TrainingExample>,
}

fn floats(gguf: &Gguf, file: &[u8], name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let bytes = gguf.tensor_bytes(file, tensor).unwrap();
    match tensor.tensor_type {
        TensorType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        _ => bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
            .collect(),
    }
}

/// A device's place in a round.
pub(crate) struct Seat {
    client: RoundsClient<tonic::transport::Channel>,
    ticket: SignedTicket,
    configuration: Digest,
    pub(crate) state: Vec<u8>,
}

impl Seat {
    /// Announces one contribution and sends another: the same, where the device is honest.
    pub(crate) async fn contribute(&mut self, announced: &[u8], sent: &[u8]) -> Result<(), Status> {
        let header = ContributionHeader {
            ticket: Some(self.ticket.clone()),
            configuration_sha256: self.configuration.as_bytes().to_vec(),
            length_bytes: announced.len() as u64,
            sha256: sha256(announced).as_bytes().to_vec(),
        };
        let part = |part| ContributeRequest { part: Some(part) };
        let chunks = sent
            .chunks(60_000)
            .map(|chunk| part(contribute_request::Part::Chunk(chunk.to_vec())));
        let parts: Vec<_> = std::iter::once(part(contribute_request::Part::Header(header)))
            .chain(chunks)
            .collect();
        self.client.contribute(tokio_stream::iter(parts)).await.map(drop)
    }
}

/// The codec of a round's contributions.
pub(crate) fn codec_of(configuration: &[u8]) -> RingCodec {
    let codec = RoundConfiguration::decode(configuration).unwrap().codec.unwrap();
    RingCodec::new(RingParameters {
        length: codec.entries as usize,
        range: codec.range as f32,
        ring_bits: codec.bits,
        cohort_limit: codec.cohort_limit,
    })
    .unwrap()
}

impl Device {
    pub(crate) fn new(identity: Identity, model: &[u8], examples: &[Example]) -> Self {
        let gguf = Gguf::parse(model).unwrap();
        let config = DecoderConfig::from_gguf(&gguf).unwrap();
        let tokenizer = Tokenizer::from_metadata(&gguf.metadata).unwrap();
        let weights = DecoderWeights::load(config, |name| Ok::<_, WrongLength>(floats(&gguf, model, name))).unwrap();
        let examples = tokenise(&tokenizer, examples).unwrap();
        Self {
            identity,
            decoder: FrozenDecoder::new(&weights),
            examples,
        }
    }

    /// Takes part in one round: fetches its configuration and state, trains, contributes; the bytes that it contributed.
    pub(crate) async fn take_part(
        &self,
        configuration: &[u8],
        endpoint: &str,
        trainer: &Principal,
        controller: &Identity,
    ) -> Vec<u8> {
        let mut seat = self.join(configuration, endpoint, trainer, controller).await;
        let bytes = self.train(configuration, &seat.state);
        seat.contribute(&bytes, &bytes).await.unwrap();
        bytes
    }

    /// Fetches a round's configuration and state.
    pub(crate) async fn join(
        &self,
        configuration: &[u8],
        endpoint: &str,
        trainer: &Principal,
        controller: &Identity,
    ) -> Seat {
        let round = RoundConfiguration::decode(configuration).unwrap();
        let ticket = TicketDraft {
            round: RoundId::try_from(round.round.unwrap()).unwrap(),
            configuration: sha256(configuration),
            device: self.identity.principal().clone(),
            trainer: trainer.clone(),
            not_after: now().saturating_add(std::time::Duration::from_secs(600)),
        }
        .sign(controller);
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let trust = ServerTrust::by(&self.identity, ExpectedServer::Exactly(trainer.clone()));
        let handle = IdentityHandle::new(self.identity.clone());
        let link = connect(&endpoint, Some(&handle), &trust, &clock::system())
            .await
            .unwrap();
        let mut client = RoundsClient::new(link.channel());
        let request = ConfigureRequest {
            ticket: Some(ticket.clone()),
        };
        let mut stream = client.configure(request).await.unwrap().into_inner();
        let (mut told, mut state) = (Vec::new(), Vec::new());
        while let Some(message) = stream.message().await.unwrap() {
            match message.part.unwrap() {
                configure_response::Part::Configuration(bytes) => told = bytes,
                configure_response::Part::StateChunk(bytes) => state.extend(bytes),
            }
        }
        assert_eq!(told, configuration);
        assert_eq!(Sha256Digest::of(&state).as_bytes().to_vec(), round.state_sha256);
        Seat {
            client,
            ticket,
            configuration: sha256(configuration),
            state,
        }
    }

    pub(crate) fn train(&self, configuration: &[u8], state: &[u8]) -> Vec<u8> {
        let round = RoundConfiguration::decode(configuration).unwrap();
        let (lora, training, dp) = (round.lora.unwrap(), round.training.unwrap(), round.dp.unwrap());
        let spec = LoraSpec {
            rank: lora.rank as usize,
            alpha: lora.alpha,
            seed: lora.a_seed,
        };
        let start: Vec<f32> = state
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(start.len() as u64, round.state_entries);
        let decoder = LoraDecoder::new(self.decoder.clone(), spec);
        let local = LocalRound {
            decoder: &decoder,
            examples: &self.examples,
            config: LocalRoundConfig {
                steps: u64::from(dp.steps),
                learning_rate: training.learning_rate as f32,
                adam: AdamConfig::default(),
                physical_batch: PhysicalBatch::new(training.physical_batch as usize),
            },
            cancelled: &AtomicBool::new(false),
        };
        let end = local
            .run(
                &start,
                &mut Plain {
                    sum: Vec::new(),
                    count: 0,
                },
                |_| {},
            )
            .unwrap();
        let update: Vec<f32> = end.iter().zip(&start).map(|(end, start)| end - start).collect();
        let encoded = codec_of(configuration).encode(&update).unwrap();
        assert_eq!(encoded.clamped, 0, "the ring's range holds every update");
        encoded.bytes
    }
}
