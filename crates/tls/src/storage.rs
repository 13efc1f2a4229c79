//! An identity in a directory: `key.pem`, `chain.pem` and `ca.pem`, replaced together or not at all.
//!
//! Three files cannot be renamed at once, so saving keeps a redo log: all three are written beside the old ones as `*.new`
//! and synced, then the empty file `commit` says that they count. Whoever finds `commit` finishes the renames.

use std::io;
use std::path::{Path, PathBuf};

use fieldfare_files::{self as files, FileError, Secrecy, staged};

use crate::certificate::AuthorityCertificate;
use crate::identity::{Identity, IdentityError};
use crate::key::{KeyError, PrivateKey};
use crate::limits::MAX_PEM_BYTES;
use crate::pem::{self, PemError};
use crate::trust::{BundleError, TrustBundle};

const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";
const AUTHORITIES: &str = "ca.pem";
const FILES: [&str; 3] = [KEY, CHAIN, AUTHORITIES];
const COMMIT: &str = "commit";

/// Why an identity could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refuses to read or write.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is longer than any of ours, or is not text.
    #[error("{path} is not a PEM text of at most {MAX_PEM_BYTES} bytes")]
    NotPem {
        /// Which file.
        path: PathBuf,
    },
    /// `key.pem` is no private key of ours.
    #[error("the private key in {path}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// `chain.pem` or `ca.pem` has no certificates.
    #[error("the certificates in {path}")]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
    /// `ca.pem` makes no bundle of authorities.
    #[error("the authorities in {path}")]
    Authorities {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The three files do not belong together.
    #[error("the identity in {path}")]
    Identity {
        /// Which directory.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: IdentityError,
    },
}

impl Identity {
    /// Saves the identity in a directory, which is made if need be (mode 0700), in files of mode 0600. After a crash at any
    /// point [`Self::load`] finds either the old identity whole or this one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn save(&self, directory: &Path) -> Result<(), StorageError> {
        files::make_folder(directory, Secrecy::Secret)?;
        finish(directory)?;
        let authorities: Vec<_> = self.bundle().authorities().iter().map(|a| a.der().clone()).collect();
        let texts = [
            self.key().to_pem(),
            pem::certificates(self.chain()),
            pem::certificates(&authorities),
        ];
        for (name, text) in FILES.into_iter().zip(texts) {
            files::write(&staged(&directory.join(name)), text.as_bytes(), Secrecy::Secret)?;
        }
        files::sync_folder(directory)?;
        files::write(&directory.join(COMMIT), b"", Secrecy::Secret)?;
        files::sync_folder(directory)?;
        finish(directory)
    }

    /// Loads the identity of a directory; none if there is none, as before enrolment.
    ///
    /// # Errors
    /// When a file cannot be read, is not of our form, or the three do not belong together.
    pub fn load(directory: &Path) -> Result<Option<Self>, StorageError> {
        finish(directory)?;
        Self::assemble(directory, |name| directory.join(name))
    }

    /// What [`Self::load`] would give, with the directory left as it is: a save that was committed and not finished is not finished.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn look(directory: &Path) -> Result<Option<Self>, StorageError> {
        let committed = directory.join(COMMIT).exists();
        Self::assemble(directory, |name| {
            let place = directory.join(name);
            let new = staged(&place);
            match committed && new.exists() {
                true => new,
                false => place,
            }
        })
    }

    fn assemble(directory: &Path, place: impl Fn(&str) -> PathBuf) -> Result<Option<Self>, StorageError> {
        let key_path = place(KEY);
        if !key_path.exists() {
            return Ok(None);
        }
        let key =
            PrivateKey::from_pem(&read(&key_path)?).map_err(|source| StorageError::Key { path: key_path, source })?;
        let chain = read_certificates(&place(CHAIN))?;
        let path = place(AUTHORITIES);
        let bundle = TrustBundle::from_der(read_certificates(&path)?)
            .map_err(|source| StorageError::Authorities { path, source })?;
        Self::new(key, chain, bundle)
            .map(Some)
            .map_err(|source| StorageError::Identity {
                path: directory.to_owned(),
                source,
            })
    }
}

impl TrustBundle {
    /// The authorities as PEM text, for tools that are not ours.
    pub fn to_pem(&self) -> String {
        let authorities: Vec<_> = self
            .authorities()
            .iter()
            .map(AuthorityCertificate::der)
            .cloned()
            .collect();
        pem::certificates(&authorities)
    }
}

