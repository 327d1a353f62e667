//! Everything around the bottles of one run: the stand-in internet, witnesses on the host, control guests, and what must be
//! removed at the end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bottle_backend::{Backend, EngineFacts, Labels, Resource, ResourceKind, Role, Streams};
use bottle_launch::Bottle;
use bottle_plan::{
    Attachment, ContainerPlan, Hardening, LABEL_ROLE, LABEL_SLUG, Limits, NetworkMode, NetworkPlan, Subnet,
};
use probe_spec::{Vantage, WitnessConfig, world};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use crate::error::SuiteError;
use crate::host::HostWitnesses;
use crate::images::Images;
use crate::leaks::LeakyGround;
use crate::outside::Outside;
use crate::parts::Parts;
use crate::sightings::{Sightings, fresh_nonce};
use crate::template::Keys;

/// Port of the listener that the run publishes on all addresses of the host.
const PUBLISHED_PORT: u16 = 7100;

/// The surroundings of a run.
pub struct Lab {
    /// Id of the run, on every label.
    pub run: String,
    /// The engine.
    pub backend: Arc<dyn Backend>,
    /// What it is like.
    pub facts: EngineFacts,
    /// Directory of the run: the launcher's state lies below.
    pub directory: PathBuf,
    /// What any witness saw.
    pub sightings: Arc<Sightings>,
    /// Listeners of this process.
    pub host: HostWitnesses,
    /// The stand-in internet.
    pub outside: Outside,
    /// The witness's address on the outer network.
    pub outside_address: IpAddr,
    /// Certificate of its authority.
    pub outside_ca: String,
    /// Id of the witness's container.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests end the witness"))]
    pub outside_id: String,
    /// Name of the outer network.
    pub network: String,
    /// What cases that kill a launcher start; `None`: this very program.
    pub program: Option<PathBuf>,
    /// What the witnesses are told; the key in it exists for this run only.
    witness_config: WitnessConfig,
    leaky: OnceCell<LeakyGround>,
    extra_paths: Mutex<Vec<PathBuf>>,
    subnets: Mutex<BTreeMap<String, String>>,
    /// Held while names that change their answer are attempted: the witness counts the questions of everybody.
    pub names: tokio::sync::Mutex<()>,
    /// Images in the engine.
    pub images: Images,
    /// Control guest on the outer network.
    pub control_outside: String,
    /// Control guest in the host's network namespace.
    pub control_host: String,
    /// Keys of the world that are the same for every bottle.
    pub keys: Keys,
    /// Turns `true` when the run is to stop.
    pub stop: watch::Receiver<bool>,
    bottles: Mutex<Vec<Arc<Bottle>>>,
    launches: Mutex<Vec<JoinHandle<()>>>,
    made: Arc<Made>,
}

/// What was made in the engine beside bottles.
#[derive(Default)]
struct Made {
    resources: Mutex<Vec<Resource>>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Made {
    fn add(&self, kind: ResourceKind, name: &str, id: &str) {
        let resource = Resource {
            kind,
            name: name.to_owned(),
            id: id.to_owned(),
            labels: Labels::new(),
        };
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(resource);
    }

    /// Removes everything (or containers only), last made first; what could not be removed.
    async fn remove(&self, backend: &dyn Backend, containers_only: bool) -> Vec<String> {
        for listener in std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner)) {
            listener.abort();
        }
        let resources = {
            let mut all = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, later) = std::mem::take(&mut *all)
                .into_iter()
                .partition(|resource| !containers_only || resource.kind == ResourceKind::Container);
            *all = later;
            let now: Vec<Resource> = now;
            now
        };
        let mut left = Vec::new();
        for resource in resources.iter().rev() {
            if let Err(error) = backend.remove(resource).await {
                left.push(format!("{:?} {}: {error}", resource.kind, resource.name));
            }
        }
        left
    }
}

/// What a further network is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// An ordinary one.
    Natted,
    /// Internal, as the engine makes it by default: the host has an address on it.
    InternalWithHost,
    /// Internal, without the host.
    Private,
}

/// What a lab is made from.
pub struct LabOptions {
    /// Id of the run.
    pub run: String,
    /// The engine.
    pub backend: Arc<dyn Backend>,
    /// The embedded parts.
    pub parts: Parts,
    /// What cases that kill a launcher start; `None`: this very program.
    pub program: Option<PathBuf>,
    /// Turns `true` when the run is to stop.
    pub stop: watch::Receiver<bool>,
}

