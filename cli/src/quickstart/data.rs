//! What the devices hold: JSON lines in the forms that people already have, one file for each device, split in three.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use fieldfare_fleet::DeploymentName;
use fieldfare_lm::example::Example;

use crate::exit::Advice;
use crate::limits::{MAX_DEVICES, MAX_EVALUATION_EXAMPLES, MAX_EXAMPLE_BYTES, MAX_TEXT_BYTES, MIN_EXAMPLES};

/// Examples as JSON lines.
pub fn to_lines(examples: &[Example]) -> String {
    examples.iter().map(|example| format!("{example}\n")).collect()
}

/// Reads examples from JSON lines; empty lines are passed over.
///
/// # Errors
/// The file cannot be read, is too long, or has a line that is no example: named by file and line.
pub fn read(path: &Path) -> Result<Vec<Example>> {
    let length = fs::metadata(path)
        .with_context(|| format!("reading {}", path.display()))?
        .len();
    if length > MAX_TEXT_BYTES {
        return Err(anyhow!(
            "{} has {length} bytes, more than the limit of {MAX_TEXT_BYTES}",
            path.display()
        ));
    }
    let content = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            Example::from_line(line, MAX_EXAMPLE_BYTES)
                .map_err(|problem| anyhow!("{} line {}: {problem}", path.display(), index + 1))
        })
        .collect()
}

/// What one device holds.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceData {
    /// Its name.
    pub name: String,
    /// What it trains on.
    pub training: Vec<Example>,
    /// What judges it: nobody trains on it.
    pub held_out: Vec<Example>,
}

/// The text of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunData {
    /// The devices, in the order of their names or of the farm.
    pub devices: Vec<DeviceData>,
    /// The consented evaluation set, which the trainer sees.
    pub evaluation: Vec<Example>,
    /// How the text was split, in a sentence.
    pub statement: String,
}

/// The three parts of one device's examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What it trains on: all that is in neither of the others.
    pub training: Vec<Example>,
    /// Its part of the consented evaluation set: the tenth before the held-out part, at most 25 examples.
    pub evaluation: Vec<Example>,
    /// The last fifth.
    pub held_out: Vec<Example>,
}

/// Splits one device's examples, which keep their order.
pub fn split(mut examples: Vec<Example>) -> Split {
    let held_out = examples.split_off(examples.len() - examples.len() / 5);
    let tenth = (examples.len() + held_out.len()) / 10;
    let evaluation = examples.split_off(examples.len() - tenth.min(MAX_EVALUATION_EXAMPLES));
    Split {
        training: examples,
        evaluation,
        held_out,
    }
}

/// Reads a folder of one's own: each `NAME.jsonl` is a device.
///
/// # Errors
/// There is no such file or there are too many, a name is none, a line is no example, or a device has too few.
pub fn read_folder(folder: &Path) -> Result<RunData> {
    let mut devices = Vec::new();
    let mut evaluation = Vec::new();
    for path in files(folder)? {
        let name = device_name(&path)?;
        let examples = read(&path)?;
        if examples.len() < MIN_EXAMPLES {
            let what = format!(
                "{} has {} examples; a device needs at least {MIN_EXAMPLES}",
                path.display(),
                examples.len()
            );
            return Err(Advice::new(what, "add examples, or take the file out of the folder").into());
        }
        let parts = split(examples);
        evaluation.extend(parts.evaluation);
        devices.push(DeviceData {
            name,
            training: parts.training,
            held_out: parts.held_out,
        });
    }
    let statement = format!(
        "of each file the last fifth is held out and judges its device; the tenth before it (at most {MAX_EVALUATION_EXAMPLES} \
         examples) leaves the device as its part of the consented evaluation set, {} examples in all; the rest trains and stays",
        evaluation.len()
    );
    Ok(RunData {
        devices,
        evaluation,
        statement,
    })
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    if files.is_empty() {
        let what = format!("{} has no file NAME.jsonl", folder.display());
        return Err(Advice::new(what, "put one file of JSON lines there for each device").into());
    }
    if files.len() > MAX_DEVICES {
        return Err(anyhow!(
            "{} has {} files NAME.jsonl, and at most {MAX_DEVICES} devices are run",
            folder.display(),
            files.len()
        ));
    }
    Ok(files)
}

