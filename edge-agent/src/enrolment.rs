//! Enrolment: how the device joins, and what it is configured to be from then on.

use fieldfare_files::{FileError, Secrecy, replace_json};
use fieldfare_fleet::limits::MAX_NAME_BYTES;
use fieldfare_fleet::{ByteSize, CapabilityProfile, reference_profile};
use fieldfare_member::enrolment::{Applicant, EnrolmentError, admit, join};
use fieldfare_tls::{Identity, JoinRole, JoinToken, StorageError, TimeSource};

use crate::args;
use crate::config::{AgentConfig, Consent, SCHEMA, Settings, label_pairs, parse_labels};
use crate::folder::Folder;
use crate::measure;

/// Why a device could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// An argument cannot be.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which one.
        argument: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The device may not join, or could not.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    /// The identity could not be saved.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration could not be saved.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Enrols this device: a key, a certificate from the controller that the token pins, configuration and settings.
///
/// # Errors
/// [`EnrolError`]; the folder is not enrolled then.
pub async fn enrol(arguments: &args::Enrol, time: &TimeSource) -> Result<Identity, EnrolError> {
    let folder = Folder::new(&arguments.dir);
    let token = admit(&arguments.token, JoinRole::Device, &folder.identity())?;
    folder.create()?;
    let (config, settings) = configuration(arguments, &token, &folder)?;
    let applicant = Applicant {
        role: JoinRole::Device,
        display_name: config.name.clone(),
        profile: Some((&config.profile).into()),
        labels: label_pairs(&config.labels),
    };
    let identity = join(&token, applicant, time).await?;
    // The identity is last: a folder with an identity has everything else.
    replace_json(&folder.config(), &config, Secrecy::Secret)?;
    replace_json(&folder.settings(), &settings, Secrecy::Secret)?;
    identity.save(&folder.identity())?;
    Ok(identity)
}

fn argument(argument: &'static str) -> impl Fn(String) -> EnrolError {
    move |reason| EnrolError::Argument { argument, reason }
}

fn configuration(
    arguments: &args::Enrol,
    token: &JoinToken,
    folder: &Folder,
) -> Result<(AgentConfig, Settings), EnrolError> {
    let mut profile = profile(&arguments.profile, folder).map_err(argument("--profile"))?;
    if let Some(bytes) = arguments.model_memory {
        profile.model_memory = ByteSize::new(bytes);
    }
    profile
        .validate()
        .map_err(|error| argument("--model-memory")(error.to_string()))?;
    let consent = match arguments.consent {
        args::Answer::Yes => Consent::Given,
        args::Answer::No => Consent::Withheld,
    };
    let config = AgentConfig {
        schema: SCHEMA,
        name: arguments.name.clone().unwrap_or_else(host_name),
        labels: parse_labels(&arguments.labels).map_err(argument("--labels"))?,
        endpoints: token.endpoints.iter().map(ToString::to_string).collect(),
        root_sha256: token.root.sha256,
        root_version: token.root.version,
        profile: profile.clone(),
    };
    Ok((config, Settings::new(consent, profile.model_memory)))
}

fn profile(name: &str, folder: &Folder) -> Result<CapabilityProfile, String> {
    if name == "measured" {
        return measure::profile(folder.path()).map_err(|error| error.to_string());
    }
    reference_profile(name).ok_or_else(|| {
        let known: Vec<_> = fieldfare_fleet::reference_profiles()
            .into_iter()
            .map(|profile| profile.device_model)
            .collect();
        format!("{name:?} is neither `measured` nor one of {}", known.join(", "))
    })
}

/// The host's name as a DNS label.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let label: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_NAME_BYTES)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "device".to_owned()
    } else {
        label.to_owned()
    }
}
