//! The command line, parsed once into what the rest of the process needs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fieldfare_fleet::TenantName;
use fieldfare_store::Location;
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
    /// Writes everything that makes the fleet into one file, private keys included. The controller may run meanwhile.
    Backup(Backup),
    /// Replaces the fleet's certificate authority, in three steps.
    Authority(Authority),
    /// Makes the online keys (snapshot and timestamp) that `fieldfare release rotate-root --online-keys` puts in the place of the present ones.
    NextOnlineKeys(NextOnlineKeys),
    /// Has the running controller remove artifacts that nothing lists, as it does by itself every six hours.
    Collect(Collect),
    /// Makes a fleet of a backup, in a folder and a store that hold nothing.
    Restore(Restore),
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
    /// The state store: a file, or an etcd cluster, which may be shared with others. Without it, `redb:DIR/store.redb`.
    /// With https, `?ca=PATH` names etcd's authority and `&cert=PATH&key=PATH` a client certificate; `prefix=/PATH` is what all keys begin
    /// with (`/fieldfare`).
    #[arg(long, value_name = "redb:PATH | etcd:URL[,URL...]")]
    pub store: Option<Location>,
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Folder that `init` made.
    #[arg(long)]
    pub dir: PathBuf,
    /// The state store that `init` was given. Without it, `redb:DIR/store.redb`.
    #[arg(long, value_name = "redb:PATH | etcd:URL[,URL...]")]
    pub store: Option<Location>,
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

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Folder of the fleet.
    #[arg(long)]
    pub dir: PathBuf,
    /// The state store that `init` was given. Without it, `redb:DIR/store.redb`.
    #[arg(long, value_name = "redb:PATH | etcd:URL[,URL...]")]
    pub store: Option<Location>,
    /// The file, a tar archive, which must not exist. It appears when it is whole, and is readable by its owner only.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Leaves out the weights and adapters of releases, for whoever copies `DIR/blobs` otherwise. What they are is in the backup.
    #[arg(long)]
    pub without_artifacts: bool,
}

/// Options of `authority`.
#[derive(Debug, Args)]
pub struct Authority {
    /// Which step.
    #[arg(value_enum)]
    pub step: AuthorityStep,
    /// Folder of the fleet.
    #[arg(long)]
    pub dir: PathBuf,
    /// Does not wait until everybody who is connected has renewed: who has not must enrol again.
    #[arg(long)]
    pub early: bool,
}

/// A step of the replacement of the authority. The controller is restarted after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthorityStep {
    /// Another authority is trusted beside the present one.
    Announce,
    /// It issues, and the one before is still trusted.
    Switch,
    /// The one before is no longer trusted.
    Retire,
}

/// Options of `next-online-keys`.
#[derive(Debug, Args)]
pub struct NextOnlineKeys {
    /// Folder of the fleet.
    #[arg(long)]
    pub dir: PathBuf,
}

/// Options of `collect`.
#[derive(Debug, Args)]
pub struct Collect {
    /// Folder of the fleet.
    #[arg(long)]
    pub dir: PathBuf,
    /// Only tells what would be removed.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Folder of the fleet, which must be missing or empty.
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// The state store, which must hold nothing: of either kind, whatever the backup was made of. Without it, `redb:DIR/store.redb`.
    #[arg(long, value_name = "redb:PATH | etcd:URL[,URL...]")]
    pub store: Option<Location>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_store_is_refused_by_the_name_of_its_flag_with_what_is_expected() {
        let parse = |command: &str, store: &str| {
            CommandLine::try_parse_from(["fieldfare-controller", command, "--dir", "fleet", "--store", store])
        };
        for command in ["init", "run"] {
            for good in ["redb:/var/x.redb", "etcd:http://a.example:2379,http://b.example:2379"] {
                parse(command, good).unwrap();
            }
            for bad in ["", "redb:", "etcd:x", "/var/x.redb", "etcd:https://a.example"] {
                let error = parse(command, bad).unwrap_err().to_string();
                assert!(error.contains("--store"), "{error}");
                assert!(error.contains("expected redb:PATH or etcd:URL[,URL...]"), "{error}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }
}
