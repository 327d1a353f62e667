//! What a backend does for a launch. The launcher knows only this.
//!
//! A backend makes both containers of a bottle: the bundle always lives in a container engine, the guest is whatever the
//! backend is for. [`Role`] says which one is meant.
#![warn(missing_docs)]

mod architecture;
pub mod fake;
mod patience;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use bottle_plan::{BackendKind, ContainerPlan, HostFacts, NetworkPlan, RelayFacts, Topology, VolumePlan};
use bytes::Bytes;
use secrecy::SecretBox;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub use architecture::{Architecture, PartsError, choose};
pub use patience::{patience, patient, patient_ms};

/// A boxed future: the trait is used as `dyn Backend`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Labels on an engine object.
pub type Labels = BTreeMap<String, String>;

/// The way bytes reach a process.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// The way bytes come from a process.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// What a bundle's relay asks for; made for one bottle, and wiped from memory when it is dropped.
pub type RelaySecret = SecretBox<[u8; 32]>;

/// Which of a bottle's two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Where the agent runs.
    Guest,
    /// Where the sidecars run.
    Bundle,
}

/// A failure of a backend call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {problem}")]
pub struct BackendError {
    /// What was asked, for example `create network bottle-x-inner`.
    pub call: String,
    /// What came back.
    pub problem: String,
    /// What kind of failure it is.
    pub kind: BackendErrorKind,
}

/// Kinds of failures that callers treat differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendErrorKind {
    /// The engine does not answer.
    Unreachable,
    /// The thing does not exist.
    NotFound,
    /// It exists already, or a subnet overlaps with another.
    Conflict,
    /// The engine refused what was asked.
    Refused,
    /// It took longer than its limit.
    TimedOut,
    /// The engine answered something that is not understood.
    Unexpected,
}

/// What the machine and its engine are like. Input of `prepare`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// Name and version, for example `docker 20.10.24`.
    pub engine: String,
    /// API version, for example `1.41`.
    pub api: String,
    /// Operating system and architecture of the engine, for example `linux/amd64`.
    pub platform: String,
    /// Kernel of the engine.
    pub kernel: String,
    /// Subnets (CIDR) of networks that exist, and of the host's own interfaces where they can be read.
    pub subnets: Vec<String>,
    /// Whether the engine shares this machine's kernel (not so with an engine in a VM of its own).
    pub shares_kernel: bool,
    /// How the sockets of a guest's bundle are led to it by a relay ([`Backend::relay`]), when it cannot open them itself.
    #[serde(default)]
    pub relay: Option<RelayFacts>,
    /// Processors of the engine's machine; `None` when it does not say.
    pub processors: Option<u32>,
}

impl EngineFacts {
    /// Hands on what a plan has to know of them.
    pub fn add_to(self, facts: &mut HostFacts) {
        facts.subnets = self.subnets;
        facts.processors = self.processors;
        facts.relay = self.relay;
    }
}

/// What a container was really given, as the engine reports it after creation and start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Id in the engine.
    pub id: String,
    /// The plan's fields as the engine holds them, in the plan's own shape, so that drift is a comparison.
    pub applied: ContainerPlan,
    /// Labels.
    pub labels: Labels,
    /// Addresses by network name.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Published ports: container port/protocol to host address and port.
    pub published: BTreeMap<String, Vec<(IpAddr, u16)>>,
    /// Process id of its first process on the engine's host, while it runs.
    pub pid: Option<i32>,
    /// Whether it runs.
    pub running: bool,
}

/// A program to run in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Extra environment.
    pub env: BTreeMap<String, String>,
    /// User; `None`: the container's.
    pub user: Option<String>,
    /// Working directory; `None`: the container's.
    pub workdir: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// Streams of a running program.
pub struct Streams {
    /// Standard input. Dropping or shutting it down ends it.
    pub stdin: Input,
    /// Standard output (with a terminal: everything).
    pub stdout: Output,
    /// Standard error (with a terminal: nothing).
    pub stderr: Output,
}

/// A program that runs in a container.
pub struct Exec {
    /// Id in the engine, for [`Backend::resize`].
    pub id: String,
    /// Its streams.
    pub streams: Streams,
    /// Its exit code, when it has ended.
    pub exit: BoxFuture<'static, Result<i64, BackendError>>,
}

