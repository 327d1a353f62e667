//! From a manifest and what the host is like to a plan.

mod egress;
mod guest;
mod inner;
mod slug;

use std::collections::BTreeMap;

use bottle_policy::{BundleConfig, Daemon, Listen, SHARED_DIR};

use crate::describe::{nearest, one_of};
use crate::document::Bottle;
use crate::manifest::{Manifest, ManifestError};
use crate::places::{Place, below};
use crate::plan::{
    Attachment, BackendKind, ContainerPlan, Hardening, Lifecycle, Limits, Mount, MountSource, NetworkMode, NetworkPlan,
    PLAN_VERSION, Plan, StateFile, Topology, VolumePlan,
};

pub use guest::placeholder;

/// Where a sealed guest finds the proxy: its own loopback, where `bottle-guest` listens.
pub const GUEST_PROXY: &str = "127.0.0.1:8888";

/// Socket of pipelock in the shared directory.
const PROXY_SOCKET: &str = "/run/bottle/proxy.sock";

/// Size of the shared volume: the guest's init (about 1 MiB), a certificate and sockets.
const SHARED_BYTES: u64 = 16 << 20;

/// Port of DNS.
const DNS_PORT: u16 = 53;

/// What the host is like. No secret is part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Subnets (CIDR) that are in use: the engine's networks and the host's interfaces.
    pub subnets: Vec<String>,
    /// The operator's home directory, for `~/` in paths of the manifest.
    pub home: String,
    /// The operator's user id.
    pub uid: u32,
    /// The operator's group id.
    pub gid: u32,
    /// Limits where the manifest names none; what is `None` here has the built-in default.
    pub default_limits: Limits,
    /// Contents of the files of [`Manifest::ca_files`], by the path as it is written there.
    pub ca_files: BTreeMap<String, String>,
    /// Randomness for the slug.
    pub slug_entropy: [u8; 8],
}

/// What the command line said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Instead of the manifest's backend.
    pub backend: Option<BackendKind>,
    /// Instead of the manifest's topology.
    pub topology: Option<Topology>,
    /// What to run in the guest; never empty.
    pub command: Vec<String>,
    /// Whether the guest gets a terminal.
    pub tty: bool,
    /// Whether the guest's standard input is held open.
    pub stdin: bool,
    /// An existing network for the bundle's way out, instead of one of its own.
    pub outer_network: Option<String>,
    /// Name servers (`address` or `address:port`) instead of the manifest's.
    pub resolver: Option<Vec<String>>,
    /// Certificate authorities (PEM) trusted for upstreams besides the manifest's.
    pub extra_upstream_roots: Vec<String>,
    /// Whether the public certificate authorities are trusted for upstreams.
    pub public_roots: bool,
    /// A slug instead of one made from the entropy.
    pub slug: Option<String>,
    /// Image reference of the bundle.
    pub bundle_image: String,
    /// Image of the guest instead of the manifest's.
    pub image: Option<String>,
    /// User in the guest instead of the manifest's.
    pub user: Option<String>,
    /// Environment of the guest, besides the manifest's; wins over it.
    pub extra_env: BTreeMap<String, String>,
}

impl Default for PrepareOptions {
    /// Nothing said: no command, no bundle image (both are needed), public authorities trusted.
    fn default() -> Self {
        Self {
            backend: None,
            topology: None,
            command: Vec::new(),
            tty: false,
            stdin: false,
            outer_network: None,
            resolver: None,
            extra_upstream_roots: Vec::new(),
            public_roots: true,
            slug: None,
            bundle_image: String::new(),
            image: None,
            user: None,
            extra_env: BTreeMap::new(),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The manifest has no such bottle.
    #[error("{place}: expected {expected}, found no bottle `{name}`{}", near.as_deref().map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default())]
    UnknownBottle {
        /// Where the bottles are.
        place: Place,
        /// What was asked for.
        name: String,
        /// The names that there are.
        expected: String,
        /// The nearest of them.
        near: Option<String>,
    },
    /// A value of the manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest asks for something that this version does not have.
    #[error("{place}: not built yet: {what}; take it out of the manifest to go on without it")]
    NotBuilt {
        /// Where.
        place: Place,
        /// What.
        what: String,
    },
    /// An option cannot be used.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the field of [`PrepareOptions`] as a flag.
        option: &'static str,
        /// What can be given.
        expected: String,
        /// What was.
        found: String,
    },
    /// A fact about the host is not understood.
    #[error("host facts, {fact}: expected {expected}, found {found}")]
    Fact {
        /// Which.
        fact: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Every subnet that a bottle could have is in use.
    #[error(
        "no free subnet for the inner network: every /24 from 10.213.0.0 to 10.222.255.0 overlaps a network in use; remove unused networks, or use `topology: sealed`"
    )]
    NoSubnet,
}

