//! LC-01: what a stopped bottle leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_plan::LABEL_SLUG;
use probe_spec::{InventoryKind, Vantage};

use super::inventory::Marks;
use super::{Observation, launch_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::selection::CaseCell;

/// How long the engine and the kernel may take to forget.
pub const BOUND: Duration = Duration::from_secs(5);

/// Launches a bottle, closes it, and looks for what is left of it.
pub async fn after_stop(target: &Target<'_>, cell: &CaseCell, kind: InventoryKind) -> Result<Observation, SuiteError> {
    let lab = target.lab;
    let fixture = launch_like(target, cell).await?;
    let marks = Marks::of(&*lab.backend, &fixture.bottle)
        .await
        .map_err(SuiteError::engine("reading a bottle's marks"))?;
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let alive = marks.inventory(&*lab.backend, kind).await;
    observed.note(format!("while it was up: {alive:?}"));
    let report = fixture.bottle.close().await;
    for (step, problem) in report.errors() {
        observed.findings.push(format!("{step} was not removed: {problem}"));
    }
    match (alive, wait_until_gone(&marks, &*lab.backend, kind, BOUND).await) {
        (Ok(alive), Ok(left)) => {
            // What is there while the bottle is up shows that the inventory works; where a kind has nothing by design, that
            // it can be read is all that can be shown.
            if !alive.is_empty() || has_none_by_design(kind) {
                observed.alive.push(Vantage::Inventory);
            }
            observed
                .findings
                .extend(left.into_iter().map(|left| format!("left after the stop: {left}")));
        }
        (Err(problem), _) | (_, Err(problem)) => {
            observed.issued = false;
            observed.note(problem);
        }
    }
    sweep_up(&*lab.backend, marks.slug()).await;
    Ok(observed)
}

/// Kinds of which a bottle on this backend never has one.
fn has_none_by_design(kind: InventoryKind) -> bool {
    matches!(kind, InventoryKind::LoopDevices)
}

/// What is still there of a kind after at most `bound`.
pub async fn wait_until_gone(
    marks: &Marks,
    backend: &dyn Backend,
    kind: InventoryKind,
    bound: Duration,
) -> Result<BTreeSet<String>, String> {
    let deadline = Instant::now() + bound;
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
