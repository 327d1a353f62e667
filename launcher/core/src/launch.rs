//! The order of a launch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bottle_backend::{Backend, BackendErrorKind, Observed, Role};
use bottle_plan::{NetworkMode, Plan};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bottle::Bottle;
use crate::bundle::{GuestEnd, RunningBundle};
use crate::drift::{container_drift, network_drift};
use crate::error::{LaunchError, LaunchFailure};
use crate::events::{Observer, Phase};
use crate::made::{Half, backend_failed};
use crate::provide::Provided;
use crate::secrets::Secrets;
use crate::state;
use crate::sweep::{SweepScope, sweep};
use crate::teardown::{Noted, StepKind, Teardown, TeardownReport};
use crate::tree::Listing;
use crate::workspace::WorkspaceSource;

/// Role of the network that a routed guest shares with its bundle.
const INNER_NETWORK: &str = "inner-network";

/// Told in a few words what is going on.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// The bundle's image.
#[derive(Clone)]
pub struct BundleImage {
    /// Its name, which has its content's digest.
    pub reference: String,
    /// Makes its `docker save` archive. Called only where the engine lacks it: the archive is many times of what a launcher needs
    /// else.
    pub archive: Arc<dyn Fn() -> std::io::Result<Bytes> + Send + Sync>,
}

impl BundleImage {
    /// An image whose archive is there already.
    pub fn ready(reference: impl Into<String>, archive: Bytes) -> Self {
        Self {
            reference: reference.into(),
            archive: Arc::new(move || Ok(archive.clone())),
        }
    }
}

/// What a launch needs beside the plan.
#[derive(Clone)]
pub struct LaunchOptions {
    /// Value of the `bottle.run` label.
    pub run: String,
    /// The launcher's state directory; a bottle's own is `bottles/SLUG` below it.
    pub state_dir: PathBuf,
    /// The bundle's image, loaded when the engine does not have it.
    pub bundle_image: Option<BundleImage>,
    /// Told what is going on.
    pub progress: Option<Progress>,
    /// Told each step that is noted for the teardown.
    pub noted: Option<Noted>,
    /// Whether to attach to the guest's own streams before its start; see [`Bottle::guest_streams`].
    pub guest_stdio: bool,
    /// How long the bundle may take to be ready.
    pub ready_within: Duration,
    /// Files for the guest, put into the shared directory before the guest starts.
    pub provided: Vec<Provided>,
    /// Where a copied workspace comes from.
    pub workspace: WorkspaceSource,
    /// Told everything that the bundle says, as it comes.
    pub observer: Option<Arc<dyn Observer>>,
    /// Becomes `true` when the launch is to stop and undo what it did. Prefer this to dropping the future of [`launch`]:
    /// a dropped one leaves its remains to the next sweep.
    pub cancel: Option<watch::Receiver<bool>>,
}

impl LaunchOptions {
    /// Options with a 20 s limit for the bundle, nothing attached and nobody told.
    pub fn new(run: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            run: run.into(),
            state_dir: state_dir.into(),
            bundle_image: None,
            progress: None,
            noted: None,
            guest_stdio: false,
            ready_within: Duration::from_secs(20),
            provided: Vec::new(),
            workspace: WorkspaceSource::Directory,
            observer: None,
            cancel: None,
        }
    }
}

/// Makes a bottle. On failure everything made so far is removed again before this returns.
///
/// Order: sweep, state directory, images with networks and volumes, the bundle until it is ready, comparison of everything
/// with the plan, start of the guest. The guest is created as soon as what it is on exists, beside the rest.
pub async fn launch(
    plan: Plan,
    secrets: Secrets,
    backend: Arc<dyn Backend>,
    options: LaunchOptions,
) -> Result<Bottle, LaunchError> {
    let cancel = options.cancel.clone();
    let teardown = Teardown::new(options.noted.clone());
    let site = Site {
        given: plan,
        backend,
        options,
        teardown,
        settled: OnceLock::new(),
        guest_end: Arc::default(),
        tasks: Mutex::default(),
    };
    let outcome = tokio::select! {
        biased;
        () = cancelled(cancel) => Err(LaunchFailure::Cancelled),
        outcome = site.run(secrets) => outcome,
    };
    match outcome {
        Ok(parts) => Ok(site.into_bottle(parts)),
        Err(failure) => {
            let undone = if site.plan().lifecycle.teardown {
                site.teardown.run().await
            } else {
                TeardownReport::default()
            };
            site.take_tasks().iter().for_each(JoinHandle::abort);
            Err(LaunchError { failure, undone })
        }
    }
}

