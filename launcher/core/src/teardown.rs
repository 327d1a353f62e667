//! What must be undone: the halves of a bottle, then what they are on, then the launcher's own notes. What does not depend
//! on each other is undone at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bottle_backend::patient;
use futures_util::future::join_all;

/// How long one step of a teardown may take.
pub const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Kinds of steps of a launch that are undone, each after what it needs: they are undone the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKind {
    /// The launcher's directory of this bottle.
    StateDirectory,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The bundle's container.
    Bundle,
    /// The bundle's lease: its standard input.
    Lease,
    /// The guest.
    Guest,
}

impl StepKind {
    /// All of them.
    pub const ALL: [StepKind; 6] = [
        Self::StateDirectory,
        Self::Network,
        Self::Volume,
        Self::Bundle,
        Self::Lease,
        Self::Guest,
    ];

    /// Steps of one stage are undone at once, higher stages first.
    fn stage(self) -> u8 {
        match self {
            Self::StateDirectory => 0,
            Self::Network | Self::Volume => 1,
            Self::Bundle | Self::Lease | Self::Guest => 2,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::StateDirectory => "state directory",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Bundle => "bundle",
            Self::Lease => "lease",
            Self::Guest => "guest",
        }
    }
}

/// A step: its kind and the name of what was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// Kind.
    pub kind: StepKind,
    /// Name of the engine object, or path.
    pub object: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.object)
    }
}

type Undo = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Steps of one stage that must be undone one after another.
type Chain = Vec<(Step, Undo)>;

/// The stack of what must be undone.
#[derive(Default)]
pub(crate) struct Teardown {
    steps: Mutex<Vec<(Step, Undo)>>,
    noted: Option<Noted>,
}

/// Told each step when it is noted, that is before the thing is made.
pub type Noted = Arc<dyn Fn(&Step) + Send + Sync>;

impl Teardown {
    /// Nothing noted yet.
    pub(crate) fn new(noted: Option<Noted>) -> Self {
        Self {
            noted,
            ..Self::default()
        }
    }

    /// Notes how to undo `kind` `object`, before it is made: an undo of something that was never made must do nothing.
    pub(crate) fn push(
        &self,
        kind: StepKind,
        object: impl Into<String>,
        undo: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let step = Step {
            kind,
            object: object.into(),
        };
        if let Some(noted) = &self.noted {
            noted(&step);
        }
        self.locked().push((step, Box::pin(undo)));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<(Step, Undo)>> {
        self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What would be undone, first undone first.
    pub(crate) fn names(&self) -> Vec<Step> {
        let mut names: Vec<Step> = self.locked().iter().rev().map(|(step, _)| step.clone()).collect();
        // Stable: of one kind, the last one stays first.
        names.sort_by_key(|step| std::cmp::Reverse(step.kind));
        names
    }

    /// Undoes everything, stage by stage; goes on after errors.
    pub(crate) async fn run(&self) -> TeardownReport {
        let mut report = TeardownReport::default();
        while let Some(chains) = self.take_stage() {
            let outcomes = join_all(chains.into_iter().map(undo_in_turn)).await;
            report.steps.extend(outcomes.into_iter().flatten());
        }
        report
    }

    /// The highest stage that has something to undo.
    fn take_stage(&self) -> Option<Vec<Chain>> {
        let mut steps = self.locked();
        let stage = steps.iter().map(|(step, _)| step.kind.stage()).max()?;
        let mut taken: Chain = steps.extract_if(.., |(step, _)| step.kind.stage() == stage).collect();
        taken.reverse();
        taken.sort_by_key(|(step, _)| std::cmp::Reverse(step.kind));
        let mut chains: Vec<Chain> = Vec::new();
        for step in taken {
            // The bundle may have its last words before it is removed.
            let follows = step.0.kind == StepKind::Bundle;
            match chains.last_mut() {
                Some(chain) if follows && chain.iter().any(|(before, _)| before.kind == StepKind::Lease) => {
                    chain.push(step);
                }
                _ => chains.push(vec![step]),
            }
        }
        Some(chains)
    }
}

async fn undo_in_turn(chain: Chain) -> Vec<(Step, Result<(), String>)> {
    let mut outcomes = Vec::with_capacity(chain.len());
    for (step, undo) in chain {
        tracing::debug!(%step, "undo");
        let outcome = match tokio::time::timeout(patient(STEP_LIMIT), undo).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("not done within {} s", patient(STEP_LIMIT).as_secs())),
        };
        outcomes.push((step, outcome));
    }
    outcomes
}