impl Lab {
    /// Makes the surroundings. On failure what was made is removed again.
    pub async fn open(options: LabOptions) -> Result<Self, SuiteError> {
        let made = Arc::new(Made::default());
        let backend = options.backend.clone();
        let opened = Self::make(options, made.clone()).await;
        if opened.is_err() {
            for left in made.remove(&*backend, false).await {
                tracing::warn!(left, "left behind: `bottle cleanup` removes it");
            }
        }
        opened
    }

    async fn make(options: LabOptions, made: Arc<Made>) -> Result<Self, SuiteError> {
        let LabOptions {
            run,
            backend,
            parts,
            program,
            stop,
        } = options;
        let facts = backend
            .facts()
            .await
            .map_err(SuiteError::engine("asking the engine what it is like"))?;
        let directory = std::env::temp_dir().join(format!("bottle-conform-{run}"));
        private_directory(&directory)?;
        let sightings = Arc::new(Sightings::default());
        let host = HostWitnesses::open(sightings.clone()).await.map_err(SuiteError::Host)?;
        let site = Site {
            run: &run,
            backend: &*backend,
            made: &made,
        };
        let (images, subnet) = tokio::try_join!(Images::load(&parts, &*backend), site.network())?;
        let network = site.network_name();
        let subnets = BTreeMap::from([(network.clone(), subnet)]);
        let (config, ca) = authority()?;
        // The control guests are made beside it, but its address must be taken first.
        let (outside, outside_id) = site
            .witness("witness", &images.witness.reference, &subnets, &config, &sightings)
            .await?;
        let image = &images.probe.reference;
        let attachment = Attachment {
            network: network.clone(),
            host_number: None,
            aliases: Vec::new(),
        };
        let mut control = plain("control-outside", image, NetworkMode::Networks(vec![attachment]), &run);
        control.hardening.capabilities = vec!["NET_RAW".to_owned()];
        let mut control_host = plain("control-host", image, NetworkMode::Host, &run);
        control_host.hostname = None;
        let (control, control_host) = tokio::join!(
            site.start(&control, &subnets, false),
            site.start(&control_host, &subnets, false)
        );
        let (control_outside, control_host) = (control?.0, control_host?.0);
        let published = site.published(image, &sightings).await?;
        let v4 = outside.addresses().iter().find(|address| address.is_ipv4()).copied();
        let outside_address = v4.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let keys = keys(&host, outside_address, published);
        Ok(Self {
            program,
            witness_config: config,
            leaky: OnceCell::new(),
            extra_paths: Mutex::default(),
            subnets: Mutex::default(),
            names: tokio::sync::Mutex::default(),
            network,
            run,
            facts,
            directory,
            sightings,
            host,
            outside,
            outside_address,
            outside_ca: ca,
            outside_id,
            images,
            control_outside,
            control_host,
            keys,
            stop,
            bottles: Mutex::default(),
            launches: Mutex::default(),
            made,
            backend,
        })
    }

    /// The launcher's state directory of this run.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Has a bottle removed with the lab.
    pub fn adopt(&self, bottle: Arc<Bottle>) {
        self.bottles.lock().unwrap_or_else(PoisonError::into_inner).push(bottle);
    }

    /// Has the lab wait for a launch under way before it is taken down.
    pub fn watch_launch(&self, launch: JoinHandle<()>) {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        launches.retain(|launch| !launch.is_finished());
        launches.push(launch);
    }

    /// The ground of known-leaky bottles, made when the first needs it.
    pub async fn leaky(&self) -> Result<&LeakyGround, SuiteError> {
        self.leaky.get_or_try_init(|| LeakyGround::make(self)).await
    }

    /// Waits until every witness has reported what it has seen; see [`Outside::mark`].
    pub async fn mark(&self) -> bool {
        match self.leaky.get() {
            Some(leaky) => {
                let (one, other) = tokio::join!(self.outside.mark(), leaky.second.mark());
                one && other
            }
            None => self.outside.mark().await,
        }
    }

    /// Subnets of the networks made by [`make_network`](Self::make_network), by name.
    pub fn subnets(&self) -> BTreeMap<String, String> {
        self.subnets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a directory removed with the lab.
    pub fn remove_at_end(&self, path: PathBuf) {
        self.extra_paths
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path);
    }

