//! From a manifest and what the host is like to a plan.

mod agent;
mod egress;
mod error;
mod guest;
mod inner;
mod input;
mod slug;
mod trust;
mod workspace;

use std::collections::BTreeMap;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};

use bottle_policy::{BundleConfig, Daemon, Listen, RELAY_PORT, RELAYED_DIR, Relay, SHARED_DIR};

use crate::describe::{nearest, one_of};
use crate::document::Bottle;
use crate::manifest::{Manifest, ManifestError};
use crate::places::below;
use crate::plan::{
    Attachment, BackendKind, ContainerPlan, Hardening, Lifecycle, Limits, Mount, MountSource, NetworkMode, NetworkPlan,
    PLAN_VERSION, Plan, StateFile, Topology, VolumePlan,
};

pub use error::PlanError;
pub use guest::{is_own_variable, is_path, placeholder};
pub use input::{HostFacts, PrepareOptions, RelayFacts};
pub use trust::{JAVA_TRUST_FILE, NODE_LEAD_FILE};

/// Where a sealed guest finds the proxy: its own loopback, where `bottle-guest` listens.
pub const GUEST_PROXY: &str = "127.0.0.1:8888";

/// Where a microVM finds the bundle's sockets. [`SHARED_DIR`] itself is a directory of the host there, mounted read-only:
/// its files can be read, but a socket in it leads nowhere from another kernel. So each socket is handed over by itself, to
/// the same name in this directory.
pub const MACHINE_SOCKETS: &str = "/run/bottle-sockets";

/// Socket of pipelock among the bundle's.
pub const PROXY_SOCKET: &str = "proxy.sock";

/// Socket of the bundle whose end is the guest's end.
const LEASE_SOCKET: &str = "lease.sock";

/// Size of the bundle's own directory of sockets.
const RELAYED_BYTES: u64 = 64 << 10;

/// Size of the shared volume: the guest's init (about 1 MiB), a certificate and sockets.
const SHARED_BYTES: u64 = 16 << 20;

/// Port of DNS.
const DNS_PORT: u16 = 53;

/// What the parts of `prepare` read.
struct Input<'a> {
    manifest: &'a Manifest,
    /// `bottles.NAME`.
    path: String,
    name: &'a str,
    bottle: &'a Bottle,
    facts: &'a HostFacts,
    options: &'a PrepareOptions,
    topology: Topology,
    backend: BackendKind,
    slug: String,
}

impl Input<'_> {
    fn path(&self, below: &str) -> String {
        format!("{}.{below}", self.path)
    }

    fn refuse(&self, below: &str, expected: impl Into<String>) -> PlanError {
        self.manifest.refuse(&self.path(below), expected).into()
    }

    fn not_built(&self, path: &str, what: &str) -> PlanError {
        PlanError::NotBuilt {
            place: self.manifest.place(path),
            what: what.to_owned(),
        }
    }

    /// Where the guest finds one of the bundle's sockets.
    fn guest_socket(&self, name: &str) -> String {
        let directory = match self.backend {
            BackendKind::Docker => SHARED_DIR,
            BackendKind::Smolmachines => MACHINE_SOCKETS,
        };
        format!("{directory}/{name}")
    }

    /// Where the bundle makes its sockets.
    fn bundle_sockets(&self) -> &'static str {
        if self.has_relay() { RELAYED_DIR } else { SHARED_DIR }
    }

    /// Whether the launcher leads the bundle's sockets to the guest. A container has them in a volume of the same engine.
    fn has_relay(&self) -> bool {
        self.backend == BackendKind::Smolmachines && self.facts.relay.is_some()
    }

    fn engine_name(&self, part: &str) -> String {
        format!("bottle-{}-{part}", self.slug)
    }
}