/// What a teardown did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeardownReport {
    /// Every step in the order in which it was begun to be undone (a step of the bundle after the one before it), with the
    /// problem if it had one.
    pub steps: Vec<(Step, Result<(), String>)>,
}

impl TeardownReport {
    /// Whether everything is gone.
    pub fn is_clean(&self) -> bool {
        self.errors().next().is_none()
    }

    /// Steps that failed, and why.
    pub fn errors(&self) -> impl Iterator<Item = (&Step, &str)> {
        self.steps
            .iter()
            .filter_map(|(step, outcome)| outcome.as_ref().err().map(|problem| (step, problem.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn undoes_by_stages_and_goes_on_after_errors() {
        let teardown = Teardown::default();
        teardown.push(StepKind::Network, "a", async { Ok(()) });
        teardown.push(StepKind::Volume, "b", async { Err("stuck".to_owned()) });
        teardown.push(StepKind::Guest, "c", async { Ok(()) });
        assert_eq!(teardown.names()[0].object, "c");
        let report = teardown.run().await;
        let order: Vec<&str> = report.steps.iter().map(|(step, _)| step.object.as_str()).collect();
        assert_eq!(order, ["c", "b", "a"]);
        assert!(!report.is_clean());
        assert_eq!(
            report
                .errors()
                .next()
                .map(|(step, problem)| (step.to_string(), problem)),
            Some(("volume b".to_owned(), "stuck"))
        );
        assert!(teardown.run().await.steps.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_independent_is_undone_at_once_and_what_is_needed_stays() {
        let teardown = Teardown::default();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        // The order in which a launch happens to note them is not the order of their needs.
        for (kind, seconds) in [
            (StepKind::StateDirectory, 0),
            (StepKind::Guest, 3),
            (StepKind::Network, 2),
            (StepKind::Volume, 1),
            (StepKind::Network, 2),
            (StepKind::Bundle, 1),
            (StepKind::Lease, 1),
        ] {
            let sender = sender.clone();
            teardown.push(kind, "x", async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                sender.send(kind).map_err(|error| error.to_string())
            });
        }
        let begun = tokio::time::Instant::now();
        let names: Vec<StepKind> = teardown.names().iter().map(|step| step.kind).collect();
        let report = teardown.run().await;
        assert!(report.is_clean());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        drop(sender);
        let mut undone = Vec::new();
        while let Some(kind) = order.recv().await {
            undone.push(kind);
        }
        use StepKind::{Bundle, Guest, Lease, Network, StateDirectory, Volume};
        assert_eq!(undone, [Lease, Bundle, Guest, Volume, Network, Network, StateDirectory]);
        let reported: Vec<StepKind> = report.steps.iter().map(|(step, _)| step.kind).collect();
        assert_eq!(
            reported,
            [Guest, Lease, Bundle, Volume, Network, Network, StateDirectory]
        );
        assert_eq!(names, reported);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_hangs_does_not_hold_up_the_others() {
        let teardown = Teardown::default();
        teardown.push(StepKind::Network, "a", async { Ok(()) });
        teardown.push(StepKind::Volume, "b", std::future::pending());
        let report = teardown.run().await;
        assert_eq!(report.steps.len(), 2);
        assert_eq!(report.errors().count(), 1);
    }
}
