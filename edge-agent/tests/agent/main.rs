//! The agent's parts against the real binary, real models, real files, a real controller, and servers that lie.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests may fail the test too; clippy exempts functions marked #[test] alone"
)]

mod attacks;
mod audit;
mod backup;
mod controller;
mod device;
mod doctor;
mod downloads;
mod fleet;
mod gateway;
mod hostile;
mod install;
mod ledger;
mod local_api;
mod noise;
mod offline;
mod openai;
mod private_store;
mod process;
mod profile;
mod refusals;
mod releases;
mod rounds;
mod serving;
mod session;
mod trainer;
mod training;

use std::path::{Path, PathBuf};

use fieldfare_agent::process::Binary;

/// A shell script in the place of the agent's binary. It is written by a process of its own: while a file is open for writing,
/// also in a child that another test has just forked, the kernel does not execute it.
fn script(folder: &Path, text: &str) -> Binary {
    let path = folder.join("agent.sh");
    let written = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 700 \"$1\"",
            "sh",
        ])
        .arg(&path)
        .arg(text)
        .status();
    assert!(written.unwrap().success());
    Binary::new(path)
}

/// The agent's own binary.
fn binary() -> Binary {
    Binary::new(PathBuf::from(env!("CARGO_BIN_EXE_fieldfare-agent")))
}

/// A file of the shared test data; nothing, said aloud, where the data are not there.
#[allow(clippy::disallowed_methods)]
fn data(path: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let folder = std::env::var("FIELDFARE_TEST_DATA").unwrap_or_else(|_| default.to_owned());
    let file = PathBuf::from(folder).join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(
        std::env::var("CI").is_err(),
        "{} is missing, and CI is set",
        file.display()
    );
    println!("skipped: {} is missing", file.display());
    None
}

/// A real Llama with 260,032 parameters, trained on TinyStories.
fn stories() -> Option<PathBuf> {
    data("models/stories260K/stories260K-f32.gguf")
}
