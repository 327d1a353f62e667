//! Everything around the bottles of one run: the stand-in internet, witnesses on the host, control guests, and what must be
//! removed at the end.

mod authority;
mod directory;
mod further;
mod keys;
mod listener;
mod made;
mod site;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bottle_backend::{Backend, EngineFacts, Role};
use bottle_launch::Bottle;
use bottle_leaky::{HOST_NETWORK, MachineRemoved};
use bottle_plan::{Attachment, NetworkMode};
use bottle_smolvm::{Smolvm, Source};
use probe_spec::WitnessConfig;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

pub use further::NetworkKind;
pub use listener::hear_listener;

use crate::agent::Place;
use crate::error::SuiteError;
use crate::fixture::Kind;
use crate::host::HostWitnesses;
use crate::images::Images;
use crate::leaks::LeakyGround;
use crate::loose::{self, Member};
use crate::outside::Outside;
use crate::parts::Parts;
use crate::redaction::Redaction;
use crate::sightings::{Sightings, fresh_nonce};
use crate::template::Keys;
use directory::RunDirectory;
pub use made::Made;
use site::{Site, plain};

/// More launches at a time only wait for each other in the engine, and where there is one processor, for that.
const LAUNCHES_AT_A_TIME: usize = 4;

/// The surroundings of a run.
pub struct Lab {
    /// Id of the run, on every label.
    pub run: String,
    /// What makes the bottles under test; whatever else there is is made by the engine behind it.
    pub backend: Arc<dyn Backend>,
    /// The engine: it makes the neighbour.
    pub engine: Arc<dyn Backend>,
    /// Where machines' images come from; `None` where there are no machines.
    images_of_machines: Option<Arc<dyn Source>>,
    /// What it is like.
    pub facts: EngineFacts,
    /// Directory of the run: the launcher's state lies below.
    pub directory: PathBuf,
    _held: RunDirectory,
    /// What any witness saw.
    pub sightings: Arc<Sightings>,
    /// What must not stand in anything that is written.
    pub redaction: Redaction,
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
    /// Launches under way at a time.
    pub launching: tokio::sync::Semaphore,
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

/// What a lab is made from.
pub struct LabOptions {
    /// Id of the run.
    pub run: String,
    /// What makes the bottles under test.
    pub backend: Arc<dyn Backend>,
    /// The engine behind it.
    pub engine: Arc<dyn Backend>,
    /// The same, as a place of images for machines.
    pub images_of_machines: Option<Arc<dyn Source>>,
    /// The embedded parts.
    pub parts: Parts,
    /// What cases that kill a launcher start; `None`: this very program.
    pub program: Option<PathBuf>,
    /// Turns `true` when the run is to stop.
    pub stop: watch::Receiver<bool>,
}

impl Lab {
    /// Makes the surroundings. On failure what was made is removed again, the directory of the run too.
    pub async fn open(options: LabOptions) -> Result<Self, SuiteError> {
        let made = Arc::new(Made::default());
        let backend = options.backend.clone();
        let held = RunDirectory::make(&options.run)?;
        let directory = held.path.clone();
        let opened = Self::make(options, held, made.clone()).await;
        if opened.is_err() {
            for left in made.remove(&*backend, false).await {
                tracing::warn!(left, "left behind: `bottle cleanup` removes it");
            }
            if let Err(error) = std::fs::remove_dir_all(&directory) {
                tracing::warn!(directory = %directory.display(), %error, "left behind");
            }
        }
        opened
    }

    async fn make(options: LabOptions, held: RunDirectory, made: Arc<Made>) -> Result<Self, SuiteError> {
        let backend = options.backend;
        let facts = backend
            .facts()
            .await
            .map_err(SuiteError::engine("asking the engine what it is like"))?;
        let sightings = Arc::new(Sightings::default());
        let host = HostWitnesses::open(sightings.clone()).await.map_err(SuiteError::Host)?;
        let (config, ca) = authority::authority()?;
        let site = Site {
            run: &options.run,
            backend: &*backend,
            made: &made,
        };
        let Surroundings {
            images,
            network,
            outside,
            outside_id,
            control_outside,
            control_host,
            published,
        } = Surroundings::make(&site, &options.parts, &config, &sightings).await?;
        let v4 = outside.addresses().iter().find(|address| address.is_ipv4()).copied();
        let outside_address = v4.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let keys = keys::keys(&host, outside_address, published);
        Ok(Self {
            program: options.program,
            witness_config: config,
            leaky: OnceCell::new(),
            extra_paths: Mutex::default(),
            subnets: Mutex::default(),
            names: tokio::sync::Mutex::default(),
            redaction: Redaction::default(),
            launching: tokio::sync::Semaphore::new(launches_at_a_time()),
            network,
            run: options.run,
            facts,
            directory: held.path.clone(),
            _held: held,
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
            stop: options.stop,
            bottles: Mutex::default(),
            launches: Mutex::default(),
            made,
            backend,
            engine: options.engine,
            images_of_machines: options.images_of_machines,
        })
    }

    /// What makes the guest of such a bottle. The neighbour of a microVM is a container: of the two it has the addresses and the
    /// listener that can be attacked at all.
    pub fn guests_of(&self, kind: Kind) -> &Arc<dyn Backend> {
        match kind {
            Kind::Attacked => &self.backend,
            Kind::Peer => &self.engine,
        }
    }

