//! What must be undone, last made first removed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

/// How long one step of a teardown may take.
pub const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Kinds of steps of a launch that are undone, in the order in which a launch takes them.
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

/// The stack of what must be undone.
#[derive(Default)]
pub(crate) struct Teardown {
    steps: Mutex<Vec<(Step, Undo)>>,
}

impl Teardown {
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
        self.locked().push((step, Box::pin(undo)));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<(Step, Undo)>> {
        self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What would be undone, first undone first.
    pub(crate) fn names(&self) -> Vec<Step> {
        self.locked().iter().rev().map(|(step, _)| step.clone()).collect()
    }

    /// Undoes everything, last made first; goes on after errors.
    pub(crate) async fn run(&self) -> TeardownReport {
        let mut report = TeardownReport::default();
        loop {
            let Some((step, undo)) = self.locked().pop() else {
                return report;
            };
            tracing::debug!(%step, "undo");
            let outcome = match tokio::time::timeout(STEP_LIMIT, undo).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("not done within {} s", STEP_LIMIT.as_secs())),
            };
            report.steps.push((step, outcome));
        }
    }
}

/// What a teardown did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeardownReport {
    /// Every step in the order in which it was undone, with the problem if it had one.
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
    async fn undoes_in_reverse_and_goes_on_after_errors() {
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
    async fn a_step_that_hangs_does_not_hold_up_the_others() {
        let teardown = Teardown::default();
        teardown.push(StepKind::Network, "a", async { Ok(()) });
        teardown.push(StepKind::Volume, "b", std::future::pending());
        let report = teardown.run().await;
        assert_eq!(report.steps.len(), 2);
        assert_eq!(report.errors().count(), 1);
    }
}