/// Finishes a save that was committed.
fn finish(directory: &Path) -> Result<(), StorageError> {
    let commit = directory.join(COMMIT);
    if !commit.exists() {
        return Ok(());
    }
    for name in FILES {
        let place = directory.join(name);
        match std::fs::rename(staged(&place), &place) {
            // Renamed before the crash.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(FileError::of("rename", &staged(&place)))?,
        }
    }
    files::sync_folder(directory)?;
    files::remove(&commit)?;
    Ok(files::sync_folder(directory)?)
}

fn read(path: &Path) -> Result<String, StorageError> {
    let not_pem = || StorageError::NotPem { path: path.to_owned() };
    let missing = || FileError::of("open", path)(io::ErrorKind::NotFound.into());
    let bytes = files::read_start(path, MAX_PEM_BYTES as u64 + 1)?.ok_or_else(missing)?;
    if bytes.len() > MAX_PEM_BYTES {
        return Err(not_pem());
    }
    String::from_utf8(bytes).map_err(|_| not_pem())
}

fn read_certificates(path: &Path) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, StorageError> {
    pem::parse(&read(path)?).map_err(|source| StorageError::Certificates {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use crate::test_fleet::Fleet;

    #[test]
    fn an_identity_comes_back_as_it_was_saved_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("identity");
        assert!(
            Identity::load(&directory).unwrap().is_none(),
            "nothing there before enrolment"
        );
        let identity = Fleet::new().device(1);
        identity.save(&directory).unwrap();
        let loaded = Identity::load(&directory).unwrap().unwrap();
        assert_eq!(loaded.certificate(), identity.certificate());
        assert_eq!(loaded.bundle(), identity.bundle());
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                entry.file_name().into_string().unwrap()
            })
            .collect();
        names.sort();
        assert_eq!(names, ["ca.pem", "chain.pem", "key.pem"]);
    }

    /// Every state of the directory that a crash during a save can leave.
    #[test]
    fn a_crash_at_any_step_leaves_one_whole_identity() {
        let fleet = Fleet::new();
        let (old, new) = (fleet.device(1), fleet.device(2));
        let folder = tempfile::tempdir().unwrap();
        let (saved_old, saved_new) = (folder.path().join("old"), folder.path().join("new"));
        old.save(&saved_old).unwrap();
        new.save(&saved_new).unwrap();
        // Step 0..=2: so many files are staged. Step 3..=6: committed, and so many (less 3) are renamed.
        for step in 0..=6 {
            let directory = folder.path().join(format!("crash-{step}"));
            fs::create_dir(&directory).unwrap();
            for (index, name) in FILES.into_iter().enumerate() {
                fs::copy(saved_old.join(name), directory.join(name)).unwrap();
                if step > 3 + index {
                    fs::copy(saved_new.join(name), directory.join(name)).unwrap();
                } else if step > index {
                    fs::copy(saved_new.join(name), staged(&directory.join(name))).unwrap();
                }
            }
            if step >= 3 {
                fs::write(directory.join(COMMIT), b"").unwrap();
            }
            let expected = if step >= 3 { &new } else { &old };
            let names = || {
                fs::read_dir(&directory)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect::<BTreeSet<_>>()
            };
            let before = names();
            let seen = Identity::look(&directory).unwrap().unwrap();
            assert_eq!(
                (seen.certificate(), names()),
                (expected.certificate(), before),
                "a look at step {step}"
            );
            let found = Identity::load(&directory).unwrap().unwrap();
            assert_eq!(found.certificate(), expected.certificate(), "step {step}");
            let third = fleet.device(3);
            third.save(&directory).unwrap();
            let found = Identity::load(&directory).unwrap().unwrap();
            assert_eq!(
                found.certificate(),
                third.certificate(),
                "saving after a crash at step {step}"
            );
        }
    }

    #[test]
    fn a_key_that_is_not_the_chains_is_refused_by_name() {
        let fleet = Fleet::new();
        let folder = tempfile::tempdir().unwrap();
        fleet.device(1).save(folder.path()).unwrap();
        fs::write(folder.path().join(KEY), fleet.device(2).key().to_pem()).unwrap();
        let error = Identity::load(folder.path()).unwrap_err();
        assert!(
            matches!(
                &error,
                StorageError::Identity {
                    source: IdentityError::KeyMismatch { .. },
                    ..
                }
            ),
            "{error:?}"
        );
        fs::write(folder.path().join(CHAIN), "x".repeat(MAX_PEM_BYTES + 1)).unwrap();
        assert!(matches!(Identity::load(folder.path()), Err(StorageError::NotPem { path }) if path.ends_with(CHAIN)));
    }
}