async fn cancelled(cancel: Option<watch::Receiver<bool>>) {
    if let Some(mut cancel) = cancel
        && cancel.wait_for(|stop| *stop).await.is_ok()
    {
        return;
    }
    // Nobody can cancel (any more).
    std::future::pending().await
}

/// A launch under way.
pub(crate) struct Site {
    /// The plan as it was given; see [`Site::plan`].
    pub(crate) given: Plan,
    /// The plan on the subnet that the engine took, when that was not the first candidate.
    pub(crate) settled: OnceLock<Plan>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) options: LaunchOptions,
    pub(crate) teardown: Teardown,
    pub(crate) guest_end: Arc<GuestEnd>,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What a launch comes to.
struct Parts {
    subnets: BTreeMap<String, String>,
    bundle: RunningBundle,
    bundle_seen: Observed,
    guest: Half,
    guest_seen: Observed,
    workspace: Option<Listing>,
}

impl Site {
    async fn run(&self, secrets: Secrets) -> Result<Parts, LaunchFailure> {
        self.check(&secrets)?;
        if self.plan().lifecycle.sweep {
            self.say("sweeping");
            self.sweep().await;
        }
        self.make_state()?;
        self.say("making networks and volumes");
        let (subnets, guest) = self.ground().await?;
        self.settle(&subnets)?;
        let (bundle, guest) = if self.plan().lifecycle.bundle_first {
            self.bundle_beside_guest(secrets, &subnets, guest).await?
        } else {
            let guest = self.create_half(Role::Guest, &subnets).await?;
            self.start_half(Role::Guest, &guest).await?;
            let bundle = self.start_bundle(secrets, &subnets).await?;
            self.await_ready(&bundle).await?;
            (bundle, guest)
        };
        let (bundle_seen, mut guest_seen) = self.compare(&bundle, &guest).await?;
        self.lead(bundle.take_relay_secret(), &bundle_seen, &guest).await?;
        let workspace = self.fill_workspace(&guest, &guest_seen).await?;
        if self.plan().lifecycle.bundle_first {
            self.provide(&bundle).await?;
            self.say("starting the guest");
            self.start_half(Role::Guest, &guest).await?;
            guest_seen = self.see_started(&guest, guest_seen).await?;
        }
        Ok(Parts {
            subnets,
            bundle,
            bundle_seen,
            guest,
            guest_seen,
            workspace,
        })
    }

    pub(crate) fn say(&self, what: &str) {
        tracing::debug!(bottle = self.plan().slug, "{what}");
        if let Some(progress) = &self.options.progress {
            progress(what);
        }
    }

    /// The plan in force: the given one, until the engine has taken another subnet than its first candidate.
    pub(crate) fn plan(&self) -> &Plan {
        self.settled.get().unwrap_or(&self.given)
    }

    /// A routed plan names an address of the first candidate of its inner network. The engine may have taken a later one:
    /// then the plan moves there before a container is made that depends on it.
    fn settle(&self, subnets: &BTreeMap<String, String>) -> Result<(), LaunchFailure> {
        let inner = self.given.networks.iter().find(|network| network.role == INNER_NETWORK);
        let Some((network, subnet)) = inner.and_then(|network| Some((network, subnets.get(&network.name)?))) else {
            return Ok(());
        };
        if network.subnets.first().is_none_or(|first| first.cidr == *subnet) {
            return Ok(());
        }
        if let Some(moved) = self.given.with_inner_subnet(subnet) {
            state::rewrite(&self.options.state_dir, &moved)?;
            // Set once, here, before anything reads the plan again.
            let _ = self.settled.set(moved);
        }
        Ok(())
    }

    fn check(&self, secrets: &Secrets) -> Result<(), LaunchFailure> {
        if self.plan().backend != self.backend.kind() {
            return Err(LaunchFailure::WrongBackend {
                planned: self.plan().backend,
                given: self.backend.kind(),
            });
        }
        let names = secrets.missing(&self.plan().token_env);
        if !names.is_empty() {
            return Err(LaunchFailure::SecretsMissing { names });
        }
        Ok(())
    }

    /// What a dead launcher left must not keep a new one from starting, so problems are only logged.
    async fn sweep(&self) {
        let scope = SweepScope::all(&self.options.state_dir);
        match sweep(&*self.backend, &scope).await {
            Ok(report) => report.log(),
            Err(error) => tracing::warn!(%error, "sweep"),
        }
    }

    fn make_state(&self) -> Result<(), LaunchFailure> {
        let directory = state::state_path(&self.options.state_dir, &self.plan().slug);
        // It leaves nothing where it fails.
        state::make(&self.options.state_dir, self.plan())?;
        let keep: Vec<String> = self
            .plan()
            .state
            .iter()
            .filter(|file| file.keep)
            .map(|file| file.name.clone())
            .collect();
        self.teardown
            .push(StepKind::StateDirectory, directory.display().to_string(), async move {
                state::remove(&directory, &keep)
            });
        Ok(())
    }

