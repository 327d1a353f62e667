//! What a conformance run cannot go on from.

use std::path::PathBuf;

use bottle_backend::{BackendError, BackendErrorKind, PartsError};
use bottle_launch::LaunchError;
use bottle_plan::{ManifestError, PlanError};

use crate::outside::OutsideError;
use crate::template::TemplateError;

/// Why the suite could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// There are no guest parts for the engine.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// A call of the engine failed.
    #[error("{step}: {source}")]
    Engine {
        /// What was being done.
        step: &'static str,
        /// What the engine said.
        source: BackendError,
    },
    /// An image could not be put together.
    #[error("making the image {0}: {1}")]
    Image(&'static str, std::io::Error),
    /// The witness did not come up.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// The listeners on the host could not be opened.
    #[error("opening the witnesses on the host: {0}")]
    Host(std::io::Error),
    /// A path could not be made or written.
    #[error("{path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The witness's authority could not be made.
    #[error("making the witness's certificate authority: {0}")]
    Authority(#[from] rcgen::Error),
    /// The suite's own manifest is not understood.
    #[error("the suite's own manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// There is no plan of a bottle.
    #[error("planning a bottle: {0}")]
    Plan(#[from] PlanError),
    /// A bottle could not be launched.
    #[error("launching a bottle: {0}")]
    Launch(Box<LaunchError>),
    /// The listener on a bundle's loopback could not be made.
    #[error("making a listener on a bundle's loopback: {0}")]
    Joined(Box<bollard::errors::Error>),
    /// A case cannot be filled in.
    #[error("filling in a case: {0}")]
    Template(#[from] TemplateError),
    /// The operator stopped the run.
    #[error("stopped by the operator")]
    Interrupted,
    /// A task of the suite ended by itself.
    #[error("a task of the suite ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl From<LaunchError> for SuiteError {
    fn from(error: LaunchError) -> Self {
        Self::Launch(Box::new(error))
    }
}

impl SuiteError {
    /// For `map_err` after a call of the engine.
    pub fn engine(step: &'static str) -> impl FnOnce(BackendError) -> Self {
        move |source| Self::Engine { step, source }
    }

    /// Whether the engine does not answer at all.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Engine { source, .. } => source.kind == BackendErrorKind::Unreachable,
            Self::Launch(error) => matches!(&error.failure,
                bottle_launch::LaunchFailure::Backend { source, .. } if source.kind == BackendErrorKind::Unreachable),
            _ => false,
        }
    }
}
