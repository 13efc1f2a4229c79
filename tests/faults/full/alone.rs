//! Tests that need a mount namespace run again in one, as a process of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In the environment of a test that has its namespace.
const INSIDE: &str = "FIELDFARE_TEST_HAS_A_NAMESPACE";

/// Ways to a namespace in which disks can be mounted: with a user namespace, as root, or as root by sudo.
const WAYS: [&[&str]; 3] = [
    &["unshare", "--map-root-user", "--mount"],
    &["unshare", "--mount"],
    &["sudo", "--non-interactive", "--preserve-env", "unshare", "--mount"],
];

/// Runs the rest of the calling test where it may mount.
///
/// # Panics
/// When that is not possible here, or the test fails there.
pub(crate) fn in_a_namespace(test: impl FnOnce()) {
    if std::env::vars_os().any(|(name, _)| name == INSIDE) {
        return test();
    }
    let name = std::thread::current().name().unwrap().to_owned();
    // Built before, since the one inside may be somebody else.
    let _ = fieldfare_tests::binaries::fieldfare();
    let mut refusals = Vec::new();
    for way in WAYS {
        let tried = Command::new(way[0])
            .args(&way[1..])
            .args(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"])
            .stdin(Stdio::null())
            .output();
        match tried {
            Ok(output) if output.status.success() => {
                let status = Command::new(way[0])
                    .args(&way[1..])
                    .arg(std::env::current_exe().unwrap())
                    .args(["--exact", &name, "--nocapture"])
                    .env(INSIDE, "1")
                    .status()
                    .unwrap();
                assert!(status.success(), "{name} failed in its namespace, as said above");
                return;
            }
            Ok(output) => refusals.push(format!("{way:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => refusals.push(format!("{way:?}: {error}")),
        }
    }
    panic!(
        "{name} needs a small disk, and may not mount one. Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, and on \
         Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), or run it as root, or give it sudo without a password:\n{}",
        refusals.join("\n")
    );
}

/// A small disk.
#[derive(Debug)]
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one of so many MiB.
    pub(crate) fn mount(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success(), "mount: {status}");
        Self { at: at.to_path_buf() }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Leaves not one byte on it.
    pub(crate) fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        for piece in [1 << 20, 1 << 12, 1] {
            let zeroes = vec![0; piece];
            while file.write_all(&zeroes).is_ok() {}
        }
    }

    /// Makes room again.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace takes what is left with it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