/// Something of ours in the engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// Name.
    pub name: String,
    /// Id (containers, networks) or name (volumes).
    pub id: String,
    /// Labels.
    pub labels: Labels,
}

/// Kinds of engine objects that a bottle leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceKind {
    /// A container, or a microVM.
    Container,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

/// What a backend can and cannot do, per topology. A probe whose need is in `cannot` is not applicable, with that reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityContract {
    /// Which backend.
    pub backend: BackendKind,
    /// Which topologies it offers.
    pub topologies: Vec<Topology>,
    /// What it does not have, by (topology, capability name), with the reason.
    pub cannot: Vec<(Topology, String, String)>,
}

/// The calls of a launch. Every one has a time limit and names itself in its error.
pub trait Backend: Send + Sync {
    /// Which kind.
    fn kind(&self) -> BackendKind;

    /// What it can and cannot do.
    fn contract(&self) -> CapabilityContract;

    /// What the engine is like.
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, BackendError>>;

    /// Whether an image is there; its id.
    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>>;

    /// Loads an image from a `docker save` archive.
    fn load_image<'a>(&'a self, reference: &'a str, archive: Bytes) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Makes a network; the subnet it was given.
    fn create_network<'a>(
        &'a self,
        plan: &'a NetworkPlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<NetworkMade, BackendError>>;

    /// Makes a volume.
    fn create_volume<'a>(&'a self, plan: &'a VolumePlan, labels: &'a Labels)
    -> BoxFuture<'a, Result<(), BackendError>>;

    /// Makes a container, not started. `subnets` has the subnet of every network by name (of a container that is on none, it
    /// may be empty). Both halves may be made at once: what needs the other half running belongs into
    /// [`start`](Backend::start).
    fn create<'a>(
        &'a self,
        role: Role,
        plan: &'a ContainerPlan,
        labels: &'a Labels,
        subnets: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, BackendError>>;

    /// Attaches to the standard streams of a container, before or after its start.
    fn attach<'a>(&'a self, role: Role, id: &'a str, tty: bool) -> BoxFuture<'a, Result<Streams, BackendError>>;

    /// Leads a guest's sockets to the published port of its bundle, which asks for the secret: from before the guest's start
    /// until it is removed. Only of guests whose plan has a relay.
    fn relay<'a>(
        &'a self,
        guest: &'a str,
        to: SocketAddr,
        secret: RelaySecret,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        drop(secret);
        Box::pin(async move {
            Err(BackendError {
                call: format!("lead the sockets of {guest} to {to}"),
                problem: "this backend's guests have their bundle's sockets themselves".to_owned(),
                kind: BackendErrorKind::Refused,
            })
        })
    }

    /// Starts it.
    fn start<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<(), BackendError>>;

    /// What it was really given.
    fn observe<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<Observed, BackendError>>;

    /// What a network was really given, in the plan's own shape.
    fn observe_network<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NetworkPlan, BackendError>>;

    /// Runs a program in it.
    fn exec<'a>(&'a self, role: Role, id: &'a str, spec: &'a ExecSpec) -> BoxFuture<'a, Result<Exec, BackendError>>;

    /// Tells a terminal its size. `exec` is an exec id, or `None` for the container's own terminal.
    fn resize<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        exec: Option<&'a str>,
        columns: u16,
        rows: u16,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Unpacks a tar archive below a directory of it.
    fn put<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        directory: &'a str,
        archive: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// A tar archive of a directory of it, running or not: what was mounted there, in-memory file systems excepted.
    fn get<'a>(&'a self, role: Role, id: &'a str, path: &'a str) -> BoxFuture<'a, Result<Output, BackendError>>;

    /// Waits for its end; its exit code. Must be called before the end may happen when `auto_remove` is set.
    fn wait<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>>;

    /// Sends a signal (by name, `TERM`).
    fn signal<'a>(&'a self, role: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Removes something, running or not. Something that is gone already is no error.
    fn remove<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Everything in the engine that has this label (and value, when given).
    fn inventory<'a>(
        &'a self,
        label: &'a str,
        value: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Resource>, BackendError>>;
}

/// A network that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMade {
    /// Id in the engine.
    pub id: String,
    /// Its IPv4 subnet in CIDR form.
    pub subnet: String,
    /// Its gateway, when it has one.
    pub gateway: Option<IpAddr>,
}
