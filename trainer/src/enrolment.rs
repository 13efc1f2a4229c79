//! Enrolment: how the trainer joins.

use std::collections::BTreeMap;

use fieldfare_files::{FileError, Secrecy, replace_json};
use fieldfare_member::enrolment::{Applicant, EnrolmentError, admit, join};
use fieldfare_tls::{Identity, JoinRole, StorageError, TimeSource};

use crate::config::{self, SCHEMA, TrainerConfig};
use crate::folder::Folder;

/// Why a trainer could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The trainer may not join, or could not.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    /// The identity could not be saved.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration could not be saved.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Enrols this trainer: a key, a certificate from the controller that the token pins, and the configuration.
///
/// # Errors
/// [`EnrolError`]; the folder is not enrolled then.
pub async fn enrol(options: &config::Enrol, time: &TimeSource) -> Result<Identity, EnrolError> {
    let folder = Folder::new(&options.dir);
    let token = admit(&options.token, JoinRole::Trainer, &folder.identity())?;
    folder.create()?;
    let applicant = Applicant {
        role: JoinRole::Trainer,
        display_name: options.name.clone(),
        profile: None,
        labels: BTreeMap::new(),
    };
    let identity = join(&token, applicant, time).await?;
    let config = TrainerConfig {
        schema: SCHEMA,
        name: options.name.clone(),
        endpoints: token.endpoints.iter().map(ToString::to_string).collect(),
    };
    // The identity is last: a folder with an identity has everything else.
    replace_json(&folder.config(), &config, Secrecy::Secret)?;
    identity.save(&folder.identity())?;
    Ok(identity)
}
