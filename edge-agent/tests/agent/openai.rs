//! The local API as the `openai` package from PyPI finds it, on the real agent.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fieldfare_agent::folder::Folder;
use serde_json::Value;

use crate::device::impatient;
use crate::install::Stage;
use crate::releases::{ANSWER, MODEL, PROMPT};

/// The interpreter that has the package: `FIELDFARE_PYTHON`, or that of the virtual environment which `./test` makes.
fn python() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let python = match env::var_os("FIELDFARE_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home)?
            .join("fieldfare/venv/bin/python3"),
    };
    let reason = match Command::new(&python).args(["-c", "import openai"]).output() {
        Ok(output) if output.status.success() => return Some(python),
        Ok(_) => "it lacks the package `openai`".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("{}: {reason}", python.display());
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
    println!("skipped: {reason}");
    None
}

fn drive(python: &Path, folder: &Folder) -> Output {
    let endpoints: Value = serde_json::from_slice(&std::fs::read(folder.endpoints()).unwrap()).unwrap();
    let token = std::fs::read_to_string(folder.api_token()).unwrap();
    Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/openai_client.py"))
        .arg(format!("{}/v1", endpoints["api"].as_str().unwrap()))
        .args([token.trim(), MODEL, "256", PROMPT, ANSWER])
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_own_client_is_served_and_refused_as_it_expects() {
    let Some(python) = python() else { return };
    let Stage {
        device, running, first, ..
    } = Stage::new().await;
    running.stop().await;
    let mut agent = device.run().await;
    let folder = device.folder.clone();
    let output = tokio::task::spawn_blocking(move || drive(&python, &folder))
        .await
        .unwrap();
    let (held, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{held}{errors}");
    let expected = [
        "models",
        "completion",
        "completion_stream",
        "done",
        "chat",
        "chat_stream",
        "refusals",
        "refused_stream",
        "strangers",
    ];
    assert_eq!(held.lines().collect::<Vec<_>>(), expected);
    agent.kill().await.unwrap();
    // A killed agent leaves nothing behind that would stop the next one.
    let running = device.start(impatient());
    running.serving(&first).await;
    running.stop().await;
}
