//! What the five devices of the demonstration hold, and the consented evaluation set of their federated job.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::reading::{Combination, Example, Reading, Source};
use super::vocabulary::{CROPS, Condition, DEVICE_SITES, Site};

/// How much text each part holds, in examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetSizes {
    /// Training examples of one device.
    pub training: usize,
    /// Held-out examples of one device.
    pub held_out: usize,
    /// Examples of the consented evaluation set, spread evenly over the sites.
    pub evaluation: usize,
}

impl Default for DatasetSizes {
    /// The sizes that the demonstration uses.
    fn default() -> Self {
        Self {
            training: 200,
            held_out: 50,
            evaluation: 60,
        }
    }
}

/// One device's examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceDataset {
    /// The device's name, which is also the site's name in its prompts.
    pub name: &'static str,
    /// What it may train on.
    pub training: Vec<Example>,
    /// What judges it; shares no combination with any training text.
    pub held_out: Vec<Example>,
}

/// The text of one demonstration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarmDatasets {
    /// One entry a device, in the order of [`DEVICE_SITES`].
    pub devices: Vec<DeviceDataset>,
    /// The consented evaluation set, given with the job: combinations that nobody trains on, and no prompt that a
    /// device holds.
    pub evaluation: Vec<Example>,
}

impl FarmDatasets {
    /// Draws the text of the given seed. No example occurs twice.
    pub fn generate(seed: u64, sizes: DatasetSizes) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut used = BTreeSet::new();
        let devices = DEVICE_SITES
            .iter()
            .map(|site| DeviceDataset {
                name: site.name,
                training: draw(*site, false, sizes.training, &mut used, &mut rng),
                held_out: draw(*site, true, sizes.held_out, &mut used, &mut rng),
            })
            .collect();
        let evaluation = (0..sizes.evaluation)
            .flat_map(|index| draw(DEVICE_SITES[index % DEVICE_SITES.len()], true, 1, &mut used, &mut rng))
            .collect();
        Self { devices, evaluation }
    }
}

/// `count` readings of the novel sensor at `site` that are not yet in `used`.
fn draw(site: Site, held_out: bool, count: usize, used: &mut BTreeSet<Example>, rng: &mut ChaCha8Rng) -> Vec<Example> {
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let combination = Combination {
            source: Source::Novel,
            crop: rng.random_range(0..CROPS.len()),
            condition: Condition::ALL[rng.random_range(0..Condition::ALL.len())],
        };
        if combination.held_out() != held_out {
            continue;
        }
        let example = Reading::draw(combination, site, rng).example(rng);
        if used.insert(example.clone()) {
            drawn.push(example);
        }
    }
    drawn
}

/// Writes examples as JSON lines: `{"prompt": ..., "completion": ...}`.
pub fn to_jsonl(examples: &[Example]) -> String {
    examples.iter().fold(String::new(), |mut lines, example| {
        // A pair of strings always serialises.
        lines.push_str(&serde_json::json!(example).to_string());
        lines.push('\n');
        lines
    })
}
