//! LC-01: what a stopped bottle leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bottle_backend::{Backend, patient};
use bottle_plan::LABEL_SLUG;
use probe_spec::{InventoryKind, Vantage};

use super::images;
use super::inventory::Marks;
use super::leftovers::{self, Leftovers};
use super::recorded::Recorded;
use super::state::files_of;
use super::{Observation, plan_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::{Fixture, launch_recorded};
use crate::lab::Lab;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// How long the engine and the kernel may take to forget.
const BOUND: Duration = Duration::from_secs(5);

/// A bottle that was launched and stopped for all cases that look at what is left.
pub struct Stopped {
    /// What there was of each kind while it was up, and at most [`BOUND`] after its stop; an error says what could not be read.
    kinds: Vec<(InventoryKind, Found, Found)>,
    /// What its removal said.
    problems: Vec<String>,
    /// How many files of state it had while it was up.
    pub state_files: usize,
    /// What there was of its state right after the stop.
    pub state_left: Vec<String>,
    /// Images that were made of it, after its stop; an error says what could not be read.
    pub images: Result<Vec<String>, String>,
    /// What its bundle was told to decide on before the stop, and where it is recorded.
    pub recorded: Recorded,
}

const KINDS: [InventoryKind; 14] = [
    InventoryKind::Containers,
    InventoryKind::Networks,
    InventoryKind::Volumes,
    InventoryKind::Interfaces,
    InventoryKind::FirewallRules,
    InventoryKind::Mounts,
    InventoryKind::Cgroups,
    InventoryKind::LoopDevices,
    InventoryKind::Processes,
    InventoryKind::Sockets,
    InventoryKind::TemporaryFiles,
    InventoryKind::StateDirectory,
    InventoryKind::UnlabelledNetworks,
    InventoryKind::UnlabelledVolumes,
];

/// What there is of a kind, or what could not be read.
pub type Found = Result<BTreeSet<String>, String>;

impl Stopped {
    /// Launches one like the bottle under test, closes it and waits until nothing is left of it.
    async fn make(target: &Target<'_>, cell: &CaseCell) -> Result<Self, SuiteError> {
        let backend = &*target.lab.backend;
        let planned = plan_like(target, cell).await?;
        // Not named like the bottle: what bears its name after the stop is a finding of LC-01.
        let record = target
            .lab
            .directory
            .join(format!("record-{}", &fresh_nonce().as_str()[2..10]));
        let fixture = launch_recorded(target.lab, planned, &record).await?;
        let marks = Marks::of(backend, &fixture.bottle)
            .await
            .map_err(SuiteError::engine("reading a bottle's marks"))?;
        let leftovers = if fixture.removed.leaves_by_name {
            Some(Leftovers::make(target.lab, fixture.bottle.slug()).await)
        } else {
            None
        };
        let mut seen = seen_of_others(target.lab).await;
        let mut alive = Vec::new();
        for kind in KINDS {
            let found = match seen.iter().position(|(of, _)| *of == kind) {
                Some(at) => seen.swap_remove(at).1,
                None => marks.inventory(backend, kind).await,
            };
            alive.push((kind, found));
        }
        let state = fixture.bottle.state().to_owned();
        let state_files = files_of(&state).len();
        let kept = if fixture.removed.keeps_images {
            images::keep(&fixture.bottle, &fixture.token).await.map(Some)
        } else {
            Ok(None)
        };
        let recorded = Recorded::ask(&fixture, record).await;
        let problems = close(backend, &fixture).await?;
        let mut state_left: Vec<String> = files_of(&state).iter().map(|path| path.display().to_string()).collect();
        if state.exists() {
            state_left.push(state.display().to_string());
        }
        let images = images_of(marks.slug(), kept).await;
        let deadline = Instant::now() + patient(BOUND);
        let mut kinds = Vec::new();
        for (kind, alive) in alive {
            let left = wait_until_gone(&marks, backend, kind, deadline).await;
            kinds.push((kind, alive, left));
        }
        sweep_up(backend, marks.slug()).await;
        if let Some(leftovers) = leftovers {
            complain(leftovers.remove(backend).await);
        }
        Ok(Self {
            kinds,
            problems,
            state_files,
            state_left,
            images,
            recorded,
        })
    }
}

/// Stops a bottle; what could not be removed. An engine that has died meanwhile is an error of the suite, and what stays because
/// of it no finding.
pub async fn close(backend: &dyn Backend, fixture: &Fixture) -> Result<Vec<String>, SuiteError> {
    let report = fixture.bottle.close().await;
    let reached = backend.inventory(LABEL_SLUG, Some(fixture.bottle.slug())).await;
    reached.map_err(SuiteError::engine("listing a bottle after its stop"))?;
    let problems = report.errors();
    Ok(problems
        .map(|(step, problem)| format!("{step} was not removed: {problem}"))
        .collect())
}

/// The images of a bottle, and then none of the one that a known-leaky bottle kept.
async fn images_of(slug: &str, kept: Result<Option<String>, String>) -> Result<Vec<String>, String> {
    let found = images::of_bottle(slug).await;
    if let Some(kept) = kept? {
        images::remove(&kept).await?;
    }
    found
}

/// What the inventory sees of the kinds that no bottle has by design: things of these kinds are made under a name of their own,
/// looked for, and removed.
pub async fn seen_of_others(lab: &Lab) -> Vec<(InventoryKind, Found)> {
    let slug = format!("canary-{}", &fresh_nonce().as_str()[2..10]);
    let marks = Marks::named(&slug);
    let backend = &*lab.backend;
    let leftovers = Leftovers::make(lab, &slug).await;
    let mut seen = Vec::new();
    for kind in leftovers::KINDS {
        let problem = leftovers.problems.iter().find(|(of, _)| *of == kind);
        let found = match problem {
            Some((_, problem)) => Err(format!(
                "nothing shows that one would be seen, since none could be made: {problem}"
            )),
            None => marks.inventory(backend, kind).await,
        };
        seen.push((kind, found));
    }
    complain(leftovers.remove(backend).await);
    seen
}

/// Says what could not be removed of things that were made to be found.
pub fn complain(left: Vec<String>) {
    for left in left {
        tracing::warn!(left, "made to be found, and left behind");
    }
}

/// The bottle that was stopped for all.
pub async fn stopped<'a>(target: &Target<'a>, cell: &CaseCell) -> Result<&'a Stopped, SuiteError> {
    let stopped = &target.shared.stopped;
    stopped.get_or_try_init(|| Stopped::make(target, cell)).await
}

