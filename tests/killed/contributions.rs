//! Contributions as the devices keep them, and what rounds were made of.

use std::collections::BTreeSet;
use std::path::Path;

use fieldfare_privacy::{ExactSum, RingCodec, RingParameters};
use fieldfare_proto::v1::RoundConfiguration;
use fieldfare_release::Sha256Digest;
use fieldfare_tests::miniature::{DEVICES, Fleet};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

/// The table of contributions in a device's private store: by round, what is known of it as JSON, and its bytes.
const CONTRIBUTIONS: TableDefinition<'_, &str, (&str, &[u8])> = TableDefinition::new("contributions");

/// How often a store is looked at that is being written.
const LOOKS: u32 = 200;

/// What a device contributed to an attempt at a round.
#[derive(Clone, Debug)]
pub(crate) struct Contribution {
    /// `JOB/ROUND/ATTEMPT`, the numbers with ten digits.
    pub(crate) round: String,
    /// Whether the trainer said that it counts.
    pub(crate) acknowledged: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Contribution {
    fn sha256(&self) -> String {
        Sha256Digest::of(&self.bytes).to_string()
    }
}

/// All that a device keeps, also while it lives.
///
/// # Errors
/// The store is being written at every look, or cannot be read.
pub(crate) fn kept(device: &Path) -> Result<Vec<Contribution>, String> {
    let mut looks = (0..LOOKS).map(|_| look(&device.join("private.redb")));
    let found = looks.find(Result::is_ok);
    found.unwrap_or_else(|| Err(format!("{} cannot be read at {LOOKS} looks", device.display())))
}

fn look(file: &Path) -> Result<Vec<Contribution>, String> {
    let whole = || std::fs::read(file).map_err(|error| error.to_string());
    let bytes = whole()?;
    // A copy of what changes meanwhile may be half of each.
    if whole()? != bytes {
        return Err("it is being written".to_owned());
    }
    let copy = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(copy.path(), &bytes).map_err(|error| error.to_string())?;
    read(copy.path()).map_err(|error| error.to_string())
}

fn read(copy: &Path) -> Result<Vec<Contribution>, redb::Error> {
    let database = Database::open(copy)?;
    let reading = database.begin_read()?;
    let table = match reading.open_table(CONTRIBUTIONS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut kept = Vec::new();
    for entry in table.iter()? {
        let (round, value) = entry?;
        let (json, bytes) = value.value();
        let known: Value = serde_json::from_str(json).unwrap();
        kept.push(Contribution {
            round: round.value().to_owned(),
            acknowledged: known["acknowledged"].as_bool().unwrap(),
            bytes: bytes.to_vec(),
        });
    }
    Ok(kept)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

/// The ring of the rounds of a job, from the configuration that the trainer opened one with.
fn ring(events: &[Value], job: &str) -> RingCodec {
    let opened = events.iter().find(|record| {
        let event = &record["event"];
        event["method"] == "fieldfare.v1.TrainerGateway/OpenRound" && event["request"]["fence"]["job"] == job
    });
    let opened = opened.unwrap_or_else(|| panic!("{job} was never opened"));
    let bytes = hex::decode(text(&opened["event"]["request"], "configuration")).unwrap();
    let codec = RoundConfiguration::decode(&*bytes).unwrap().codec.unwrap();
    RingCodec::new(RingParameters {
        length: usize::try_from(codec.entries).unwrap(),
        range: codec.range as f32,
        ring_bits: codec.bits,
        cohort_limit: codec.cohort_limit,
    })
    .unwrap()
}

/// Promise 3, for every round that was ever closed: its state is that before it and the mean over exactly the accepted set, from the
/// bytes that the devices keep. Promise 4: whatever was acknowledged to a device is in that set. The jobs that were looked at.
pub(crate) fn check(fleet: &Fleet, events: &[Value]) -> BTreeSet<String> {
    let mut all = Vec::new();
    for name in DEVICES {
        let kept = kept(&fleet.root.join(name)).unwrap_or_else(|error| panic!("{name}'s private store: {error}"));
        all.extend(kept.into_iter().map(|contribution| (name, contribution)));
    }
    let mut jobs = BTreeSet::new();
    for record in events {
        let request = &record["event"]["request"];
        if record["event"]["method"] != "fieldfare.v1.TrainerGateway/CloseRound" {
            continue;
        }
        let job = text(&request["round"], "job");
        let (round, attempt) = (&request["round"]["round"], &request["round"]["attempt"]);
        let round = format!(
            "{job}/{:010}/{:010}",
            round.as_u64().unwrap(),
            attempt.as_u64().unwrap()
        );
        let accepted: Vec<&str> = request["accepted"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(one, "sha256"))
            .collect();
        let once: BTreeSet<&str> = accepted.iter().copied().collect();
        assert_eq!(once.len(), accepted.len(), "{round}: {request:#}");
        let of_round: Vec<_> = all
            .iter()
            .filter(|(_, contribution)| contribution.round == round)
            .collect();
        for (name, contribution) in &of_round {
            assert!(
                !contribution.acknowledged || once.contains(&*contribution.sha256()),
                "{name} has the acknowledgement of a contribution to {round} that is not in its sum: {request:#}"
            );
        }
        let mut sum = ExactSum::new(ring(events, job));
        for sha256 in once {
            let of = of_round
                .iter()
                .find(|(_, contribution)| contribution.sha256() == sha256);
            let (_, contribution) = of.unwrap_or_else(|| panic!("no device contributed {sha256} to {round}"));
            sum.add(&contribution.bytes).unwrap();
        }
        // The base release has no adapter: before the first round the state is zero.
        let state: Vec<u8> = sum
            .mean()
            .unwrap()
            .iter()
            .flat_map(|mean| (0.0 + mean).to_le_bytes())
            .collect();
        assert_eq!(
            text(&request["checkpoint"], "state_sha256"),
            Sha256Digest::of(&state).to_string(),
            "{round} is not the sum over its accepted set: {request:#}"
        );
        jobs.insert(job.to_owned());
    }
    jobs
}
