//! The command line.

use std::path::PathBuf;

use bottle_plan::{BackendKind, Topology};
use clap::{Args, Parser, Subcommand, ValueEnum};
use probe_spec::{Leak, Priority};

/// Proves, by attack, what a bottle holds.
///
/// A probe agent inside a real bottle tries to get out, witnesses outside see whether it did.
///
/// Exit codes: 0 held, 1 breached, 2 inconclusive, 3 the suite or the engine failed, 4 nothing ran,
/// 5 an expired waiver, 64 usage, 69 no engine, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "bottle-conform", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists probes and their cells.
    List(ListArgs),
    /// Attacks real bottles and reports what held.
    Run(RunArgs),
    /// Attacks known-leaky bottles: every probe must turn red where its control was removed.
    SelfTest(SelfTestArgs),
    /// Judges saved evidence again.
    Judge(JudgeArgs),
    /// Explains a probe: requirement, why, what it does, what proves it, what to do when it is breached.
    Explain(ExplainArgs),
    /// Launches one bottle and holds it until standard input ends (used by the life-cycle probes, which kill it).
    #[command(name = "__launch", hide = true)]
    Launch(LaunchArgs),
    /// Calls smolvm with a control left out (what known-leaky machines are made with).
    #[command(name = "__smolvm", hide = true)]
    Loose(LooseArgs),
}

/// Which probes.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Probe ids or cells, with globs: `LB-01`, `LB-*`, `EG-0?`, `LB-01::*::docker::sealed`.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Only these families (the two letters of an id).
    #[arg(long, value_name = "XX", value_delimiter = ',')]
    pub family: Vec<String>,
    /// Only these ids.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub id: Vec<String>,
    /// Only these priorities.
    #[arg(long, value_name = "P0|P1|P2", value_delimiter = ',', value_parser = priority)]
    pub priority: Vec<Priority>,
    /// Only probes with one of these tags.
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// Backends of the cells: a column each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "docker")]
    pub backend: Vec<BackendChoice>,
    /// Topologies of the cells.
    #[arg(long, value_delimiter = ',', value_parser = topology, default_value = "sealed,routed")]
    pub topology: Vec<Topology>,
}

/// Backends that the suite can drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BackendChoice {
    /// Containers of the Docker Engine.
    #[default]
    Docker,
    /// microVMs of the smolvm program.
    Smolmachines,
}

impl BackendChoice {
    /// Its name in cells.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Smolmachines => "smolmachines",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Docker, Self::Smolmachines]
            .into_iter()
            .find(|choice| choice.name() == name)
    }

    /// What a plan calls it.
    pub fn kind(self) -> BackendKind {
        match self {
            Self::Docker => BackendKind::Docker,
            Self::Smolmachines => BackendKind::Smolmachines,
        }
    }
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which probes.
    #[command(flatten)]
    pub filter: Filter,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Prints every cell.
    #[arg(long)]
    pub verbose: bool,
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which probes.
    #[command(flatten)]
    pub filter: Filter,
    /// Where junit.xml, report.json and evidence.jsonl are written.
    #[arg(long, value_name = "DIR", default_value = "target/conform")]
    pub out: PathBuf,
    /// Waivers: a YAML or JSON list of {probe, case, backend, topology, owner, reason, expires}, the first four globs.
    /// Default: `waivers.yaml` in the working directory, when there is one.
    #[arg(long, value_name = "FILE")]
    pub waivers: Option<PathBuf>,
    /// Prints the report as JSON instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Lists held cells too, and logs what the engine is asked to do.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `self-test`.
#[derive(Clone, Debug, Args)]
pub struct SelfTestArgs {
    /// Which probes.
    #[command(flatten)]
    pub filter: Filter,
    /// Only these known-leaky bottles.
    #[arg(long, value_name = "K-NAME", value_delimiter = ',', value_parser = leak)]
    pub leak: Vec<Leak>,
    /// Attacks only what no earlier self-test of this suite on this engine turned red; nothing when all is proven.
    #[arg(long)]
    pub if_stale: bool,
    /// Where self-test.json is written, besides the cache that `run` reads.
    #[arg(long, value_name = "DIR", default_value = "target/conform")]
    pub out: PathBuf,
    /// Prints self-test.json instead of the matrix.
    #[arg(long)]
    pub json: bool,
    /// Lists every case, and logs what the engine is asked to do.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `judge`.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// An evidence.jsonl.
    #[arg(value_name = "EVIDENCE.jsonl")]
    pub evidence: PathBuf,
    /// Prints the report as JSON instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A probe's id.
    #[arg(value_name = "ID")]
    pub id: String,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `__launch`.
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// A plan, as JSON.
    #[arg(long)]
    pub plan: PathBuf,
    /// The launcher's state directory.
    #[arg(long)]
    pub state: PathBuf,
    /// Value of the run label.
    #[arg(long)]
    pub run: String,
    /// Stops itself (SIGSTOP) as soon as it goes on after having noted a step of this kind for its teardown.
    #[arg(long)]
    pub stop_after: Option<String>,
}

/// Arguments of `__smolvm`.
#[derive(Debug, Args)]
pub struct LooseArgs {
    /// The real one.
    #[arg(long)]
    pub program: PathBuf,
    /// Commands keep their capabilities, and have no filter of system calls.
    #[arg(long)]
    pub unconfined: bool,
    /// Further programs are made the user's by smolvm, and may gain privileges.
    #[arg(long)]
    pub gaining: bool,
    /// Where the address is noted that a routed machine was allowed.
    #[arg(long)]
    pub notes: PathBuf,
    /// Machines have an open network: that of this network namespace.
    #[arg(long)]
    pub namespace: Option<PathBuf>,
    /// The container of that namespace. It is made a member of a routed machine's own network as well.
    #[arg(long)]
    pub member: Option<String>,
    /// What they may do there: `sockets`, `names`.
    #[arg(long, default_value = "sockets")]
    pub policy: String,
    /// What programs are told is their proxy.
    #[arg(long)]
    pub proxy: Option<String>,
    /// Shares are handed in writable.
    #[arg(long)]
    pub writable_shares: bool,
    /// The directory of the host's own sockets, which machines are handed beside their bundle's.
    #[arg(long)]
    pub host_sockets: Option<PathBuf>,
    /// Machines have this file as a disk, and can run machines.
    #[arg(long)]
    pub disk: Option<PathBuf>,
    /// What smolvm is told.
    #[arg(last = true)]
    pub words: Vec<String>,
}

fn priority(text: &str) -> Result<Priority, String> {
    match text.to_ascii_uppercase().as_str() {
        "P0" => Ok(Priority::P0),
        "P1" => Ok(Priority::P1),
        "P2" => Ok(Priority::P2),
        _ => Err("expected P0, P1 or P2".to_owned()),
    }
}

fn topology(text: &str) -> Result<Topology, String> {
    match text {
        "sealed" => Ok(Topology::Sealed),
        "routed" => Ok(Topology::Routed),
        _ => Err("expected sealed or routed".to_owned()),
    }
}

fn leak(text: &str) -> Result<Leak, String> {
    let wanted = text.to_ascii_uppercase();
    let names = Leak::ALL.iter().map(|leak| (leak.to_string(), *leak));
    let mut nearest = (0.0, String::new());
    for (name, leak) in names {
        if name == wanted {
            return Ok(leak);
        }
        let likeness = strsim::jaro_winkler(&name, &wanted);
        if likeness > nearest.0 {
            nearest = (likeness, name);
        }
    }
    Err(format!(
        "there is no such known-leaky bottle; the nearest is {}",
        nearest.1
    ))
}
