//! Other people's verifiers accept what we publish, and refuse it when it was altered; ours accepts what theirs writes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fieldfare_release::tuf::{RoleHolders, RoleType, TrustedState};
use fieldfare_release::{Sha256Digest, TargetName};
use tough::schema::RoleType as ToughRole;
use tough::{FilesystemTransport, Prefix, RepositoryLoader};

use crate::fixture::{
    ADAPTER, ADAPTER_BYTES, DAY, Mirror, NOW, RELEASE, RELEASE_BYTES, World, key, look_up, sign, update,
};

/// A repository with a rotated root, in a folder as a server would have it. It outlives any system clock by decades.
fn repository() -> (tempfile::TempDir, World) {
    let mut world = World::lasting(70 * 365 * DAY);
    let fresh = key();
    let mut next = world.repository.root().payload().next(NOW, NOW.plus(world.seconds));
    next.assign(RoleType::Root, RoleHolders::one(fresh.public()));
    world
        .repository
        .accept_root(sign(next, &[&world.keys.root, &fresh]).bytes())
        .unwrap();
    world.publish(NOW);
    let folder = tempfile::tempdir().unwrap();
    let (metadata, targets) = (folder.path().join("metadata"), folder.path().join("targets"));
    fs::create_dir(&metadata).unwrap();
    fs::create_dir(&targets).unwrap();
    for (name, bytes) in &world.mirror {
        fs::write(metadata.join(name), bytes).unwrap();
    }
    for (name, bytes) in [(RELEASE, RELEASE_BYTES), (ADAPTER, ADAPTER_BYTES)] {
        let name: TargetName = name.parse().unwrap();
        fs::write(targets.join(name.stored_as(&Sha256Digest::of(bytes))), bytes).unwrap();
    }
    (folder, world)
}

/// Changes one digit of the expiry, so that the file stays well-formed.
fn alter(folder: &Path, file: &str) {
    let path = folder.join("metadata").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let at = text.find("\"expires\":\"2").unwrap() + 12;
    let mut bytes = text.into_bytes();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    fs::write(path, bytes).unwrap();
}

const SIGNED_FILES: [&str; 4] = ["2.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json"];

async fn load_with_tough(folder: &Path) -> tough::error::Result<tough::Repository> {
    let root = fs::read(folder.join("metadata/1.root.json")).unwrap();
    let url = |part: &str| format!("file://{}/{part}", folder.display()).parse().unwrap();
    RepositoryLoader::new(&root, url("metadata"), url("targets"))
        .transport(FilesystemTransport)
        .load()
        .await
}

#[tokio::test]
async fn tough_verifies_what_we_publish() {
    let (folder, _) = repository();
    let loaded = load_with_tough(folder.path()).await.unwrap();
    assert_eq!(loaded.root().signed.version.get(), 2);
    assert!(loaded.root().signed.keys(ToughRole::Timestamp).count() == 1);
    let out = tempfile::tempdir().unwrap();
    for (name, bytes) in [(RELEASE, RELEASE_BYTES), (ADAPTER, ADAPTER_BYTES)] {
        loaded
            .save_target(&tough::TargetName::new(name).unwrap(), out.path(), Prefix::None)
            .await
            .unwrap();
        assert_eq!(fs::read(out.path().join(name)).unwrap(), bytes);
    }
    assert!(loaded.delegated_role("adapter-farm").is_some());
}

#[tokio::test]
async fn tough_refuses_what_was_altered() {
    for file in SIGNED_FILES.into_iter().chain(["1.adapter-farm.json"]) {
        let (folder, _) = repository();
        alter(folder.path(), file);
        assert!(load_with_tough(folder.path()).await.is_err(), "{file}");
    }
}

/// The interpreter that has python-tuf: `FIELDFARE_PYTHON`, or that of the virtual environment which `./test` makes.
#[allow(clippy::print_stdout, reason = "a test says that it was skipped, and why")]
fn python() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let python = match env::var_os("FIELDFARE_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home)?
            .join("fieldfare/venv/bin/python3"),
    };
    let found = Command::new(&python).args(["-c", "import tuf, cryptography"]).output();
    let reason = match found {
        Ok(output) if output.status.success() => return Some(python),
        Ok(_) => "it lacks the packages `tuf` and `securesystemslib[crypto]`".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("{}: {reason}", python.display());
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
    println!("skipped: {reason}");
    None
}

fn verify_with_python(python: &Path, folder: &Path) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/release/verify_with_tuf.py");
    let targets = [RELEASE, ADAPTER, "farm.r9.release.json"];
    Command::new(python)
        .arg(script)
        .arg(folder)
        .args(targets)
        .output()
        .unwrap()
}

#[test]
fn python_tuf_verifies_what_we_publish() {
    let Some(python) = python() else { return };
    let (folder, _) = repository();
    let output = verify_with_python(&python, folder.path());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let expected = format!(
        "{RELEASE} {}\n{ADAPTER} {}\nfarm.r9.release.json not listed\n",
        RELEASE_BYTES.len(),
        ADAPTER_BYTES.len()
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn python_tuf_refuses_what_was_altered() {
    let Some(python) = python() else { return };
    for file in SIGNED_FILES.into_iter().chain(["1.adapter-farm.json"]) {
        let (folder, _) = repository();
        alter(folder.path(), file);
        let output = verify_with_python(&python, folder.path());
        assert!(!output.status.success(), "{file}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("tuf.api.exceptions"), "{file}: {errors}");
    }
}

/// Written by python-tuf 7.0.1 with `python-tuf/write.py`: indented, which changes no canonical form.
#[test]
fn we_verify_what_python_tuf_publishes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/release/python-tuf");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mirror: Mirror = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    let state = TrustedState::from_root(&mirror["1.root.json"]).unwrap();
    let mut verified = update(state, &mirror, NOW).unwrap();
    for (name, bytes) in [(RELEASE, RELEASE_BYTES), (ADAPTER, ADAPTER_BYTES)] {
        let listed = look_up(&mut verified, &mirror, name).unwrap().0.unwrap();
        assert_eq!(
            (listed.length, listed.sha256),
            (bytes.len() as u64, Sha256Digest::of(bytes))
        );
    }
}
