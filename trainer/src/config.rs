//! The command line and the environment, parsed once into what the rest of the process needs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fieldfare_files::{self as files, FileError};
use fieldfare_tls::Endpoint;
use serde::{Deserialize, Serialize};

use crate::farm_files::FarmOptions;
use crate::folder::Folder;
use crate::pretrain::PretrainOptions;

/// Where `hf://` leads where the environment says nothing.
pub const HUB_ENDPOINT: &str = "https://huggingface.co";

/// Imports models and runs federated rounds for a Fieldfare controller.
#[derive(Debug, Parser)]
#[command(name = "fieldfare-trainer", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrols this trainer with a join token.
    Enrol(Enrol),
    /// Works for the controller until it is told to stop.
    Run(Run),
    /// Makes the model that the project ships, from scratch.
    Pretrain(PretrainOptions),
    /// Writes the text of the farm-gateway task, one file for each device.
    Farm(FarmOptions),
}

/// Options of `enrol`.
#[derive(Debug, Args)]
pub struct Enrol {
    /// Folder of the trainer; created if it is missing.
    #[arg(long)]
    pub dir: PathBuf,
    /// The join token, as `fieldfare token create --role trainer` printed it.
    #[arg(long)]
    pub token: String,
    /// What people call this trainer.
    #[arg(long, default_value = "trainer")]
    pub name: String,
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Folder that `enrol` made.
    #[arg(long)]
    pub dir: PathBuf,
    /// Address of the service that devices bring contributions to; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub rounds_listen: SocketAddr,
    /// DNS name or address under which devices reach it. Without it, the address that it listens on.
    #[arg(long)]
    pub advertise: Option<String>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber`'s `EnvFilter`.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// Where `hf://` sources come from.
    #[command(flatten)]
    pub hub: Hub,
}

/// Where `hf://` sources come from.
#[derive(Clone, Args)]
pub struct Hub {
    /// Base address of the hub.
    #[arg(long = "hub-endpoint", env = "HF_ENDPOINT", default_value = HUB_ENDPOINT)]
    pub endpoint: String,
    /// Access token of the hub.
    #[arg(long = "hub-token", env = "HF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Never shows the token.
impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Schema of `trainer.json`.
pub const SCHEMA: u32 = 1;

/// What enrolment fixed: `trainer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerConfig {
    /// Version of this file's form.
    pub schema: u32,
    /// What people call the trainer.
    pub name: String,
    /// Controllers to try in turn, `https://host:port`.
    pub endpoints: Vec<String>,
}

/// Where the trainer listens: `endpoints.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsFile {
    /// The rounds service, `https://host:port`.
    pub rounds: String,
}

/// Why `trainer.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error("{path} does not exist: enrol this trainer first (fieldfare-trainer enrol --dir ... --token ...)")]
    NotEnrolled {
        /// Where it should be.
        path: String,
    },
    /// It was written by another version.
    #[error("{path} has schema {found}, expected {SCHEMA}")]
    Schema {
        /// Which file.
        path: String,
        /// Its schema.
        found: u32,
    },
    /// An endpoint is none, or there is none.
    #[error("field `endpoints` of {path}: {reason}")]
    Endpoints {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl TrainerConfig {
    /// Reads the configuration and the controllers that it names, in the order in which they are tried.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the field.
    pub fn load(folder: &Folder) -> Result<(Self, Vec<Endpoint>), ConfigError> {
        let path = folder.config().display().to_string();
        let config: Self =
            files::read_json(&folder.config())?.ok_or_else(|| ConfigError::NotEnrolled { path: path.clone() })?;
        if config.schema != SCHEMA {
            return Err(ConfigError::Schema {
                path,
                found: config.schema,
            });
        }
        let wrong = |reason: String| ConfigError::Endpoints {
            path: path.clone(),
            reason,
        };
        if config.endpoints.is_empty() {
            return Err(wrong("there is none".to_owned()));
        }
        let parse = |text: &String| text.parse().map_err(|error| wrong(format!("{error}")));
        let endpoints = config.endpoints.iter().map(parse).collect::<Result<_, _>>()?;
        Ok((config, endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_folder_that_is_not_enrolled_says_how_to_enrol() {
        let directory = tempfile::tempdir().unwrap();
        let error = TrainerConfig::load(&Folder::new(directory.path())).unwrap_err();
        assert!(error.to_string().contains("fieldfare-trainer enrol"), "{error}");
    }

    #[test]
    fn the_hub_token_never_shows() {
        let hub = Hub {
            endpoint: HUB_ENDPOINT.to_owned(),
            token: Some("hf_secret".to_owned()),
        };
        assert!(!format!("{hub:?}").contains("secret"));
    }
}
