//! The command line.

use std::path::PathBuf;

use bottle_plan::{BackendKind, Topology};
use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "Exit codes of `bottle run`, `exec` and `resume`:
  the command's own when it ran (128 + N when signal N ended it), and
  64   the command line or the manifest cannot be used
  66   no such bottle runs, or no work of it is kept
  69   no engine answers
  70   the bottle could not be launched
  125  the guest could not be prepared, 126 the command cannot be run, 127 it was not found
  130  stopped by a signal, or by the answer no, before the command had ended";

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
    /// Writes a commented starter manifest for the project it stands in.
    Init(InitArgs),
    /// Launches a bottle, runs an agent or a command in it and removes it again.
    Run(RunArgs),
    /// Shows what would be launched, without launching anything.
    Plan(PlanArgs),
    /// Goes on with the work of a bottle that has ended: same slug, same policy, its project as it was left.
    Resume(ResumeArgs),
    /// Lists bottles.
    Ps(PsArgs),
    /// Runs another program in a bottle.
    Exec(ExecArgs),
    /// Joins the terminal of a bottle's command.
    Attach(AttachArgs),
    /// Copies files into a bottle or out of one.
    Cp(CpArgs),
    /// Shows what an agent changed in its copy of the project.
    Diff(DiffArgs),
    /// Shows what a bottle's daemons said and decided.
    Logs(LogsArgs),
    /// Says whether a record of a bottle is whole and as it was written.
    Verify(VerifyArgs),
    /// Ends bottles and removes them.
    Stop(StopArgs),
    /// Prints the certificate of a bottle's own authority.
    Ca(CaArgs),
    /// Looks whether bottles can be launched here and whether their walls hold.
    Doctor(DoctorArgs),
    /// Makes images for agents.
    Image(ImageArgs),
    /// Prints the JSON schema of bottle.yaml.
    Schema,
    /// Removes what dead launchers left in the engine and on disk.
    Cleanup(CleanupArgs),
    /// Prints a completion script for a shell.
    Completions(CompletionsArgs),
    /// Prints the manual page, or writes the pages of all commands.
    Man(ManArgs),
}

/// Which agent and bottle.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Name of the agent in the manifest; the only one when neither it nor a bottle is named.
    #[arg(value_name = "AGENT")]
    pub agent: Option<String>,
    /// Name of the bottle in the manifest; the agent's when absent.
    #[arg(long, short, value_name = "NAME")]
    pub bottle: Option<String>,
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
    /// Which agent and bottle.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Launches without a question.
    #[arg(long, short)]
    pub yes: bool,
    /// Records what the bundle decides into a new file, which stays when the bottle is gone: see `bottle verify`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Command and arguments; the agent's when absent.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `bottle plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which agent and bottle.
    #[command(flatten)]
    pub chosen: Chosen,
    /// The whole plan as JSON.
    #[arg(long)]
    pub json: bool,
    /// Command and arguments; the agent's when absent, or a shell.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `bottle resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Slug of the bottle, or the beginning of it.
    pub name: String,
    /// Launches without a question.
    #[arg(long, short)]
    pub yes: bool,
    /// Goes on also when the manifest allows other things than it did.
    #[arg(long)]
    pub accept_changes: bool,
    /// Command and arguments; those of before when absent.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `bottle verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What `bottle run --record` wrote.
    pub file: PathBuf,
}

/// `bottle attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Slug of the bottle, the beginning of it, or its name in the manifest; the only one when absent.
    pub name: Option<String>,
    /// Keys that leave while the command goes on.
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
}

/// `bottle cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Directories are copied into the target, which is made when it is absent. Links out of the tree, devices, \
absolute names and `..` are refused, and nothing is written then."
)]
pub struct CpArgs {
    /// A path of this machine, or NAME:PATH in a bottle; not absolute, it is meant from the project.
    pub from: String,
    /// The same; one of the two must be in a bottle.
    pub to: String,
    /// Takes directories named .git too: your git will run the hooks and configuration in there.
    #[arg(long)]
    pub with_git: bool,
}

