//! The plan: everything that will be made for one bottle, as plain data that can be printed, diffed and saved.
//!
//! A plan names environment variables that hold secrets, never their values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bottle_policy::BundleConfig;
use serde::{Deserialize, Serialize};

use crate::document::WorkspaceMode;

/// Version of the plan document.
pub const PLAN_VERSION: u32 = 1;

/// Label on everything of ours in an engine: the slug of the bottle it belongs to.
pub const LABEL_SLUG: &str = "bottle.slug";
/// Label: the run (a conformance run, or one `bottle run`) that made it.
pub const LABEL_RUN: &str = "bottle.run";
/// Label: process id of the launcher that made it.
pub const LABEL_OWNER_PID: &str = "bottle.owner-pid";
/// Label: start time of that process in clock ticks since boot (`/proc/PID/stat` field 22), so that a reused id is told apart.
pub const LABEL_OWNER_START: &str = "bottle.owner-start";
/// Label: what it is (`guest`, `bundle`, `inner-network`, `outer-network`, `shared-volume`, `witness`, ...).
pub const LABEL_ROLE: &str = "bottle.role";

/// How the guest reaches the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// The guest has no network; loopback forwarders lead to the bundle's UNIX sockets.
    Sealed,
    /// The guest and the bundle share an internal network on which the host has no address.
    Routed,
}

/// Which kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// A container of the Docker Engine.
    Docker,
    /// A microVM of the smolvm program.
    Smolmachines,
}

/// One bottle, ready to be launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Unique name of this bottle: names of engine objects derive from it.
    pub slug: String,
    /// Key of the bottle in the manifest.
    pub bottle: String,
    /// Which backend makes the guest.
    pub backend: BackendKind,
    /// How the guest reaches the bundle.
    pub topology: Topology,
    /// Networks to make, in this order.
    pub networks: Vec<NetworkPlan>,
    /// Volumes to make.
    pub volumes: Vec<VolumePlan>,
    /// The bundle's container.
    pub bundle: ContainerPlan,
    /// What the bundle is told over its standard input.
    pub config: BundleConfig,
    /// Name of the operator's environment variable for every token in `config.routes`.
    pub token_env: Vec<String>,
    /// The guest.
    pub guest: ContainerPlan,
    /// Files of the launcher's state directory for this bottle.
    pub state: Vec<StateFile>,
    /// What happens around the bottle's life.
    pub lifecycle: Lifecycle,
    /// The project in the guest, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspacePlan>,
    /// The bottle's own authority in the image's own trust stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<CopyPlan>,
    /// The agent, when one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentPlan>,
}

/// The project in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspacePlan {
    /// How it gets there.
    pub mode: WorkspaceMode,
    /// Directory on the operator's machine.
    pub source: String,
    /// Directory of the guest that it is in.
    pub parent: String,
    /// What it is called there.
    pub name: String,
    /// Names that are not copied.
    pub exclude: Vec<String>,
}

impl WorkspacePlan {
    /// Its absolute path in the guest.
    pub fn target(&self) -> String {
        format!("{}/{}", self.parent, self.name)
    }
}

/// An agent of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentPlan {
    /// Key in the manifest.
    pub name: String,
    /// What it is told first; put into the guest also when it is empty.
    pub prompt: String,
    /// Directory of the guest where it looks for skills.
    pub skills_dir: String,
    /// Skills.
    pub skills: Vec<SkillPlan>,
    /// What the guest's init copies from the shared directory before the command starts.
    pub copies: Vec<CopyPlan>,
}

/// A directory with a skill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillPlan {
    /// Name in the guest.
    pub name: String,
    /// Path on the operator's machine, as it is written in the manifest.
    pub source: String,
}

/// A file or directory that the guest's init copies, as the guest's user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyPlan {
    /// Absolute path in the guest, in the shared directory.
    pub source: String,
    /// Absolute path in the guest.
    pub target: String,
}

/// A network to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// Name in the engine.
    pub name: String,
    /// Value of [`LABEL_ROLE`].
    pub role: String,
    /// Whether the engine drops what would be forwarded out of it.
    pub internal: bool,
    /// Whether the host is to have no IPv4 address on it (`com.docker.network.bridge.inhibit_ipv4`).
    pub host_absent: bool,
    /// Whether the host translates source addresses of what leaves it.
    pub masquerade: bool,
    /// IPv4 subnets to try in order until the engine accepts one: (subnet in CIDR form, gateway). Empty: the engine chooses.
    pub subnets: Vec<Subnet>,
    /// An IPv6 subnet, when the network has IPv6.
    pub ipv6: Option<Subnet>,
}

