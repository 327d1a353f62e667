//! A bottle of the run, launched through the very same code that launches bottles every day.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_backend::{Backend, Role};
use bottle_launch::record::Record;
use bottle_launch::{Bottle, LaunchOptions, Secrets, launch};
use bottle_leaky::Removed;
use bottle_plan::{BackendKind, HostFacts, Plan, PrepareOptions, Topology, prepare};
use bottle_policy::BundleEvent;
use probe_spec::{DecisionSeen, Leak, Nonce, Vantage, world};
use tokio::sync::OnceCell;

use crate::addresses::in_subnet;
use crate::agent::Place;
use crate::error::SuiteError;
use crate::images::MARKER;
use crate::injecting::Injecting;
use crate::lab::{Lab, hear_listener};
use crate::leaks::{self, Planned};
use crate::sightings::random;
use crate::template::Keys;

/// The suite's own manifest.
const MANIFEST: &str = include_str!("../../fixtures/manifests/conform.yaml");
/// Where errors about it point.
const MANIFEST_NAME: &str = "fixtures/manifests/conform.yaml";
/// The operator's variable with the token of the bottle under test.
pub const TOKEN_ENV: &str = "BOTTLE_TEST_TOKEN";
/// The one of the peer.
pub const PEER_TOKEN_ENV: &str = "BOTTLE_PEER_TOKEN";

/// Which bottle of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bottle under test.
    Attacked,
    /// The neighbour, always routed, that listens for nonces.
    Peer,
}

/// A launched bottle and what belongs to it.
pub struct Fixture {
    /// The bottle.
    pub bottle: Arc<Bottle>,
    /// Its topology.
    pub topology: Topology,
    /// The control that was removed from it.
    pub leak: Option<Leak>,
    /// Its token: a sentinel that witnesses recognise.
    pub token: Nonce,
    /// How long its launch took, in milliseconds.
    pub launch_ms: u64,
    /// What was taken away beyond the plan.
    pub removed: Removed,
    /// What made its guest.
    backend: Arc<dyn Backend>,
    control: OnceCell<String>,
    listener: Option<String>,
    /// Container in whose network namespace a known-leaky machine connects.
    member: Option<String>,
}