/// Makes the plan of one bottle. The same input always gives the same plan.
///
/// # Errors
/// Everything that can be known before anything exists, with its place in the manifest.
pub fn prepare(
    manifest: &Manifest,
    bottle: &str,
    facts: &HostFacts,
    options: &PrepareOptions,
) -> Result<Plan, PlanError> {
    let input = input(manifest, bottle, facts, options)?;
    refuse_unbuilt(&input)?;
    if options.bundle_image.is_empty() {
        return Err(option("bundle_image", "an image reference", "nothing"));
    }
    let subnets = match input.topology {
        Topology::Sealed => Vec::new(),
        Topology::Routed => inner::candidates(&input.slug, &facts.subnets)?,
    };
    let config = config(&input, &subnets)?;
    let mut token_env: Vec<String> = config.routes.iter().map(|route| route.token.clone()).collect();
    token_env.sort();
    token_env.dedup();
    let mut networks = Vec::new();
    if options.outer_network.is_none() {
        networks.push(outer_network(&input));
    }
    if input.topology == Topology::Routed {
        networks.push(inner::network(input.engine_name("inner"), &subnets, input.backend));
    }
    let (mut guest, agent) = guest::container(&input, &config, &token_env)?;
    let mut volumes = vec![VolumePlan {
        name: input.engine_name("shared"),
        role: "shared-volume".to_owned(),
        tmpfs_bytes: Some(SHARED_BYTES),
    }];
    let trust = trust::trust(&input, &config, &mut guest);
    let workspace = workspace::workspace(&input, guest.user.as_deref())?;
    let workspace = workspace.map(|workspace| {
        let plan = workspace.plan;
        if workspace.mount.is_none() {
            // It lies on the guest's root, which is read-only but for it.
            guest.entrypoint.splice(1..1, ["--writable".to_owned(), plan.target()]);
        }
        guest.mounts.extend(workspace.mount);
        guest.workdir.get_or_insert_with(|| plan.target());
        // What was copied and worked on is read after the end.
        guest.auto_remove = workspace.volume.is_none();
        volumes.extend(workspace.volume);
        plan
    });
    Ok(Plan {
        version: PLAN_VERSION,
        slug: input.slug.clone(),
        bottle: bottle.to_owned(),
        backend: input.backend,
        topology: input.topology,
        networks,
        volumes,
        bundle: bundle(&input)?,
        guest,
        state: vec![state_file(&config)],
        config,
        token_env,
        lifecycle: Lifecycle::default(),
        workspace,
        trust,
        agent,
    })
}

fn input<'a>(
    manifest: &'a Manifest,
    name: &'a str,
    facts: &'a HostFacts,
    options: &'a PrepareOptions,
) -> Result<Input<'a>, PlanError> {
    let known = manifest.document().bottles.keys().map(String::as_str);
    let Some(bottle) = manifest.bottle(name) else {
        let names: Vec<&str> = known.clone().collect();
        let expected = if names.is_empty() {
            "at least one bottle".to_owned()
        } else {
            one_of(&names)
        };
        return Err(PlanError::UnknownBottle(ManifestError {
            place: manifest.place("bottles"),
            expected,
            found: format!("no bottle `{name}`"),
            help: nearest(name, known).map(|near| format!("did you mean `{near}`?").into()),
        }));
    };
    let path = below("bottles", name);
    if !slug::is_bottle_name(name) {
        let expected = "a name of at most 32 lower-case letters, digits and hyphens, with no hyphen at its ends";
        return Err(manifest.refuse_key(&path, expected, format!("`{name}`")).into());
    }
    let slug = match &options.slug {
        None => slug::slug(name, facts.slug_entropy),
        Some(slug) if slug::is_slug(slug) => slug.clone(),
        Some(slug) => {
            let expected = "at most 48 lower-case letters, digits and hyphens, with no hyphen at its ends";
            return Err(option("slug", expected, format!("`{slug}`")));
        }
    };
    Ok(Input {
        manifest,
        path,
        name,
        bottle,
        facts,
        options,
        topology: options.topology.or(bottle.topology).unwrap_or(Topology::Sealed),
        backend: options.backend.or(bottle.backend).unwrap_or(BackendKind::Docker),
        slug,
    })
}

/// Refuses what is understood but not offered: a bottle that quietly has less than its manifest says is worse than none.
fn refuse_unbuilt(input: &Input<'_>) -> Result<(), PlanError> {
    if input.bottle.git.is_some() {
        return Err(input.not_built(&input.path("git"), "git upstreams"));
    }
    if input.bottle.supervise {
        return Err(input.not_built(&input.path("supervise"), "questions to the operator"));
    }
    for name in input.manifest.document().agents.keys() {
        input.manifest.agent(name)?;
    }
    Ok(())
}

fn option(option: &'static str, expected: impl Into<String>, found: impl Into<String>) -> PlanError {
    PlanError::Option {
        option,
        expected: expected.into(),
        found: found.into(),
    }
}

