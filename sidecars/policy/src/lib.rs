//! The bundle's policy, pure: what a guest may reach and in which words it is refused.
//!
//! Texts from a guest become [`Host`]s by one normalisation ([`mod@name`]), every spelling of an address is recognised
//! before that ([`address`]), and [`Rules`] decides on the result. Nothing here does I/O, reads a clock or is async.
#![warn(missing_docs)]

pub mod address;
pub mod authority;
pub mod chain;
pub mod config;
mod control;
mod decide;
#[cfg(feature = "leaky")]
mod lax;
pub mod name;
mod reason;
pub mod relay;

pub use address::AddressClass;
pub use config::*;
pub use control::{Control, Controls};
pub use decide::{Allowed, Decision, Dial, RuleError, Rules};
pub use name::{Host, HostError, Name};
pub use reason::{DenyReason, sentence};