/// The plan of a bottle of the suite's manifest.
pub async fn plan(lab: &Lab, kind: Kind, topology: Topology) -> Result<Plan, SuiteError> {
    let manifest = bottle_plan::parse(MANIFEST_NAME, MANIFEST)?;
    // Networks come and go during a run.
    let engine = lab
        .backend
        .facts()
        .await
        .map_err(SuiteError::engine("asking the engine what it is like"))?;
    let mut facts = HostFacts {
        home: "/nonexistent".to_owned(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        slug_entropy: random(),
        ..HostFacts::default()
    };
    engine.add_to(&mut facts);
    let port = world::PEER_PORT.to_string();
    let command = match kind {
        Kind::Attacked => vec!["/bottle-probe", "wait", MARKER],
        Kind::Peer => vec!["/bottle-probe", "listen", "--ports", &port],
    };
    let options = PrepareOptions {
        topology: Some(topology),
        backend: Some(lab.guests_of(kind).kind()),
        command: command.into_iter().map(str::to_owned).collect(),
        outer_network: Some(lab.network.clone()),
        resolver: Some(vec![format!("{}:53", lab.outside_address)]),
        extra_upstream_roots: vec![lab.outside_ca.clone()],
        public_roots: false,
        bundle_image: lab.images.bundle.reference.clone(),
        image: Some(lab.images.probe.reference.clone()),
        extra_env: [("BOTTLE_MARKER".to_owned(), MARKER.to_owned())].into(),
        ..PrepareOptions::default()
    };
    let name = match kind {
        Kind::Attacked => "attacked",
        Kind::Peer => "peer",
    };
    Ok(prepare(&manifest, name, &facts, &options)?)
}

/// Launches a plan. The launch goes on in a task of its own and its bottle belongs to the lab, so that a run that is stopped
/// meanwhile leaves nothing.
pub async fn launch_plan(lab: &Lab, planned: Planned) -> Result<Fixture, SuiteError> {
    launch_below(lab, planned, lab.state_dir()).await
}

/// As [`launch_plan`], with another state directory of the launcher.
pub async fn launch_below(lab: &Lab, planned: Planned, state_dir: PathBuf) -> Result<Fixture, SuiteError> {
    // Whatever a guest under test prints is nobody's business; the neighbour prints what it hears.
    let hears = planned.kind == Kind::Peer;
    let mut options = LaunchOptions::new(lab.run.clone(), state_dir);
    options.guest_stdio = hears;
    let fixture = launch_with(lab, planned, options).await?;
    if hears && let Some(streams) = fixture.bottle.guest_streams() {
        // It ends with the guest.
        hear_listener(streams, Vantage::PeerGuest, lab.sightings.clone());
    }
    Ok(fixture)
}

/// As [`launch_plan`]; with `stdio` the guest's streams are attached before it starts, for
/// [`guest_streams`](Bottle::guest_streams).
pub async fn launch_attached(lab: &Lab, planned: Planned, stdio: bool) -> Result<Fixture, SuiteError> {
    let mut options = LaunchOptions::new(lab.run.clone(), lab.state_dir());
    options.guest_stdio = stdio;
    launch_with(lab, planned, options).await
}

/// As [`launch_plan`]; what the bundle says is recorded.
pub async fn launch_recorded(lab: &Lab, planned: Planned, record: &Path) -> Result<Fixture, SuiteError> {
    let made = Record::create(record).map_err(|source| SuiteError::Path {
        path: record.to_owned(),
        source,
    })?;
    let mut options = LaunchOptions::new(lab.run.clone(), lab.state_dir());
    options.observer = Some(Arc::new(made));
    launch_with(lab, planned, options).await
}

async fn launch_with(lab: &Lab, planned: Planned, mut options: LaunchOptions) -> Result<Fixture, SuiteError> {
    let Planned {
        plan,
        removed,
        token,
        kind,
        leak,
    } = planned;
    let topology = plan.topology;
    let mut secrets = Secrets::none();
    let name = if kind == Kind::Peer { PEER_TOKEN_ENV } else { TOKEN_ENV };
    secrets.insert(name, token.to_string());
    options.cancel = Some(lab.stop.clone());
    let (made_by, member) = if removed.machine.is_nothing() {
        (lab.guests_of(kind).clone(), None)
    } else {
        lab.loose_machines(&removed.machine).await?
    };
    let mut backend = made_by.clone();
    if removed.needs_leaky_bundle() {
        backend = Arc::new(Injecting {
            inner: backend,
            removed: removed.clone(),
            subnets: lab.subnets(),
        });
    }
    // Closed never.
    let _slot = lab.launching.acquire().await;
    let started = std::time::Instant::now();
    let (send, receive) = tokio::sync::oneshot::channel();
    let launching = tokio::spawn(async move {
        let outcome = launch(plan, secrets, backend, options).await.map(Arc::new);
        if let Err(Ok(bottle)) = send.send(outcome) {
            // Nobody waits for it any more.
            bottle.close().await;
        }
    });
    lab.watch_launch(launching);
    let bottle = receive.await.map_err(|_| SuiteError::Interrupted)??;
    lab.adopt(bottle.clone());
    tracing::debug!(slug = bottle.slug(), took = ?started.elapsed(), "launched");
    let launch_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Some(path) = removed.root_file {
        put_token(lab, &bottle.guest().id, path, &token).await?;
    }
    Ok(Fixture {
        bottle,
        topology,
        leak,
        token,
        launch_ms,
        removed,
        backend: made_by,
        control: OnceCell::new(),
        listener: None,
        member,
    })
}

/// Copies a file with the token into a guest's root file system: what K-FILE leaks.
async fn put_token(lab: &Lab, guest: &str, path: &'static str, token: &Nonce) -> Result<(), SuiteError> {
    let content = format!("TOKEN={token}\n");
    let archive = || {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, path, content.as_bytes())?;
        archive.into_inner()
    };
    let archive = archive().map_err(|error| SuiteError::Image(path, error))?;
    let put = lab.backend.put(Role::Guest, guest, "/", archive.into()).await;
    put.map_err(SuiteError::engine("copying a file into a known-leaky guest"))
}