/// The name of the device whose file this is.
fn device_name(path: &Path) -> Result<String> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Devices and deployments are named by the same rule.
    let name = DeploymentName::new(&*stem).map_err(|error| {
        let what = format!("{} names no device: {error}", path.display());
        anyhow!(Advice::new(
            what,
            "rename the file, with lower-case letters, digits and hyphens"
        ))
    })?;
    Ok(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<Example> {
        (0..count)
            .map(|index| Example::Text {
                text: format!("text {index}"),
            })
            .collect()
    }

    #[test]
    fn the_last_fifth_is_held_out_and_the_tenth_before_it_is_consented() {
        for (count, training, evaluation, held_out) in
            [(20, 14, 2, 4), (25, 18, 2, 5), (250, 175, 25, 50), (1000, 775, 25, 200)]
        {
            let all = lines(count);
            let parts = split(all.clone());
            let sizes = (parts.training.len(), parts.evaluation.len(), parts.held_out.len());
            assert_eq!(sizes, (training, evaluation, held_out), "of {count}");
            assert_eq!([parts.training, parts.evaluation, parts.held_out].concat(), all);
        }
    }

    #[test]
    fn the_three_forms_are_read_and_written_again() {
        let cases = [
            r#"{"text":"a"}"#,
            r#"{"completion":"b","prompt":"a"}"#,
            r#"{"messages":[{"content":"a","role":"user"},{"content":"b","role":"assistant"}]}"#,
        ];
        for line in cases {
            let example = Example::from_line(line, MAX_EXAMPLE_BYTES).unwrap();
            assert_eq!(
                Example::from_line(&example.to_string(), MAX_EXAMPLE_BYTES).unwrap(),
                example
            );
        }
    }

    #[test]
    fn a_bad_line_is_named_by_file_line_and_field() {
        let cases = [
            ("{", "it is not JSON"),
            ("7", "expected an object of the form {\"messages\""),
            (r#"{"prompt": "a"}"#, "`completion` is missing"),
            (r#"{"prompt": "", "completion": "b"}"#, "`prompt` is empty"),
            (r#"{"text": 1}"#, "`text` is not a string"),
            (r#"{"messages": 1}"#, "`messages` is not a list"),
            (
                r#"{"messages": [{"role": "user", "content": "a"}]}"#,
                "fewer than 2 messages",
            ),
            (
                r#"{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}"#,
                "`messages[0].content` is missing",
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.jsonl");
        for (bad, expected) in cases {
            fs::write(&path, format!("{{\"text\": \"a\"}}\n\n{bad}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(
                error.contains("gate.jsonl line 3: ") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_gives_a_device_for_each_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl"] {
            fs::write(folder.path().join(name), to_lines(&lines(30))).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "not for us").unwrap();
        let data = read_folder(folder.path()).unwrap();
        assert_eq!(
            data.devices
                .iter()
                .map(|device| device.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(
            (
                data.devices[0].training.len(),
                data.devices[0].held_out.len(),
                data.evaluation.len()
            ),
            (21, 6, 6)
        );
        assert!(data.statement.contains("last fifth"), "{}", data.statement);
    }

    #[test]
    fn folders_that_cannot_be_used_say_why() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            read_folder(folder.path())
                .unwrap_err()
                .to_string()
                .contains("no file NAME.jsonl")
        );
        fs::write(folder.path().join("My Phone.jsonl"), to_lines(&lines(30))).unwrap();
        assert!(
            read_folder(folder.path())
                .unwrap_err()
                .to_string()
                .contains("names no device")
        );
        fs::rename(folder.path().join("My Phone.jsonl"), folder.path().join("phone.jsonl")).unwrap();
        fs::write(folder.path().join("phone.jsonl"), to_lines(&lines(19))).unwrap();
        assert!(
            read_folder(folder.path())
                .unwrap_err()
                .to_string()
                .contains("has 19 examples")
        );
    }
}
