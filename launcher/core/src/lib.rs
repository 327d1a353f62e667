//! From a plan to a running bottle, and back to nothing.
//!
//! [`launch`] makes what the plan says, through any [`Backend`](bottle_backend::Backend), reads back what the engine really
//! applied and refuses a difference. Everything made is noted on a stack and undone in reverse, at once when the launch
//! fails and by [`Bottle::close`] otherwise. What a killed launcher leaves is found by its labels: see [`sweep`].
#![warn(missing_docs)]

mod bottle;
mod bundle;
mod drift;
mod error;
mod events;
mod jks;
mod launch;
mod made;
mod owner;
mod provide;
pub mod record;
mod relay;
mod secrets;
mod state;
mod sweep;
mod teardown;
pub mod tree;
mod workspace;

pub use bottle::Bottle;
pub use drift::{Drift, container_drift, network_drift};
pub use error::{LaunchError, LaunchFailure};
pub use events::{EVENT_LOG_LIMIT, Observer};
pub use launch::{BundleImage, LaunchOptions, Progress, launch};
pub use owner::{LABEL_MADE, LABEL_OWNER_WHERE, Owner, OwnerState, labels, owner_labels};
pub use provide::{PROVIDED_LIMIT, Provided};
pub use secrets::Secrets;
pub use state::{create_private, state_path};
pub use sweep::{SweepReport, SweepScope, sweep};
pub use teardown::{Noted, STEP_LIMIT, Step, StepKind, TeardownReport};
pub use workspace::WorkspaceSource;
