//! The command line, parsed once into what the rest of the process needs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fieldfare_fleet::TenantName;
use fieldfare_tls::{HostName, TrustDomain};

/// The control plane of a Fieldfare fleet.
#[derive(Debug, Parser)]
#[command(name = "fieldfare-controller", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Creates the fleet's keys, its store, and the first operator's credential.
    Init(Init),
    /// Serves the fleet until it is told to stop.
    Run(Run),
}

/// Options of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Folder of the fleet; created if it is missing.
    #[arg(long)]
    pub dir: PathBuf,
    /// Name of the fleet's authority, the domain of all SPIFFE ids.
    #[arg(long, default_value = "fieldfare.local")]
    pub domain: TrustDomain,
    /// The tenant that this controller serves.
    #[arg(long, default_value = "default")]
    pub tenant: TenantName,
    /// DNS names and addresses under which others reach this controller; the first is told to devices.
    #[arg(long, default_value = "127.0.0.1")]
    pub advertise: Vec<HostName>,
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Folder that `init` made.
    #[arg(long)]
    pub dir: PathBuf,
    /// The state store; `redb:PATH`. Without it, `store.redb` in the folder.
    #[arg(long)]
    pub store: Option<StoreLocation>,
    /// Address of the gRPC services; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7443")]
    pub grpc_listen: SocketAddr,
    /// Address of the artifact server; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7444")]
    pub artifact_listen: SocketAddr,
    /// Address of metrics and health checks, without TLS; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7445")]
    pub metrics_listen: SocketAddr,
    /// Where to send traces and metrics by OTLP over gRPC, for example `http://127.0.0.1:4317`.
    #[arg(long)]
    pub otlp_endpoint: Option<String>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber`'s `EnvFilter`.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the state lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// An embedded database in this file.
    Redb(PathBuf),
}

/// The text is no store location.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no store; expected redb:PATH")]
pub struct StoreLocationError(String);

impl std::str::FromStr for StoreLocation {
    type Err = StoreLocationError;

    fn from_str(text: &str) -> Result<Self, StoreLocationError> {
        match text.split_once(':') {
            Some(("redb", path)) if !path.is_empty() => Ok(Self::Redb(path.into())),
            _ => Err(StoreLocationError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_store_is_refused_with_what_is_expected() {
        assert_eq!(
            "redb:/var/x.redb".parse::<StoreLocation>().unwrap(),
            StoreLocation::Redb("/var/x.redb".into())
        );
        for text in ["", "redb:", "etcd:x", "/var/x.redb"] {
            let error = text.parse::<StoreLocation>().unwrap_err().to_string();
            assert!(error.contains("redb:PATH"), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }
}