/// `bottle diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Slug of the bottle, the beginning of it, or its name in the manifest; the only one when absent.
    pub name: Option<String>,
    /// The lines, not only the names.
    #[arg(long, short, conflicts_with = "json")]
    pub patch: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bottle cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Drops the work that is kept of bottles that have ended, instead: of one slug, or of all.
    #[arg(long, value_name = "SLUG", num_args = 0..=1, default_missing_value = "")]
    pub kept: Option<String>,
}

/// `bottle ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bottle exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Slug of the bottle, the beginning of it, or its name in the manifest; the only one when absent.
    pub name: Option<String>,
    /// Variable of the program's environment; NAME alone takes the value that it has here.
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// User in the guest (`user[:group]`) instead of the guest's own.
    #[arg(long, short)]
    pub user: Option<String>,
    /// Directory in the guest instead of the guest's own.
    #[arg(long, short, value_name = "DIRECTORY")]
    pub workdir: Option<String>,
    /// Gives it no terminal, also when there is one here.
    #[arg(long, short = 'T')]
    pub no_tty: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `bottle logs`.
#[derive(Debug, Default, Args)]
pub struct LogsArgs {
    /// Slug of the bottle, the beginning of it, or its name in the manifest; the only one when absent.
    pub name: Option<String>,
    /// Goes on until the bottle ends.
    #[arg(long, short)]
    pub follow: bool,
    /// Only requests that were blocked.
    #[arg(long)]
    pub blocked: bool,
    /// As JSON lines.
    #[arg(long)]
    pub json: bool,
}

/// `bottle stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Slugs, beginnings of them, or names in the manifest; the only one when absent.
    pub names: Vec<String>,
    /// All bottles.
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

/// `bottle ca`.
#[derive(Debug, Args)]
pub struct CaArgs {
    /// Slug of the bottle, the beginning of it, or its name in the manifest; the only one when absent.
    pub name: Option<String>,
}

/// `bottle init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The agent that it is for.
    #[arg(long, value_enum, default_value_t = AgentName::Claude)]
    pub agent: AgentName,
    /// Where to write it.
    #[arg(long, short, value_name = "FILE", default_value = "bottle.yaml")]
    pub manifest: PathBuf,
    /// Prints it instead.
    #[arg(long)]
    pub print: bool,
}

/// Agents that a starter manifest can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentName {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// Gemini CLI.
    Gemini,
    /// aider.
    Aider,
    /// A shell.
    Shell,
}

/// `bottle doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is, 69 no engine answers")]
pub struct DoctorArgs {
    /// Mends what is safe: leftovers of dead launchers, the mode of the state directory, the bundle's image.
    #[arg(long)]
    pub fix: bool,
    /// Launches no throw-away bottle.
    #[arg(long)]
    pub no_walls: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bottle image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Makes the recommended image, if the engine does not have it, and prints its name: a Debian with Claude Code, git,
    /// Node.js, npm, Python and what agents call.
    Build(ImageBuildArgs),
}

/// `bottle image build`.
#[derive(Debug, Args)]
#[command(
    after_help = "Needs mmdebstrap and npm on this machine. As another user than root, mmdebstrap needs user namespaces."
)]
pub struct ImageBuildArgs {
    /// A Debian package besides the usual ones.
    #[arg(long, value_name = "NAME")]
    pub package: Vec<String>,
    /// One more name for it in the engine, for manifests.
    #[arg(long, value_name = "NAME[:TAG]")]
    pub tag: Option<String>,
    /// Makes it anew, with today's packages.
    #[arg(long)]
    pub fresh: bool,
}

/// `bottle completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `bottle man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory to write the pages of all commands into.
    pub directory: Option<PathBuf>,
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