    /// Makes one more network; its name and subnet.
    pub async fn make_network(&self, kind: NetworkKind, subnets: &[Subnet]) -> Result<(String, String), SuiteError> {
        let plan = NetworkPlan {
            name: format!("bottle-conform-{}-{}", self.run, &fresh_nonce().as_str()[2..10]),
            role: "known-leaky".to_owned(),
            internal: kind != NetworkKind::Natted,
            host_absent: kind == NetworkKind::Private,
            masquerade: false,
            subnets: subnets.to_vec(),
            ipv6: None,
        };
        let site = Site {
            run: &self.run,
            backend: &*self.backend,
            made: &self.made,
        };
        let made = self.backend.create_network(&plan, &site.labels("known-leaky")).await;
        let made = made.map_err(SuiteError::engine("making a network of a known-leaky bottle"))?;
        self.made.add(ResourceKind::Network, &plan.name, &made.id);
        let mut subnets = self.subnets.lock().unwrap_or_else(PoisonError::into_inner);
        subnets.insert(plan.name.clone(), made.subnet.clone());
        Ok((plan.name, made.subnet))
    }

    /// Starts one more witness on a network; it and its id.
    pub async fn start_witness(
        &self,
        network: &str,
        subnet: &str,
        name: &str,
    ) -> Result<(Outside, String), SuiteError> {
        let site = Site {
            run: &self.run,
            backend: &*self.backend,
            made: &self.made,
        };
        let subnets = BTreeMap::from([(network.to_owned(), subnet.to_owned())]);
        site.witness(
            name,
            &self.images.witness.reference,
            &subnets,
            &self.witness_config,
            &self.sightings,
        )
        .await
    }

    /// Starts one more control guest on a network of a bottle; its id. It is removed with the lab, or by
    /// [`remove_control`](Self::remove_control) before the network is.
    pub async fn control_on(&self, network: &str) -> Result<String, SuiteError> {
        let attachment = Attachment {
            network: network.to_owned(),
            host_number: None,
            aliases: Vec::new(),
        };
        let name = format!("control-{}", &fresh_nonce().as_str()[2..10]);
        let plan = plain(
            &name,
            &self.images.probe.reference,
            NetworkMode::Networks(vec![attachment]),
            &self.run,
        );
        let site = Site {
            run: &self.run,
            backend: &*self.backend,
            made: &self.made,
        };
        Ok(site.start(&plan, &BTreeMap::new(), false).await?.0)
    }

    /// Starts a listener in the network namespace of a bundle, on its loopback only; its id. What it hears is seen at own-bundle.
    pub async fn listener_in(&self, bundle: &str) -> Result<String, SuiteError> {
        let name = format!("listener-{}", &fresh_nonce().as_str()[2..10]);
        let site = Site {
            run: &self.run,
            backend: &*self.backend,
            made: &self.made,
        };
        let labels = site.labels("own-bundle-listener");
        let image = &self.images.probe.reference;
        let id = crate::joined::create(&format!("bottle-conform-{}-{name}", self.run), image, bundle, &labels).await;
        let id = id.map_err(SuiteError::Joined)?;
        self.made.add(ResourceKind::Container, &name, &id);
        let failed = SuiteError::engine;
        let streams = self
            .backend
            .attach(Role::Bundle, &id, false)
            .await
            .map_err(failed("attaching to a listener"))?;
        self.backend
            .start(Role::Bundle, &id)
            .await
            .map_err(failed("starting a listener"))?;
        let task = hear_listener(streams, Vantage::OwnBundle, self.sightings.clone());
        self.made
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
        Ok(id)
    }

    /// Removes a container by its id.
    pub async fn remove_container(&self, id: &str) -> Result<(), SuiteError> {
        let labels = Labels::new();
        let resource = Resource {
            kind: ResourceKind::Container,
            name: id.to_owned(),
            id: id.to_owned(),
            labels,
        };
        self.backend
            .remove(&resource)
            .await
            .map_err(SuiteError::engine("removing a container"))
    }

    /// Takes everything down; what could not be removed.
    pub async fn close(&self) -> Vec<String> {
        let launches = std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner));
        for launch in launches {
            // What a launch that fails leaves, it has said itself.
            let _ = launch.await;
        }
        // Control guests hold the bottles' networks, bottles hold the lab's.
        let mut left = self.made.remove(&*self.backend, true).await;
        let bottles = std::mem::take(&mut *self.bottles.lock().unwrap_or_else(PoisonError::into_inner));
        let closed = futures_util::future::join_all(bottles.iter().map(|bottle| bottle.close())).await;
        for report in &closed {
            left.extend(report.errors().map(|(step, problem)| format!("{step}: {problem}")));
        }
        left.extend(self.made.remove(&*self.backend, false).await);
        for path in std::mem::take(&mut *self.extra_paths.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = std::fs::remove_dir_all(path);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            left.push(format!("{}: {error}", self.directory.display()));
        }
        left
    }
}

