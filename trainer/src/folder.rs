//! The trainer's folder: where everything lies, and the key that signs adapter releases.

use std::path::{Path, PathBuf};

use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_release::tuf::{KeyError, SigningKey};
use ring::rand::SecureRandom;

/// Why the delegation key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DelegationKeyError {
    /// Its file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be made, or the file holds none.
    #[error("the delegation key in {path}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
}

/// Where everything of one trainer lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create(&self) -> Result<(), FileError> {
        files::make_folder(&self.0, Secrecy::Secret)
    }

    /// Key, chain and authorities.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// What enrolment fixed.
    pub fn config(&self) -> PathBuf {
        self.0.join("trainer.json")
    }

    /// Where the rounds service listens, written when it does.
    pub fn endpoints(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }

    /// Removes what an earlier process told about where it listened.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_endpoints(&self) -> Result<(), FileError> {
        files::remove(&self.endpoints())
    }

    /// Files of one job that is being worked on; made if need be.
    ///
    /// # Errors
    /// The system refuses.
    pub fn job(&self, job: &str) -> Result<PathBuf, FileError> {
        let path = self.0.join("jobs").join(job);
        files::make_folder(&path, Secrecy::Secret)?;
        Ok(path)
    }

    /// Removes the files of a job that is over.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_job(&self, job: &str) -> Result<(), FileError> {
        files::remove_folder(&self.0.join("jobs").join(job))
    }

    /// The key that signs adapter releases, made at its first use and readable by its owner alone.
    ///
    /// # Errors
    /// The system refuses, or the file holds no such key.
    pub fn delegation_key(&self, rng: &dyn SecureRandom) -> Result<SigningKey, DelegationKeyError> {
        let path = self.0.join("delegation.pem");
        let wrong = |source| DelegationKeyError::Key {
            path: path.clone(),
            source,
        };
        if let Some(text) = files::read_text(&path)? {
            return SigningKey::from_pem(&text, rng).map_err(wrong);
        }
        let key = SigningKey::generate(rng).map_err(wrong)?;
        files::replace(&path, key.to_pem().as_bytes(), Secrecy::Secret)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use ring::rand::SystemRandom;

    #[test]
    fn the_delegation_key_stays_the_same_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(&directory.path().join("trainer"));
        folder.create().unwrap();
        let made = folder.delegation_key(&SystemRandom::new()).unwrap();
        let again = folder.delegation_key(&SystemRandom::new()).unwrap();
        assert_eq!(made.public(), again.public());
        let mode = fs::metadata(folder.path().join("delegation.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.path().join("delegation.pem"), "not a key").unwrap();
        assert!(matches!(
            folder.delegation_key(&SystemRandom::new()),
            Err(DelegationKeyError::Key { .. })
        ));
    }
}