/// Looks for what is left of a kind after a bottle was launched and closed. One bottle serves every kind.
pub async fn after_stop(target: &Target<'_>, cell: &CaseCell, kind: InventoryKind) -> Result<Observation, SuiteError> {
    let stopped = stopped(target, cell).await?;
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    observed.findings.extend(stopped.problems.iter().cloned());
    match stopped.kinds.iter().find(|found| found.0 == kind) {
        Some((_, Ok(alive), Ok(left))) => {
            observed.note(format!("while it was up: {alive:?}"));
            // What is there while the bottle is up (or was made, of kinds that no bottle has) shows that the inventory works.
            if !alive.is_empty() {
                observed.alive.push(Vantage::Inventory);
            }
            observed
                .findings
                .extend(left.iter().map(|left| format!("left after the stop: {left}")));
        }
        Some((_, Err(problem), _) | (_, _, Err(problem))) => {
            observed.issued = false;
            observed.note(problem);
        }
        None => {
            observed.issued = false;
            observed.note(format!("{kind:?} was not looked for"));
        }
    }
    Ok(observed)
}

/// What is still there of a kind at the deadline.
async fn wait_until_gone(marks: &Marks, backend: &dyn Backend, kind: InventoryKind, deadline: Instant) -> Found {
    loop {
        let left = marks.inventory(backend, kind).await?;
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Removes what a known-leaky bottle left, so that it is judged once and burdens nobody.
pub async fn sweep_up(backend: &dyn Backend, slug: &str) {
    let Ok(mut left) = backend.inventory(LABEL_SLUG, Some(slug)).await else {
        return;
    };
    left.sort_by_key(|resource| resource.kind);
    for resource in left {
        if let Err(error) = backend.remove(&resource).await {
            tracing::warn!(name = resource.name, %error, "stays after a known-leaky bottle");
        }
    }
}
