//! Bottles whose guest is a microVM of the smolvm program.
//!
//! The bundle stays in the container engine, so [`Smolvm`] wraps the engine's backend and does only the guest itself, and
//! what the two share. Everything that smolvm is asked is one program call: `shapes` has their words, `program` their time
//! limits and failures. smolvm keeps no record of who made a machine and what for, so `journal` does.
//!
//! smolvm gives a machine's program every capability. The boundary of the machine would hold all the same, but a plan is to
//! mean the same on every backend: `bottle-guest` confines the program from inside (`inside`).
#![warn(missing_docs)]

mod backend;
mod booting;
mod facts;
mod firewall;
mod image;
mod inside;
mod journal;
mod listing;
mod loopback;
mod machine;
mod mediation;
mod own_failure;
mod processes;
mod program;
mod programs;
mod relay;
mod removal;
mod routing;
mod session;
mod shapes;
mod shared;
mod site;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bottle_backend::{Backend, BackendError};
use tokio::sync::Semaphore;

pub use booting::step_back;
pub use firewall::{USERS, remove_rules};
pub use image::{Pieces, Settings as ImageSettings, Source};
pub use program::Limits;
pub use site::Settings;

use crate::image::Cache;
use crate::journal::Journal;
use crate::machine::{Machine, Maker};
use crate::program::Program;
use crate::programs::Further;
use crate::routing::{Narrowing, narrowing};
use crate::shared::Shared;
use crate::site::Site;

/// The backend.
pub struct Smolvm {
    /// Where bundles live.
    inner: Arc<dyn Backend>,
    /// Where images come from.
    source: Arc<dyn Source>,
    site: Site,
    cache: Cache,
    maker: Maker,
    settings: Settings,
    /// Who keeps routed machines to a port, or why nobody can.
    narrowing: Result<Narrowing, String>,
    starts: Semaphore,
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    /// Directories of this host that bundles have, by the bundle's id and where they are in it.
    shares: Mutex<BTreeMap<(String, String), PathBuf>>,
    /// Further programs by their id.
    further: Mutex<BTreeMap<String, Further>>,
    execs: AtomicU64,
}

impl Smolvm {
    /// Finds the program and asks for its version. `inner` makes bundles, networks and everything else that is no machine;
    /// `source`, usually the same engine, has the images.
    ///
    /// # Errors
    /// When there is no smolvm, or it is too old to be relied on.
    pub async fn open(
        inner: Arc<dyn Backend>,
        source: Arc<dyn Source>,
        settings: &Settings,
    ) -> Result<Self, BackendError> {
        let site = Site::new(settings);
        let program = Program::find(settings.program.as_deref(), &site.machines(), &settings.limits).await?;
        Ok(Self {
            inner,
            source,
            narrowing: narrowing(settings.firewall, program.shapes().mediates()),
            cache: Cache::new(site.images()),
            maker: Maker {
                program,
                limits: settings.limits,
                journal: Journal::new(site.journal()),
                shared: Shared::new(&site),
                start_tries: settings.start_tries,
            },
            site,
            settings: settings.clone(),
            starts: Semaphore::new(settings.starts_at_once.max(1)),
            machines: Mutex::default(),
            shares: Mutex::default(),
            further: Mutex::default(),
            execs: AtomicU64::new(0),
        })
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Machine>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<(String, String), PathBuf>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn further(&self) -> MutexGuard<'_, BTreeMap<String, Further>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What bottles with machines left on this host, alive or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Names; with none of them, no smolvm is needed to clean up.
    pub names: Vec<String>,
    /// The program that all of the machines were made with, for whoever looks at them and was told of none.
    pub program: Option<PathBuf>,
}

/// Looks for what bottles with machines left on this host.
///
/// # Errors
/// When the journal cannot be read.
pub fn remains(settings: &Settings) -> Result<Remains, BackendError> {
    let mut remains = Remains::default();
    let mut programs = BTreeSet::new();
    for entry in Journal::new(Site::new(settings).journal()).all()? {
        remains.names.push(entry.name);
        programs.extend(entry.program);
    }
    // Of several, one may be for some of the machines only: those of known-leaky bottles.
    remains.program = programs.pop_first().filter(|path| programs.is_empty() && path.exists());
    Ok(remains)
}

/// Paths of images that machines have.
fn images_in_use(journal: &Journal) -> Result<Vec<PathBuf>, BackendError> {
    Ok(journal.all()?.into_iter().filter_map(|entry| entry.image).collect())
}
