//! The manifest as it is written: what the user typed, with nothing resolved. The JSON schema comes from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{BackendKind, Topology};
use crate::scalar::{ByteSize, Scalar};

/// A `bottle.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "bottle.yaml")]
pub struct Document {
    /// Version of the format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Bottles by name: lower-case letters, digits and hyphens, at most 32.
    pub bottles: BTreeMap<String, Bottle>,
    /// Agents by name.
    #[serde(default)]
    pub agents: BTreeMap<String, Agent>,
}

/// One bottle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bottle {
    /// Which backend makes the guest; `docker` when absent.
    #[serde(default)]
    pub backend: Option<BackendKind>,
    /// How the guest reaches the bundle; `sealed` when absent.
    #[serde(default)]
    pub topology: Option<Topology>,
    /// Image reference of the guest.
    pub image: String,
    /// Environment of the guest. Secrets do not belong here: see `egress.routes`.
    #[serde(default)]
    pub env: BTreeMap<String, Scalar>,
    /// `user[:group]` in the guest, names or numbers; the image's own when absent.
    #[serde(default)]
    pub user: Option<Scalar>,
    /// Working directory, absolute; the image's own when absent.
    #[serde(default)]
    pub workdir: Option<String>,
    /// The project in the guest; without it the guest has none.
    #[serde(default)]
    pub workspace: Option<Workspace>,
    /// Whether the root file system is read-only.
    #[serde(default = "yes")]
    pub read_only: bool,
    /// In-memory file systems by absolute path, with their size.
    #[serde(default)]
    pub tmpfs: BTreeMap<String, ByteSize>,
    /// How much the guest may use.
    #[serde(default)]
    pub limits: GuestLimits,
    /// What the guest may reach.
    #[serde(default)]
    pub egress: Egress,
    /// Repositories that the guest may fetch from and push to.
    #[serde(default)]
    pub git: Option<Git>,
    /// Whether the guest may ask the operator.
    #[serde(default)]
    pub supervise: bool,
}

/// The project in the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// How it gets there; `copy` when absent.
    #[serde(default)]
    pub mode: Option<WorkspaceMode>,
    /// Directory on the operator's machine; the manifest's own when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// Absolute path in the guest; `/work/` and the directory's name when absent.
    #[serde(default)]
    pub target: Option<String>,
    /// Names of files and directories that are not copied, wherever they are.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// How the project gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceMode {
    /// As a copy: nothing that the agent does reaches the project before the operator takes it over.
    Copy,
    /// As it is: the agent changes the project itself, its hooks and its configuration included.
    Bind,
    /// Not at all: the agent clones it through the git gate.
    GitGate,
}

fn yes() -> bool {
    true
}

/// How much a guest may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestLimits {
    /// Memory, without swap; from 16MiB.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// CPUs, fractions allowed.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1024.0))]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(default)]
    #[schemars(range(min = 16, max = 4_194_304))]
    pub pids: Option<u32>,
    /// Open files of a process.
    #[serde(default)]
    #[schemars(range(min = 64, max = 1_048_576))]
    pub open_files: Option<u32>,
}

/// What a guest may reach. Nothing, when empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// `name`, `*.name` (below it, never itself) or an address, each with an optional `:port`; without one, 443 and 80.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Destinations to whose requests a token is added.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Files with certificate authorities (PEM) that upstreams may be signed by, besides the public ones.
    #[serde(default)]
    pub ca_certificates: Vec<String>,
    /// Name servers as `address` or `address:port`; the engine's own when absent.
    #[serde(default)]
    pub resolver: Vec<String>,
}

/// A destination to whose requests a token is added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A name with an optional `:port`; without one, 443. It is allowed without a line in `allow`.
    pub host: String,
    /// How the token is added.
    pub auth: RouteAuth,
}

/// How a token is added: either `header`, or `scheme`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// Field whose whole value is the token.
    #[serde(default)]
    pub header: Option<String>,
    /// Scheme of the `Authorization` field.
    #[serde(default)]
    pub scheme: Option<Scheme>,
    /// User name, with `scheme: basic` only.
    #[serde(default)]
    pub user: Option<String>,
    /// Name of the operator's environment variable that holds the token.
    pub token_env: String,
}

/// Scheme of an `Authorization` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 7617.
    Basic,
}

/// Repositories that the guest may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Upstream repositories.
    pub upstreams: Vec<GitUpstream>,
}

/// An upstream repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitUpstream {
    /// Name in the guest.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The operator's private key for it; it stays outside the guest.
    #[serde(default)]
    pub identity_file: Option<String>,
}

/// An agent: a command in a bottle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Name of its bottle.
    pub bottle: String,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<Scalar>,
    /// What it is told first.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Directories with skills.
    #[serde(default)]
    pub skills: Vec<String>,
}
