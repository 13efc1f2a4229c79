//! `fieldfare-trainer farm`: the devices' text as files, one for each device.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::farm::datasets::{DatasetSizes, FarmDatasets, to_jsonl};
use crate::farm::vocabulary::DEVICE_SITES;

/// Examples of one device: the demonstration keeps the last fifth as held-out text and gives 25 before it to the
/// consented evaluation set, which leaves 200 to train on.
const SIZES: DatasetSizes = DatasetSizes {
    training: 200,
    held_out: 56,
    evaluation: 25,
};

/// What `fieldfare-trainer farm` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct FarmOptions {
    /// Folder for the devices' files; made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of the text.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl FarmOptions {
    /// Writes `NAME.jsonl` for each device: what it trains on, its part of the evaluation set, and last what judges it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn execute(&self) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("{} cannot be made", self.out.display()))?;
        // The devices' sites take turns in the evaluation set.
        let devices = DEVICE_SITES.len();
        let text = FarmDatasets::generate(
            self.seed,
            DatasetSizes {
                evaluation: SIZES.evaluation * devices,
                ..SIZES
            },
        );
        for (index, device) in text.devices.iter().enumerate() {
            let evaluation: Vec<_> = text.evaluation.iter().skip(index).step_by(devices).cloned().collect();
            let lines = [&device.training, &evaluation, &device.held_out]
                .map(|examples| to_jsonl(examples))
                .concat();
            let path = self.out.join(format!("{}.jsonl", device.name));
            fs::write(&path, lines).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::ExampleSet;

    #[test]
    fn each_devices_file_divides_as_the_demonstration_divides_it() {
        let folder = tempfile::tempdir().unwrap();
        FarmOptions {
            out: folder.path().join("farm"),
            seed: 3,
        }
        .execute()
        .unwrap();
        let files: Vec<_> = fs::read_dir(folder.path().join("farm"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 5);
        let text = FarmDatasets::generate(
            3,
            DatasetSizes {
                evaluation: 125,
                ..SIZES
            },
        );
        for device in &text.devices {
            let bytes = fs::read(folder.path().join("farm").join(format!("{}.jsonl", device.name))).unwrap();
            let lines: Vec<&str> = std::str::from_utf8(&bytes).unwrap().lines().collect();
            let (count, held_out) = (lines.len(), lines.len() / 5);
            assert_eq!((count, held_out), (281, 56));
            assert_eq!(lines[count - held_out..].join("\n") + "\n", to_jsonl(&device.held_out));
            assert_eq!(ExampleSet::parse(&bytes).unwrap().questions(), 281);
        }
    }
}
