//! The model and the text of a run: the farm gateway's, which this repository ships, or somebody's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fieldfare_lm::example::Example;
use fieldfare_release::ModelName;

use super::Quickstart;
use super::data::{self, RunData};
use super::processes::Program;
use crate::exit::Advice;
use crate::limits::MAX_PROBES;

/// Where the shipped model lies in the repository.
const SHIPPED: &str = "models/farm-alert";

/// A base model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The GGUF file.
    pub file: PathBuf,
    /// What it is called in the fleet.
    pub name: ModelName,
}

impl Model {
    /// The model that was named, or the one that the repository around one of these places ships: the program's own file, and the
    /// folder it was started in, since a build may lie outside the checkout.
    ///
    /// # Errors
    /// There is none.
    pub fn find(named: Option<&Path>, places: &[&Path]) -> Result<Self> {
        let file = match named {
            Some(file) if file.is_file() => file.to_owned(),
            Some(file) => bail!(Advice::new(
                format!("{} is no file", file.display()),
                "name a GGUF file with --model"
            )),
            None => shipped(places).ok_or_else(|| {
                let above: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
                let what = format!("{SHIPPED} was found in no folder above {}", above.join(" or "));
                Advice::new(what, "start it in a checkout, or name a GGUF file with --model")
            })?,
        };
        let name = name(&file)?;
        Ok(Self { file, name })
    }
}

/// The first GGUF file of the shipped model's folder, in the nearest folder above a place that has one.
fn shipped(places: &[&Path]) -> Option<PathBuf> {
    places.iter().flat_map(|place| place.ancestors()).find_map(|folder| {
        let entries = std::fs::read_dir(folder.join(SHIPPED)).ok()?;
        let files = entries.flatten().map(|entry| entry.path());
        files.filter(|path| path.extension() == Some(OsStr::new("gguf"))).min()
    })
}

/// A model's name from its file's: lower case, and hyphens for whatever a name cannot have. The precision is not part of it.
fn name(file: &Path) -> Result<ModelName> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let mut name = plain.trim_matches('-');
    for precision in ["f32", "f16", "bf16", "q8-0", "q4-0"] {
        name = name
            .strip_suffix(precision)
            .and_then(|rest| rest.strip_suffix('-'))
            .unwrap_or(name);
    }
    name.parse()
        .with_context(|| format!("naming a model after {}", file.display()))
}

/// Lines of a probe file: the questions of the first examples, for the most precise variant to answer.
pub fn probes(examples: &[Example]) -> String {
    let question = |example: &Example| match super::device::Question::of(example) {
        super::device::Question::Text(prompt) => serde_json::json!({"prompt": prompt}),
        super::device::Question::Conversation(messages) => serde_json::json!({"messages": messages}),
    };
    examples
        .iter()
        .take(MAX_PROBES)
        .map(|example| question(example).to_string() + "\n")
        .collect()
}

impl Quickstart {
    /// The farm gateway's text, written by the trainer's generator: each device's file, and the consented evaluation set.
    pub(super) async fn farm(&mut self) -> Result<RunData> {
        let folder = self.folder.text().join("farm");
        let seed = self.arguments.training.seed.to_string();
        let arguments = [
            "farm".as_ref(),
            "--out".as_ref(),
            folder.as_os_str(),
            "--seed".as_ref(),
            seed.as_ref(),
        ];
        self.processes.finish("farm", Program::Trainer, &arguments).await?;
        data::read_folder(&folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_after_its_file() {
        let cases = [
            ("stories260K-f32.gguf", "stories260k"),
            ("farm-alert-f16.gguf", "farm-alert"),
            ("tinyllama-1.1b-chat-v1.0.Q8_0.gguf", "tinyllama-1-1b-chat-v1-0"),
            ("x/Model.gguf", "model"),
        ];
        for (file, expected) in cases {
            assert_eq!(name(Path::new(file)).unwrap().as_str(), expected);
        }
        assert!(name(Path::new("---.gguf")).is_err());
    }

    #[test]
    fn the_shipped_model_is_found_above_the_program() {
        let checkout = tempfile::tempdir().unwrap();
        let own = checkout.path().join("target/release/fieldfare");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        assert!(
            Model::find(None, &[&own])
                .unwrap_err()
                .to_string()
                .contains("models/farm-alert")
        );
        let folder = checkout.path().join(SHIPPED);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("farm-alert-f16.gguf"), "").unwrap();
        assert_eq!(Model::find(None, &[&own]).unwrap().name.as_str(), "farm-alert");

        let elsewhere = tempfile::tempdir().unwrap();
        let places = [elsewhere.path(), checkout.path()];
        assert_eq!(Model::find(None, &places).unwrap().name.as_str(), "farm-alert");
    }

    #[test]
    fn probes_ask_and_do_not_answer() {
        let example = Example::Completion {
            prompt: "p".to_owned(),
            completion: "c".to_owned(),
        };
        assert_eq!(probes(&[example]), "{\"prompt\":\"p\"}\n");
        assert_eq!(
            probes(&vec![Example::Text { text: "a b".to_owned() }; 20])
                .lines()
                .count(),
            MAX_PROBES
        );
    }
}
