//! The binaries under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Path of `fieldfare`; its siblings lie beside it.
///
/// Built on first use, in the profile of the tests and by the same cargo, so that `cargo test` alone never runs stale processes.
///
/// # Panics
/// When the build fails.
pub fn fieldfare() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // .../target/<profile>/deps/<test>: the binaries lie two folders up.
        let test = std::env::current_exe().expect("the test's own path");
        let folder = test.ancestors().nth(2).expect("the profile's folder").to_path_buf();
        let mut build = Command::new(env!("CARGO"));
        // The selection of `cargo test --workspace`: another one would build the same crates again with other features.
        build
            .args(["build", "--locked", "--quiet", "--workspace", "--all-targets"])
            .stdin(Stdio::null());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let status = build.current_dir(workspace).status().expect("cargo runs");
        assert!(status.success(), "the binaries under test do not build: {status}");
        folder.join("fieldfare")
    })
}