    /// What the bundle is made on, all at once: the subnets of the networks. A guest that is on none of them is created
    /// meanwhile.
    async fn ground(&self) -> Result<(BTreeMap<String, String>, Option<Half>), LaunchFailure> {
        let on_networks = matches!(self.plan().guest.network, NetworkMode::Networks(_));
        let rest = async {
            let (images, volumes) = tokio::join!(self.images(), self.volumes());
            images?;
            volumes?;
            if on_networks || !self.plan().lifecycle.bundle_first {
                return Ok(None);
            }
            self.create_half(Role::Guest, &BTreeMap::new()).await.map(Some)
        };
        // Joined, not raced: a creation that is dropped half-way could leave something that nobody knows of.
        let (subnets, guest) = tokio::join!(self.networks(), rest);
        let guest = guest?;
        Ok((subnets?, guest))
    }

    /// Brings the bundle to its readiness; a guest that could not be created before is created meanwhile.
    async fn bundle_beside_guest(
        &self,
        secrets: Secrets,
        subnets: &BTreeMap<String, String>,
        guest: Option<Half>,
    ) -> Result<(RunningBundle, Half), LaunchFailure> {
        let bundle = async {
            let bundle = self.start_bundle(secrets, subnets).await?;
            self.say("waiting for the bundle");
            self.await_ready(&bundle).await?;
            Ok(bundle)
        };
        let guest = async {
            match guest {
                Some(guest) => Ok(guest),
                None => self.create_half(Role::Guest, subnets).await,
            }
        };
        let (bundle, guest) = tokio::join!(bundle, guest);
        Ok((bundle?, guest?))
    }

    /// Reads back what the engine applied and refuses any difference from the plan.
    async fn compare(&self, bundle: &RunningBundle, guest: &Half) -> Result<(Observed, Observed), LaunchFailure> {
        self.say("comparing with the plan");
        let networks = futures_util::future::join_all(
            self.plan()
                .networks
                .iter()
                .map(|network| self.backend.observe_network(&network.name)),
        );
        let (bundle_seen, guest_seen, networks) = tokio::join!(
            self.backend.observe(Role::Bundle, &bundle.half.id),
            self.backend.observe(Role::Guest, &guest.id),
            networks
        );
        let bundle_seen = match bundle_seen {
            Err(error) if error.kind == BackendErrorKind::NotFound => return Err(bundle.ended().await),
            other => other.map_err(backend_failed("reading back the bundle"))?,
        };
        let guest_seen = guest_seen.map_err(backend_failed("reading back the guest"))?;
        let mut drifts = container_drift("bundle", &self.plan().bundle, &bundle_seen.applied);
        drifts.extend(container_drift("guest", &self.plan().guest, &guest_seen.applied));
        for (planned, seen) in self.plan().networks.iter().zip(networks) {
            let seen = seen.map_err(backend_failed("reading back a network"))?;
            drifts.extend(network_drift(planned, &seen));
        }
        if drifts.is_empty() {
            Ok((bundle_seen, guest_seen))
        } else {
            Err(LaunchFailure::Drift { drifts })
        }
    }

    /// Addresses, process id and published ports exist only after the start. A guest that has ended and is gone already is
    /// no failure of the launch: its exit code tells.
    async fn see_started(&self, guest: &Half, before: Observed) -> Result<Observed, LaunchFailure> {
        match self.backend.observe(Role::Guest, &guest.id).await {
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(before),
            other => other.map_err(backend_failed("reading back the started guest")),
        }
    }

    fn take_tasks(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn into_bottle(self, parts: Parts) -> Bottle {
        let (ca_pem, ready_after_ms) = match &*parts.bundle.heard.phase().borrow() {
            Phase::Ready { ca_pem, after_ms } => (ca_pem.clone(), *after_ms),
            _ => parts.bundle.ready(),
        };
        Bottle {
            state: state::state_path(&self.options.state_dir, &self.plan().slug),
            tasks: self.take_tasks(),
            plan: self.settled.into_inner().unwrap_or(self.given),
            backend: self.backend,
            guest: parts.guest_seen,
            bundle: parts.bundle_seen,
            subnets: parts.subnets,
            workspace: parts.workspace,
            ca_pem,
            ready_after_ms,
            streams: Mutex::new(parts.guest.take_streams()),
            lease: parts.bundle.lease,
            heard: parts.bundle.heard,
            guest_exit: parts.guest.exit,
            bundle_exit: parts.bundle.half.exit,
            teardown: self.teardown,
            closed: AtomicBool::new(false),
        }
    }
}