impl Fixture {
    /// Launches a bottle of the manifest as shipped.
    pub async fn shipped(lab: &Lab, kind: Kind, topology: Topology) -> Result<Self, SuiteError> {
        launch_plan(lab, leaks::plan(lab, kind, topology, None, None).await?).await
    }

    /// Where agents are started in its guest.
    pub fn place(&self) -> Place<'_> {
        Place {
            backend: &*self.backend,
            role: Role::Guest,
            id: &self.bottle.guest().id,
            prefix: &self.removed.agent_prefix,
        }
    }

    /// Opens the listener on the own bundle's loopback (see `bundle.lo.tcp` of the world).
    pub async fn open_listener(&mut self, lab: &Lab) -> Result<(), SuiteError> {
        self.listener = Some(lab.listener_in(self.bottle.id(Role::Bundle)).await?);
        Ok(())
    }

    /// Id of its container.
    pub fn bundle_listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// Name and subnet of the network between guest and bundle.
    pub fn inner(&self) -> Option<(&String, &String)> {
        self.bottle.subnets().iter().find(|(name, _)| name.ends_with("-inner"))
    }

    /// First IPv4 address of a half on a network whose name ends like this.
    fn address(&self, role: Role, ending: &str) -> Option<String> {
        let seen = match role {
            Role::Guest => self.bottle.guest(),
            Role::Bundle => self.bottle.bundle(),
        };
        let addresses = seen
            .addresses
            .iter()
            .find(|(name, _)| name.ends_with(ending))
            .map(|(_, all)| all);
        addresses?
            .iter()
            .find(|address| address.is_ipv4())
            .map(ToString::to_string)
    }

    /// Address of the bundle on its outer network.
    pub fn bundle_outer(&self, lab: &Lab) -> Option<String> {
        self.address(Role::Bundle, &lab.network)
    }

    /// Address of a half on the inner network.
    pub fn inner_address(&self, role: Role) -> Option<String> {
        self.address(role, "-inner")
    }

    /// A control guest on this bottle's inner network, which has the way to its listeners that a neighbour would have.
    pub async fn control(&self, lab: &Lab) -> Result<&str, SuiteError> {
        let network = self.inner().map(|(name, _)| name.clone());
        let control = self.control.get_or_try_init(|| async {
            match network {
                Some(network) => lab.control_on(&network).await,
                None => Ok(lab.control_outside.clone()),
            }
        });
        control.await.map(String::as_str)
    }

    /// Removes it from the engine before the lab does. What could not be removed.
    pub async fn close(&self, lab: &Lab) -> Vec<String> {
        let mut left = Vec::new();
        let control = self.control.get().filter(|_| self.inner().is_some());
        for container in [control, self.listener.as_ref()].into_iter().flatten() {
            left.extend(lab.remove_container(container).await);
        }
        let begun = std::time::Instant::now();
        let report = self.bottle.close().await;
        tracing::debug!(slug = self.bottle.slug(), took = ?begun.elapsed(), "closed");
        left.extend(report.errors().map(|(step, problem)| format!("{step}: {problem}")));
        left.extend(self.disconnect(lab).await);
        left
    }

    /// Removes what a known-leaky machine connected through, once it has gone; what stays.
    pub async fn disconnect(&self, lab: &Lab) -> Option<String> {
        let member = self.member.as_ref()?;
        lab.remove_container(member).await
    }

    /// Every key of the world for cases in this bottle.
    pub fn keys(&self, lab: &Lab, peer: &Fixture) -> Keys {
        let mut keys = lab.keys.clone();
        let local = || "127.0.0.1".to_owned();
        let own_inner = self
            .inner()
            .or(peer.inner())
            .map(|(_, cidr)| cidr.as_str())
            .unwrap_or("10.213.0.0/24");
        let gateway = in_subnet(own_inner, 1).unwrap_or_else(local);
        let later = lab.host.tcp(
            std::net::Ipv4Addr::LOCALHOST.into(),
            self.removed.later_port.unwrap_or(0),
            Vantage::HostLoopback4,
        );
        let later = later.unwrap_or(lab.host.loopback4);
        let peer_published = peer
            .bottle
            .guest()
            .published
            .values()
            .chain(peer.bottle.bundle().published.values());
        let peer_published = peer_published.flatten().next().map_or(0, |(_, port)| *port);
        let plan = |fixture: &Fixture, role| match role {
            Role::Guest => fixture.bottle.plan().guest.name.clone(),
            Role::Bundle => fixture.bottle.plan().bundle.name.clone(),
        };
        let handshakes = match self.bottle.plan().backend {
            BackendKind::Docker => "end-to-end",
            BackendKind::Smolmachines => "gateway",
        };
        let own = [
            ("host.lo4.tcp2", later.to_string()),
            ("host.address.inner", gateway.clone()),
            ("inner.gateway", gateway),
            ("inner.last", in_subnet(own_inner, 254).unwrap_or_else(local)),
            ("bundle.address", self.inner_address(Role::Bundle).unwrap_or_else(local)),
            ("bundle.outer", self.bundle_outer(lab).unwrap_or_else(local)),
            ("guest.address", self.inner_address(Role::Guest).unwrap_or_else(local)),
            ("peer.guest", peer.inner_address(Role::Guest).unwrap_or_else(local)),
            ("peer.bundle", peer.inner_address(Role::Bundle).unwrap_or_else(local)),
            ("peer.bundle.outer", peer.bundle_outer(lab).unwrap_or_else(local)),
            ("peer.slug", peer.bottle.slug().to_owned()),
            ("peer.guest.name", plan(peer, Role::Guest)),
            ("peer.bundle.name", plan(peer, Role::Bundle)),
            ("peer.published", peer_published.to_string()),
            ("peer.token", peer.token.to_string()),
            ("token", self.token.to_string()),
            ("token.placeholder", bottle_plan::placeholder(TOKEN_ENV)),
            ("handshakes", handshakes.to_owned()),
            ("marker", MARKER.to_owned()),
        ];
        keys.extend(own.map(|(key, value)| (key.to_owned(), value)));
        if let Some(host) = self.removed.host_on_guest_network {
            for key in ["host.address.inner", "inner.gateway"] {
                keys.insert(key.to_owned(), host.to_string());
            }
        }
        if let Some(bundle) = self.removed.bundle_address {
            keys.insert("bundle.address".to_owned(), bundle.to_string());
        }
        keys
    }

    /// Decisions of the own bundle that carry the nonce, in whatever field.
    pub fn decisions(&self, nonce: &Nonce) -> Vec<DecisionSeen> {
        decisions(&self.bottle.event_log(), nonce)
    }
}

/// Decisions that carry the nonce, in whatever field.
pub fn decisions(log: &[BundleEvent], nonce: &Nonce) -> Vec<DecisionSeen> {
    log.iter()
        .filter_map(|event| match event {
            BundleEvent::Decision(record) => Some(record),
            _ => None,
        })
        .filter(|record| {
            let carried = record.nonce.iter().chain(&record.host).chain(&record.told);
            carried
                .into_iter()
                .any(|text| Nonce::find_all(text.as_bytes()).contains(nonce))
        })
        .map(|record| DecisionSeen {
            denied: record.verdict == bottle_policy::DecisionVerdict::Deny,
            rule: record.rule.clone(),
            by: format!("{:?} at {:?}", record.daemon, record.stage).to_lowercase(),
        })
        .collect()
}
