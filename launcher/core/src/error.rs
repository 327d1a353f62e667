//! Why a launch did not happen.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bottle_backend::BackendError;

use crate::drift::Drift;
use crate::teardown::TeardownReport;

/// A launch that failed, and how its remains were removed.
#[derive(Debug, thiserror::Error)]
#[error("{failure}{}", remains(.undone))]
pub struct LaunchError {
    /// Why.
    #[source]
    pub failure: LaunchFailure,
    /// What was removed again; its errors name what is left.
    pub undone: TeardownReport,
}

fn remains(undone: &TeardownReport) -> String {
    if undone.is_clean() {
        return String::new();
    }
    let left: Vec<String> = undone
        .errors()
        .map(|(step, problem)| format!("{step}: {problem}"))
        .collect();
    format!(
        "; and not everything could be removed again ({}): `bottle cleanup` will try again",
        left.join("; ")
    )
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// The plan is for another backend.
    #[error("the plan is for backend {planned:?}, but it was handed to {given:?}: prepare it again for that backend")]
    WrongBackend {
        /// The plan's.
        planned: bottle_plan::BackendKind,
        /// The one at hand.
        given: bottle_plan::BackendKind,
    },
    /// The caller asked to stop.
    #[error("the launch was cancelled")]
    Cancelled,
    /// Tokens that the plan needs were not given.
    #[error("no value was given for {}: set the environment variable(s) of that name", .names.join(", "))]
    SecretsMissing {
        /// Names of the environment variables.
        names: Vec<String>,
    },
    /// A call of the backend failed.
    #[error("{step}: {source}{}", engine_is_full(.source))]
    Backend {
        /// Which step of the launch.
        step: String,
        /// What the backend said.
        source: BackendError,
    },
    /// The state directory could not be made or written.
    #[error("state directory, {path}: {source}{}", disk_is_full(.source), path = .path.display())]
    State {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image is not in the engine.
    #[error("the {role}'s image `{image}` is not in the engine: pull or build it first (nothing is pulled by itself)")]
    ImageMissing {
        /// `guest` or `bundle`.
        role: &'static str,
        /// The reference.
        image: String,
    },
    /// The bundle said that it cannot run.
    #[error("the bundle cannot run: {reason}{}", said(.stderr))]
    BundleFailed {
        /// Its reason.
        reason: String,
        /// The last lines of its standard error.
        stderr: Vec<String>,
    },
    /// The bundle ended before it was ready.
    #[error("the bundle ended before it was ready ({status}){}", said(.stderr))]
    BundleEnded {
        /// Its exit code in words.
        status: String,
        /// The last lines of its standard error.
        stderr: Vec<String>,
    },
    /// The bundle was not ready in time.
    #[error("the bundle was not ready within {} s{}", .limit.as_secs(), said(.stderr))]
    BundleLate {
        /// The limit.
        limit: Duration,
        /// The last lines of its standard error.
        stderr: Vec<String>,
    },
    /// The bundle did not take its configuration.
    #[error("writing the configuration to the bundle: {source}{}", said(.stderr))]
    BundleInput {
        /// What the system said.
        source: std::io::Error,
        /// The last lines of its standard error.
        stderr: Vec<String>,
    },
    /// The project could not be copied into the guest.
    #[error("copying the project: {0}")]
    Workspace(String),
    /// The engine applied something other than the plan.
    #[error("the engine did not apply what was planned, so the guest was not started: {}", .drifts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Drift {
        /// Every difference.
        drifts: Vec<Drift>,
    },
}

/// What to do about a full disk of the engine, whose errors are its words.
fn engine_is_full(error: &BackendError) -> &'static str {
    if error.problem.to_lowercase().contains("no space left on device") {
        "; the engine's disk is full: free some of it (`docker system df` says what uses it), then run this again"
    } else {
        ""
    }
}

/// What to do about a full disk under the state directory.
fn disk_is_full(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::StorageFull {
        "; free some of that disk, or set BOTTLE_STATE_DIR to a directory on another"
    } else {
        ""
    }
}

fn said(stderr: &[String]) -> impl fmt::Display {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; its last lines: {}", stderr.join(" | "))
    }
}