/// A subnet with its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// CIDR form.
    pub cidr: String,
    /// The address that the engine takes for the host's end (unless the host is absent) and as members' default gateway.
    pub gateway: Option<IpAddr>,
    /// Another default gateway for members (`DefaultGatewayIPv4`/`IPv6` auxiliary address of the bridge driver).
    pub members_gateway: Option<IpAddr>,
}

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    /// Name in the engine.
    pub name: String,
    /// Value of [`LABEL_ROLE`].
    pub role: String,
    /// Size in bytes when it lives in memory (tmpfs); `None` for an ordinary volume.
    pub tmpfs_bytes: Option<u64>,
}

/// A container (or, on smolmachines, the microVM that stands for the guest's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPlan {
    /// Name in the engine.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Program and arguments that replace the image's entry point; empty keeps the image's own.
    pub entrypoint: Vec<String>,
    /// Arguments after it; with an empty `entrypoint` and empty `command`, the image's own.
    pub command: Vec<String>,
    /// Environment (no secret ever).
    pub env: BTreeMap<String, String>,
    /// `user[:group]`, names or numbers; `None` keeps the image's.
    pub user: Option<String>,
    /// Working directory; `None` keeps the image's.
    pub workdir: Option<String>,
    /// Host name; `None` lets the engine choose.
    pub hostname: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether standard input is held open for the launcher.
    pub stdin: bool,
    /// What network it has.
    pub network: NetworkMode,
    /// Name servers written for it; on networks with an embedded resolver, the servers that it forwards to.
    pub dns: Vec<IpAddr>,
    /// Extra lines of its hosts file: (name, address or `host-gateway`).
    pub extra_hosts: Vec<(String, String)>,
    /// Published ports: (container port/protocol like `8888/tcp`, host address, host port or 0).
    pub publish: Vec<(String, IpAddr, u16)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// In-memory file systems: (path, size in bytes, options after it, for example `mode=1777,nosuid,nodev`).
    pub tmpfs: Vec<(String, u64, String)>,
    /// What it may do.
    pub hardening: Hardening,
    /// How much it may use.
    pub limits: Limits,
    /// Whether the engine removes it by itself when it ends.
    pub auto_remove: bool,
}

/// What network a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Its own network namespace with nothing but loopback.
    None,
    /// The host's network namespace. No shipped plan has it.
    Host,
    /// Member of these networks; the first is connected at creation.
    Networks(Vec<Attachment>),
}

/// Membership of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Host number in the subnet that the network was given (2 = `.2`); `None`: the engine chooses.
    pub host_number: Option<u8>,
    /// DNS aliases on it.
    pub aliases: Vec<String>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// A volume's name or a host path.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it is read-only there.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A volume by name.
    Volume(String),
    /// A path of the engine's host.
    Bind(String),
}

/// What a container may do. [`Hardening::default`] is what every guest gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardening {
    /// Capabilities kept (all others are dropped), by kernel name without `CAP_`. `ALL` keeps all.
    pub capabilities: Vec<String>,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Whether the engine's default seccomp profile is in force.
    pub seccomp: bool,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// The engine's `--privileged`.
    pub privileged: bool,
    /// Shares the host's process namespace.
    pub host_pid: bool,
    /// Shares the host's IPC namespace.
    pub host_ipc: bool,
}

impl Default for Hardening {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            no_new_privileges: true,
            seccomp: true,
            read_only_root: true,
            privileged: false,
            host_pid: false,
            host_ipc: false,
        }
    }
}

/// How much a container may use. `None` is no limit of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory in bytes (swap is never added to it).
    pub memory: Option<u64>,
    /// Thousandths of a CPU.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files of a process.
    pub open_files: Option<u32>,
}

/// A file in the launcher's state directory of the bottle (`STATE/bottles/SLUG/NAME`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// File name, one component.
    pub name: String,
    /// Content.
    pub content: String,
    /// Mode; shipped plans have 0o600.
    pub mode: u32,
    /// Whether teardown leaves it. Shipped plans: no.
    pub keep: bool,
}

/// What happens around a bottle's life. [`Lifecycle::default`] is what every shipped plan has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Whether dead launchers' leftovers are swept before the start.
    pub sweep: bool,
    /// Whether closing the bottle removes what it made.
    pub teardown: bool,
    /// Whether the guest is started only after the bundle said that it is ready.
    pub bundle_first: bool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            sweep: true,
            teardown: true,
            bundle_first: true,
        }
    }
}