fn config(input: &Input<'_>, subnets: &[crate::plan::Subnet]) -> Result<BundleConfig, PlanError> {
    let socket = Listen::Unix(format!("{}/{PROXY_SOCKET}", input.bundle_sockets()));
    let listen = match subnets.first() {
        None => vec![socket],
        Some(subnet) => {
            let address = inner::listen(&subnet.cidr).ok_or(PlanError::NoSubnet)?;
            // The address is the guest's name for the proxy; a relay leads to the socket.
            iter::once(address).chain(input.has_relay().then_some(socket)).collect()
        }
    };
    let (policy, routes) = egress::rules(input)?;
    let mut config = BundleConfig::new(&input.slug);
    config.daemons = vec![Daemon::Pipelock, Daemon::Egress];
    config.relay = relay(input);
    config.daemons.extend(config.relay.is_some().then_some(Daemon::Relay));
    config.listen = listen;
    config.publish = Some(SHARED_DIR.to_owned());
    config.policy = policy;
    config.routes = routes;
    config.resolver = egress::resolver(input)?;
    config.upstream_roots = egress::upstream_roots(input)?;
    config.public_roots = input.options.public_roots;
    Ok(config)
}

/// What the launcher asks the bundle for in the guest's stead.
fn relay(input: &Input<'_>) -> Option<Relay> {
    input.has_relay().then(|| Relay {
        port: RELAY_PORT,
        directory: RELAYED_DIR.to_owned(),
        services: [PROXY_SOCKET, LEASE_SOCKET].map(str::to_owned).to_vec(),
    })
}

/// The bundle's own way out. The engine chooses its subnet from its pools.
fn outer_network(input: &Input<'_>) -> NetworkPlan {
    NetworkPlan {
        name: input.engine_name("outer"),
        role: "outer-network".to_owned(),
        internal: false,
        host_absent: false,
        masquerade: true,
        subnets: Vec::new(),
        ipv6: None,
    }
}

fn shared_mount(input: &Input<'_>, read_only: bool) -> Mount {
    Mount {
        source: MountSource::Volume(input.engine_name("shared")),
        target: SHARED_DIR.to_owned(),
        read_only,
    }
}

/// Where the relay's port is published: each routed bottle has an address of its own.
fn relay_address(input: &Input<'_>) -> Result<Option<Ipv4Addr>, PlanError> {
    let Some(relay) = input.facts.relay.filter(|_| input.has_relay()) else {
        return Ok(None);
    };
    if input.topology == Topology::Sealed {
        return Ok(Some(Ipv4Addr::LOCALHOST));
    }
    relay.routed.map(Some).ok_or_else(|| PlanError::Fact {
        fact: "relay",
        expected: "a loopback address on which no bundle publishes".to_owned(),
        found: "none: end a routed bottle, or use the topology `sealed`".to_owned(),
    })
}

fn bundle(input: &Input<'_>) -> Result<ContainerPlan, PlanError> {
    let outer = input.options.outer_network.clone();
    // The outer leg first: the engine's default route leads through it, and an internal network offers none.
    let mut networks = vec![Attachment {
        network: outer.unwrap_or_else(|| input.engine_name("outer")),
        host_number: None,
        aliases: Vec::new(),
    }];
    if input.topology == Topology::Routed {
        networks.push(Attachment {
            network: input.engine_name("inner"),
            host_number: Some(inner::BUNDLE_HOST),
            aliases: Vec::new(),
        });
    }
    let mut publish = Vec::new();
    let mut tmpfs = Vec::new();
    if let Some(address) = relay_address(input)? {
        // The port of this machine's is the engine's choice.
        publish.push((format!("{RELAY_PORT}/tcp"), IpAddr::V4(address), 0));
        let options = "mode=0755,nosuid,nodev,noexec".to_owned();
        tmpfs.push((RELAYED_DIR.to_owned(), RELAYED_BYTES, options));
    }
    Ok(ContainerPlan {
        name: input.engine_name("bundle"),
        image: input.options.bundle_image.clone(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        env: BTreeMap::new(),
        user: Some("0:0".to_owned()),
        workdir: None,
        hostname: Some("bundle".to_owned()),
        tty: false,
        stdin: true,
        network: NetworkMode::Networks(networks),
        dns: Vec::new(),
        extra_hosts: Vec::new(),
        publish,
        mounts: vec![shared_mount(input, false)],
        tmpfs,
        hardening: Hardening {
            // Init starts as root to give each daemon its own user, and ends a daemon that hangs.
            capabilities: ["KILL", "SETGID", "SETUID"].map(str::to_owned).to_vec(),
            ..Hardening::default()
        },
        limits: Limits {
            memory: Some(256 << 20),
            milli_cpus: None,
            pids: Some(256),
            open_files: Some(16_384),
        },
        auto_remove: true,
    })
}

/// What the bundle is told, for the operator to look at while the bottle runs. It has no secrets.
fn state_file(config: &BundleConfig) -> StateFile {
    let mut content = serde_json::to_string_pretty(config).unwrap_or_default();
    content.push('\n');
    StateFile {
        name: "bundle.json".to_owned(),
        content,
        mode: 0o600,
        keep: false,
    }
}