/// Where things of the lab are made.
struct Site<'a> {
    run: &'a str,
    backend: &'a dyn Backend,
    made: &'a Made,
}

impl Site<'_> {
    fn labels(&self, role: &str) -> Labels {
        let mut labels = bottle_launch::owner_labels(self.run);
        labels.insert(LABEL_SLUG.to_owned(), format!("conform-{}", self.run));
        labels.insert(LABEL_ROLE.to_owned(), role.to_owned());
        labels
    }

    fn network_name(&self) -> String {
        format!("bottle-conform-{}", self.run)
    }

    /// The network on which every address in the world ends at the witness; its IPv4 subnet.
    async fn network(&self) -> Result<String, SuiteError> {
        let random = fresh_nonce();
        let start = random
            .as_str()
            .bytes()
            .fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        let subnets = (0..32u8)
            .map(|step| start.wrapping_add(step.wrapping_mul(8)))
            .map(|third| Subnet {
                cidr: format!("10.214.{third}.0/24"),
                gateway: Some(IpAddr::V4(Ipv4Addr::new(10, 214, third, 1))),
                members_gateway: None,
            })
            .collect();
        let ip6 = |last| {
            IpAddr::V6(Ipv6Addr::new(
                0x2001,
                0xdb8,
                0xb000 | u16::from(start),
                0,
                0,
                0,
                0,
                last,
            ))
        };
        let plan = NetworkPlan {
            name: self.network_name(),
            role: "stand-in-internet".to_owned(),
            // An internal network's firewall would drop foreign destinations before the witness sees them.
            internal: false,
            host_absent: true,
            masquerade: false,
            subnets,
            // The host keeps an address on an IPv6 network whatever it is told. It is not the one that members take for their
            // gateway: that one is the witness's.
            ipv6: Some(Subnet {
                cidr: format!("{}/64", ip6(0)),
                gateway: Some(ip6(1)),
                members_gateway: Some(ip6(0xfffe)),
            }),
        };
        let made = self
            .backend
            .create_network(&plan, &self.labels("stand-in-internet"))
            .await;
        let made = made.map_err(SuiteError::engine("making the outer network"))?;
        self.made.add(ResourceKind::Network, &plan.name, &made.id);
        Ok(made.subnet)
    }

    async fn start(
        &self,
        plan: &ContainerPlan,
        subnets: &BTreeMap<String, String>,
        attached: bool,
    ) -> Result<(String, Option<Streams>), SuiteError> {
        let failed = SuiteError::engine;
        let created = self
            .backend
            .create(Role::Bundle, plan, &self.labels(&plan.name), subnets)
            .await;
        let id = created.map_err(failed("making a container of the lab"))?;
        self.made.add(ResourceKind::Container, &plan.name, &id);
        let streams = if attached {
            let streams = self.backend.attach(Role::Bundle, &id, false).await;
            Some(streams.map_err(failed("attaching to a container of the lab"))?)
        } else {
            None
        };
        self.backend
            .start(Role::Bundle, &id)
            .await
            .map_err(failed("starting a container of the lab"))?;
        Ok((id, streams))
    }

    /// Starts a witness on the one network of `subnets`, as its host number 2.
    async fn witness(
        &self,
        name: &str,
        image: &str,
        subnets: &BTreeMap<String, String>,
        config: &WitnessConfig,
        sightings: &Arc<Sightings>,
    ) -> Result<(Outside, String), SuiteError> {
        let attachments = subnets.keys().map(|network| Attachment {
            network: network.clone(),
            host_number: Some(2),
            aliases: Vec::new(),
        });
        let mut plan = plain(name, image, NetworkMode::Networks(attachments.collect()), self.run);
        plan.stdin = true;
        plan.hardening.capabilities = ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"].map(str::to_owned).to_vec();
        let (id, streams) = self.start(&plan, subnets, true).await?;
        let streams =
            streams.ok_or_else(|| SuiteError::Outside(crate::outside::OutsideError::Silent(String::new())))?;
        Ok((Outside::begin(streams, config, sightings.clone()).await?, id))
    }

    /// A container that publishes a witness on every address of the host; the host's port.
    async fn published(&self, image: &str, sightings: &Arc<Sightings>) -> Result<u16, SuiteError> {
        let bridge = Attachment {
            network: "bridge".to_owned(),
            host_number: None,
            aliases: Vec::new(),
        };
        let mut plan = plain("published", image, NetworkMode::Networks(vec![bridge]), self.run);
        plan.command = ["listen", "--ports", &PUBLISHED_PORT.to_string()]
            .map(str::to_owned)
            .to_vec();
        let port = format!("{PUBLISHED_PORT}/tcp");
        plan.publish = vec![(port.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)];
        let (id, streams) = self.start(&plan, &BTreeMap::new(), true).await?;
        if let Some(streams) = streams {
            let task = hear_listener(streams, Vantage::HostWildcard, sightings.clone());
            self.made
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(task);
        }
        let seen = self.backend.observe(Role::Bundle, &id).await;
        let seen = seen.map_err(SuiteError::engine("reading back the published witness"))?;
        Ok(seen
            .published
            .get(&port)
            .and_then(|bindings| bindings.first())
            .map_or(0, |(_, port)| *port))
    }
}

