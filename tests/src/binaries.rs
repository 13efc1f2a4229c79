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
        // One test is named so that the dependencies of tests count: with others than `cargo test --workspace` selects, the same
        // crates would be built again with other features.
        build
            .args([
                "build",
                "--locked",
                "--quiet",
                "--workspace",
                "--lib",
                "--bins",
                "--test",
                "killed",
            ])
            .stdin(Stdio::null());
        // What cargo tells this test of its own package. Build scripts that look at the same names, as that of ring, would run again,
        // and everything above them be built again, for this build and then for the next one outside of a test.
        let told = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
            "CARGO_PRIMARY_",
        ];
        for (name, _) in std::env::vars_os() {
            if told.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                build.env_remove(name);
            }
        }
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let status = build.current_dir(workspace).status().expect("cargo runs");
        assert!(status.success(), "the binaries under test do not build: {status}");
        folder.join("fieldfare")
    })
}
