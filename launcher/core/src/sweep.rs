//! Removes what dead launchers left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bottle_backend::{Backend, BackendError, Resource, ResourceKind, Role};
use bottle_plan::{LABEL_OWNER_PID, LABEL_RUN, LABEL_SLUG};
use futures_util::StreamExt;

use crate::owner::{LABEL_MADE, Owner, OwnerState};
use crate::state;

/// Remains of an owner that cannot be looked up from here are taken for dead when none of their containers runs (a live
/// launcher holds its bundle's lease) and they are older than this, which is longer than any launch takes.
const FOREIGN_AGE: Duration = Duration::from_secs(600);

/// How many things are removed at once: a killed run may leave hundreds, and the engine serves others too.
const AT_ONCE: usize = 8;

/// What to sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepScope {
    /// The launcher's state directory, when directories of dead bottles are to go too.
    pub state_dir: Option<PathBuf>,
    /// Only what belongs to this run.
    pub run: Option<String>,
}

impl SweepScope {
    /// What every launcher left, with its directories in this state directory.
    pub fn all(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: Some(state_dir.into()),
            run: None,
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct SweepReport {
    /// Engine objects that were removed (or were gone when it was their turn).
    pub removed: Vec<Resource>,
    /// State directories that were removed.
    pub directories: Vec<PathBuf>,
    /// What could not be removed, and why.
    pub failed: Vec<(String, String)>,
    /// How many objects belong to live owners and were left alone.
    pub alive: usize,
    /// How many objects belong to owners that cannot be looked up from here, and were left alone.
    pub foreign: usize,
}

impl SweepReport {
    pub(crate) fn log(&self) {
        for resource in &self.removed {
            tracing::info!(kind = ?resource.kind, name = resource.name, "removed what a dead launcher left");
        }
        for (what, problem) in &self.failed {
            tracing::warn!(what, problem, "a dead launcher's remains stay");
        }
    }
}

/// Removes everything with our labels whose owner process is dead: containers, then networks and volumes, then their state
/// directories; those of bottles that have nothing else come first. Never touches what has no complete labels or a live owner.
/// Several sweeps may run at once.
pub async fn sweep(backend: &dyn Backend, scope: &SweepScope) -> Result<SweepReport, BackendError> {
    let mut found = backend.inventory(LABEL_OWNER_PID, None).await?;
    if let Some(run) = &scope.run {
        found.retain(|resource| resource.labels.get(LABEL_RUN) == Some(run));
    }
    let foreign_dead = foreign_dead(backend, &found).await;
    let mut report = SweepReport::default();
    let mut dead = Vec::new();
    for resource in found {
        match Owner::of(&resource.labels).map(|owner| (owner.state(), owner)) {
            // A resource without complete labels is not ours to judge.
            None | Some((OwnerState::Alive, _)) => report.alive += 1,
            Some((OwnerState::Dead, _)) => dead.push(resource),
            Some((OwnerState::Foreign, owner)) if foreign_dead.contains(&owner) => dead.push(resource),
            Some((OwnerState::Foreign, _)) => report.foreign += 1,
        }
    }
    // A directory that is all that is left waits for nobody: an engine that is busy may take longer than a command has.
    let has_more: BTreeSet<&str> = dead.iter().filter_map(slug).collect();
    let (mut with_more, alone): (Directories, Directories) = directories(scope, &mut report)
        .into_iter()
        .partition(|(name, _)| has_more.contains(name.as_str()));
    remove_dead(alone, &mut report);
    // Containers hold networks and volumes.
    let (containers, others): (Vec<Resource>, Vec<Resource>) = dead
        .into_iter()
        .partition(|resource| resource.kind == ResourceKind::Container);
    let mut stuck = remove_all(backend, containers, &mut report).await;
    stuck.extend(remove_all(backend, others, &mut report).await);
    with_more.retain(|name, _| !stuck.contains(name));
    remove_dead(with_more, &mut report);
    Ok(report)
}

/// The bottle that a thing belongs to.
fn slug(resource: &Resource) -> Option<&str> {
    resource.labels.get(LABEL_SLUG).map(String::as_str)
}

/// Removes these, several at once; slugs of those that stay.
async fn remove_all(backend: &dyn Backend, dead: Vec<Resource>, report: &mut SweepReport) -> BTreeSet<String> {
    let mut stuck = BTreeSet::new();
    let removals = dead.into_iter().map(async |resource| {
        let outcome = backend.remove(&resource).await;
        (resource, outcome)
    });
    let mut removals = futures_util::stream::iter(removals).buffered(AT_ONCE);
    while let Some((resource, outcome)) = removals.next().await {
        match outcome {
            Ok(()) => report.removed.push(resource),
            Err(error) => {
                stuck.extend(slug(&resource).map(str::to_owned));
                report.failed.push((resource.name.clone(), error.to_string()));
            }
        }
    }
    stuck
}

/// Foreign owners none of whose containers runs and all of whose remains are old.
async fn foreign_dead(backend: &dyn Backend, found: &[Resource]) -> BTreeSet<Owner> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut owners: BTreeMap<Owner, bool> = BTreeMap::new();
    for resource in found {
        let Some(owner) = Owner::of(&resource.labels).filter(|owner| owner.state() == OwnerState::Foreign) else {
            continue;
        };
        let made: Option<u64> = resource.labels.get(LABEL_MADE).and_then(|made| made.parse().ok());
        let old = made.is_some_and(|made| made.saturating_add(FOREIGN_AGE.as_secs()) < now);
        let dead = owners.entry(owner).or_insert(true);
        *dead = *dead && old;
        if *dead && resource.kind == ResourceKind::Container {
            // Any answer but "does not run" leaves it alone.
            *dead = backend
                .observe(Role::Bundle, &resource.id)
                .await
                .is_ok_and(|seen| !seen.running);
        }
    }
    owners
        .into_iter()
        .filter_map(|(owner, dead)| dead.then_some(owner))
        .collect()
}

/// Directories by their names, which are slugs but for those that are being made or removed.
type Directories = BTreeMap<String, PathBuf>;

/// Directories of bottles.
fn directories(scope: &SweepScope, report: &mut SweepReport) -> Directories {
    // Directories do not say to which run they belong.
    let Some(state_dir) = scope.state_dir.as_ref().filter(|_| scope.run.is_none()) else {
        return Directories::new();
    };
    let bottles = state_dir.join("bottles");
    match std::fs::read_dir(&bottles) {
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            // What is no text is no name of ours.
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Directories::new(),
        Err(error) => {
            report.failed.push((bottles.display().to_string(), error.to_string()));
            Directories::new()
        }
    }
}

/// Removes those whose owner is dead: the noted one, or the one who was making or removing it. One without an owner is none of
/// ours. Who it is is looked up only now: a name may be a new bottle's since they were listed.
fn remove_dead(directories: Directories, report: &mut SweepReport) {
    for directory in directories.into_values() {
        if state::owner_of(&directory).is_none_or(|owner| owner.state() != OwnerState::Dead) {
            continue;
        }
        match state::remove(&directory, &[]) {
            Ok(()) => report.directories.push(directory),
            Err(problem) => report.failed.push((directory.display().to_string(), problem)),
        }
    }
}
