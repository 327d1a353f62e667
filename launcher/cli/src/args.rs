//! The command line.

use std::path::PathBuf;

use bottle_plan::{BackendKind, Topology};
use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "Exit codes of `bottle run`:
  the command's own when it ran (128 + N when signal N ended it), and
  64   the command line or the manifest cannot be used
  69   no engine answers
  70   the bottle could not be launched
  125  the guest could not be prepared, 126 the command cannot be run, 127 it was not found
  130  stopped by a signal before the command had ended";

/// Runs an agent in a bottle: a container that reaches only what its manifest allows.
#[derive(Debug, Parser)]
#[command(name = "bottle", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Shows what the engine is asked to do.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Launches a bottle, runs a command in it and removes it again.
    Run(RunArgs),
    /// Shows what would be launched, without launching anything.
    Plan(PlanArgs),
    /// Prints the JSON schema of bottle.yaml.
    Schema,
    /// Removes what dead launchers left in the engine and on disk.
    Cleanup,
}

/// Which bottle.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Name of the bottle in the manifest.
    #[arg(long, short, value_name = "NAME")]
    pub bottle: String,
    /// The manifest.
    #[arg(long, short, value_name = "FILE", default_value = "bottle.yaml")]
    pub manifest: PathBuf,
    /// Instead of the manifest's backend (also: the environment variable BOTTLE_BACKEND).
    #[arg(long, value_enum)]
    pub backend: Option<BackendName>,
    /// The smolvm program, for the backend smolmachines; the first on the path when absent (also: the environment variable
    /// BOTTLE_SMOLVM).
    #[arg(long, value_name = "FILE")]
    pub smolvm: Option<PathBuf>,
    /// Instead of the manifest's topology.
    #[arg(long, value_enum)]
    pub topology: Option<TopologyName>,
}

/// `bottle run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which bottle.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Command and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `bottle plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which bottle.
    #[command(flatten)]
    pub chosen: Chosen,
    /// The whole plan as JSON.
    #[arg(long)]
    pub json: bool,
    /// Command and arguments; a shell when there is none.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Names of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// A container of the Docker Engine.
    Docker,
    /// A microVM of smolvm.
    Smolmachines,
}

impl From<BackendName> for BackendKind {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Docker => Self::Docker,
            BackendName::Smolmachines => Self::Smolmachines,
        }
    }
}

/// Names of topologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopologyName {
    /// No network at all: loopback forwarders lead to the proxy.
    Sealed,
    /// An internal network on which there is only the proxy.
    Routed,
}

impl From<TopologyName> for Topology {
    fn from(name: TopologyName) -> Self {
        match name {
            TopologyName::Sealed => Self::Sealed,
            TopologyName::Routed => Self::Routed,
        }
    }
}