    /// What makes a machine from which this was removed, kept apart from the others, and the container in whose network
    /// namespace it connects, if there is one: that holds networks of bottles, and goes when the machine has gone.
    pub async fn loose_machines(
        &self,
        removed: &MachineRemoved,
    ) -> Result<(Arc<dyn Backend>, Option<String>), SuiteError> {
        let failed = |error| SuiteError::engine("making a smolvm that leaves a control out")(error);
        let Some(images) = self.images_of_machines.clone() else {
            return Ok((self.backend.clone(), None));
        };
        let member = match &removed.network {
            None => None,
            Some(network) if network.name == HOST_NETWORK => Some(Member {
                container: None,
                namespace: "/proc/self/ns/net".into(),
            }),
            Some(network) => {
                let container = self.control_on(&network.name).await?;
                let seen = self.engine.observe(Role::Bundle, &container).await.map_err(failed)?;
                seen.pid.map(|pid| Member {
                    container: Some(container),
                    namespace: PathBuf::from(format!("/proc/{pid}/ns/net")),
                })
            }
        };
        if let Some(disk) = &removed.disk {
            std::fs::write(disk, vec![0; 1 << 20]).map_err(|source| SuiteError::Path {
                path: disk.into(),
                source,
            })?;
        }
        let mut settings = bottle_smolvm::Settings::from_env();
        let real = settings.program.unwrap_or_else(|| "smolvm".into());
        let directory = self.directory.join(format!("loose-{}", &fresh_nonce().as_str()[2..10]));
        settings.program = Some(loose::program(&directory, &real, removed, member.as_ref())?);
        let machines = Smolvm::open(self.engine.clone(), images, &settings)
            .await
            .map_err(failed)?;
        Ok((Arc::new(machines), member.and_then(|member| member.container)))
    }

    /// Where agents are started in a control guest.
    pub fn control<'a>(&'a self, id: &'a str) -> Place<'a> {
        Place {
            backend: &*self.engine,
            role: Role::Bundle,
            id,
            prefix: &[],
        }
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

fn launches_at_a_time() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Two processors have always done four at a time well: most of a launch is waiting.
    if processors == 1 { 1 } else { LAUNCHES_AT_A_TIME }
}

/// What the engine holds of a lab from its beginning.
struct Surroundings {
    images: Images,
    network: String,
    outside: Outside,
    outside_id: String,
    control_outside: String,
    control_host: String,
    published: u16,
}

impl Surroundings {
    async fn make(
        site: &Site<'_>,
        parts: &Parts,
        config: &WitnessConfig,
        sightings: &Arc<Sightings>,
    ) -> Result<Self, SuiteError> {
        // Both are awaited also when one fails, so that whatever was made is known.
        let (images, subnet) = tokio::join!(Images::load(parts, site.backend), site.network());
        let (images, subnet) = (images?, subnet?);
        let network = site.network_name();
        let subnets = BTreeMap::from([(network.clone(), subnet)]);
        let image = &images.probe.reference;
        let attachment = Attachment {
            network: network.clone(),
            host_number: None,
            aliases: Vec::new(),
        };
        let networks = NetworkMode::Networks(vec![attachment]);
        let mut control = plain("control-outside", image, networks, site.run);
        control.hardening.capabilities = vec!["NET_RAW".to_owned()];
        let mut control_host = plain("control-host", image, NetworkMode::Host, site.run);
        control_host.hostname = None;
        // None waits for another, but the witness's address must be taken before the engine gives it to a control guest.
        let joined = async {
            let witness = site
                .witness("witness", &images.witness.reference, &subnets, config, sightings)
                .await?;
            Ok::<_, SuiteError>((witness, site.start(&control, &subnets, false).await?.0))
        };
        let (joined, control_host, published) = tokio::join!(
            joined,
            site.start(&control_host, &subnets, false),
            site.published(image, sightings)
        );
        let ((outside, outside_id), control_outside) = joined?;
        let (control_host, published) = (control_host?.0, published?);
        Ok(Self {
            images,
            network,
            outside,
            outside_id,
            control_outside,
            control_host,
            published,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_backend::fake::{Failure, Fake};
    use bottle_plan::BackendKind;

    #[tokio::test]
    async fn a_lab_that_cannot_be_opened_leaves_nothing() {
        let empty: &[u8] = &[];
        for call in 1..5 {
            let fake = Fake::new(BackendKind::Docker);
            fake.fail_at(call, Failure::Refused);
            let run = crate::sightings::fresh_nonce().as_str()[2..10].to_owned();
            let (_stop, stopped) = watch::channel(false);
            let options = LabOptions {
                run: run.clone(),
                backend: Arc::new(fake.clone()),
                engine: Arc::new(fake.clone()),
                images_of_machines: None,
                parts: Parts {
                    architecture: bottle_backend::Architecture::Amd64,
                    bundle: empty,
                    leaky_bundle: empty,
                    probe: empty,
                    witness: empty,
                },
                program: None,
                stop: stopped,
            };
            assert!(Lab::open(options).await.is_err(), "call {call}");
            let left = std::env::temp_dir().join(format!("bottle-conform-{run}"));
            assert!(!left.exists(), "call {call}: {}", left.display());
            assert_eq!(fake.resources(), [], "call {call}");
        }
    }
}
