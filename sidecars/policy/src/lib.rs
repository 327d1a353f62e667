//! The bundle's policy, pure: what a guest may reach and in which words it is refused.
#![warn(missing_docs)]

pub mod config;
mod control;

pub use config::*;
pub use control::{Control, Controls};