/// Reads the sightings that a listening guest prints, as seen at `at`.
pub fn hear_listener(streams: Streams, at: Vantage, sightings: Arc<Sightings>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Streams {
            stdin: _stdin,
            stdout,
            stderr: _stderr,
        } = streams;
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str::<probe_spec::Sighting>(&line) {
                Ok(mut sighting) => {
                    sighting.at = at;
                    sightings.record(sighting);
                }
                // Whatever it is, a nonce in it was seen there.
                Err(_) => sightings.record_bytes(at, line.as_bytes(), String::new(), String::new(), "listener"),
            }
        }
    })
}

/// A container of the lab: the probe image's `wait`, hardened like a guest.
fn plain(name: &str, image: &str, network: NetworkMode, run: &str) -> ContainerPlan {
    let is_probe = image.contains("/probe:");
    ContainerPlan {
        name: format!("bottle-conform-{run}-{name}"),
        image: image.to_owned(),
        entrypoint: if is_probe {
            vec!["/bottle-probe".to_owned()]
        } else {
            Vec::new()
        },
        command: if is_probe { vec!["wait".to_owned()] } else { Vec::new() },
        env: BTreeMap::new(),
        user: Some("0:0".to_owned()),
        workdir: None,
        hostname: Some(name.to_owned()),
        tty: false,
        stdin: false,
        network,
        dns: Vec::new(),
        extra_hosts: Vec::new(),
        publish: Vec::new(),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        hardening: Hardening::default(),
        limits: Limits {
            memory: Some(512 << 20),
            milli_cpus: None,
            pids: Some(512),
            open_files: Some(16_384),
        },
        auto_remove: true,
    }
}

fn private_directory(path: &std::path::Path) -> Result<(), SuiteError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| SuiteError::Path {
            path: path.to_owned(),
            source,
        })
}

/// An authority for the good origins of this run, whose key exists in this process and in the witness only.
fn authority() -> Result<(WitnessConfig, String), SuiteError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "bottle-conform stand-in internet");
    let certificate = params.self_signed(&key)?;
    let config = WitnessConfig {
        ca_pem: certificate.pem(),
        ca_key_pem: key.serialize_pem(),
    };
    Ok((config, certificate.pem()))
}

/// The keys of the world that belong to no bottle.
fn keys(host: &HostWitnesses, outside: IpAddr, published: u16) -> Keys {
    let addresses = crate::addresses::of_host();
    let first4 = addresses.v4.first().cloned().unwrap_or_else(|| "127.0.0.1".to_owned());
    let second4 = addresses.v4.get(1).cloned().unwrap_or_else(|| first4.clone());
    let lo6 = if host.loopback6 == 0 {
        host.wildcard
    } else {
        host.loopback6
    };
    [
        ("sink", world::SINK_ADDRESS.to_owned()),
        ("sink6", world::SINK_ADDRESS6.to_owned()),
        ("host.lo4.tcp", host.loopback4.to_string()),
        ("host.lo4.low", host.loopback4_low.to_string()),
        ("host.lo6.tcp", lo6.to_string()),
        ("host.any.tcp", host.wildcard.to_string()),
        ("host.lo4.udp", host.loopback4_udp.to_string()),
        ("host.any.udp", host.wildcard_udp.to_string()),
        ("host.published.tcp", published.to_string()),
        ("host.address.1", first4.clone()),
        ("host.address.2", second4),
        (
            "host.address.docker0",
            addresses.docker0.unwrap_or_else(|| first4.clone()),
        ),
        (
            "host.address6.1",
            addresses.v6.first().cloned().unwrap_or_else(|| "::1".to_owned()),
        ),
        ("witness.dns", format!("{outside}:53")),
        ("host.address.1.dashed", first4.replace('.', "-")),
        ("bundle.lo.tcp", world::BUNDLE_LOOPBACK_PORT.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