impl PlanError {
    /// The place in the manifest, when the fault is there.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::UnknownBottle { place, .. } | Self::NotBuilt { place, .. } => Some(place),
            Self::Manifest(error) => Some(&error.place),
            _ => None,
        }
    }
}

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
    let backend = refuse_unbuilt(&input)?;
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
        networks.push(inner::network(input.engine_name("inner"), &subnets));
    }
    Ok(Plan {
        version: PLAN_VERSION,
        slug: input.slug.clone(),
        bottle: bottle.to_owned(),
        backend,
        topology: input.topology,
        networks,
        volumes: vec![VolumePlan {
            name: input.engine_name("shared"),
            role: "shared-volume".to_owned(),
            tmpfs_bytes: Some(SHARED_BYTES),
        }],
        bundle: bundle(&input),
        guest: guest::container(&input, &config, &token_env)?,
        state: vec![state_file(&config)],
        config,
        token_env,
        lifecycle: Lifecycle::default(),
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
        return Err(PlanError::UnknownBottle {
            place: manifest.place("bottles"),
            name: name.to_owned(),
            expected: if names.is_empty() {
                "at least one bottle".to_owned()
            } else {
                one_of(&names)
            },
            near: nearest(name, known).map(str::to_owned),
        });
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
        slug,
    })
}

/// Refuses what is understood but not offered: a bottle that quietly has less than its manifest says is worse than none.
fn refuse_unbuilt(input: &Input<'_>) -> Result<BackendKind, PlanError> {
    let backend = input
        .options
        .backend
        .or(input.bottle.backend)
        .unwrap_or(BackendKind::Docker);
    if backend != BackendKind::Docker {
        if input.options.backend.is_some() {
            return Err(option(
                "--backend",
                "`docker`, the only backend built so far",
                "`smolmachines`",
            ));
        }
        return Err(input.not_built(&input.path("backend"), "the backend `smolmachines`"));
    }
    if input.bottle.git.is_some() {
        return Err(input.not_built(&input.path("git"), "git upstreams"));
    }
    if input.bottle.supervise {
        return Err(input.not_built(&input.path("supervise"), "questions to the operator"));
    }
    let document = input.manifest.document();
    for (name, agent) in &document.agents {
        let path = below("agents", name);
        if !document.bottles.contains_key(&agent.bottle) {
            let names: Vec<&String> = document.bottles.keys().collect();
            return Err(input.manifest.refuse(&format!("{path}.bottle"), one_of(&names)).into());
        }
        if agent.bottle == input.name && !agent.skills.is_empty() {
            return Err(input.not_built(&format!("{path}.skills"), "skills"));
        }
    }
    Ok(backend)
}

fn option(option: &'static str, expected: impl Into<String>, found: impl Into<String>) -> PlanError {
    PlanError::Option {
        option,
        expected: expected.into(),
        found: found.into(),
    }
}

fn config(input: &Input<'_>, subnets: &[crate::plan::Subnet]) -> Result<BundleConfig, PlanError> {
    let listen = match subnets.first() {
        None => Listen::Unix(PROXY_SOCKET.to_owned()),
        Some(subnet) => inner::listen(&subnet.cidr).ok_or(PlanError::NoSubnet)?,
    };
    let (policy, routes) = egress::rules(input)?;
    let mut config = BundleConfig::new(&input.slug);
    config.daemons = vec![Daemon::Pipelock, Daemon::Egress];
    config.listen = vec![listen];
    config.publish = Some(SHARED_DIR.to_owned());
    config.policy = policy;
    config.routes = routes;
    config.resolver = egress::resolver(input)?;
    config.upstream_roots = egress::upstream_roots(input)?;
    config.public_roots = input.options.public_roots;
    Ok(config)
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

fn bundle(input: &Input<'_>) -> ContainerPlan {
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
    ContainerPlan {
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
        publish: Vec::new(),
        mounts: vec![shared_mount(input, false)],
        tmpfs: Vec::new(),
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
    }
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
