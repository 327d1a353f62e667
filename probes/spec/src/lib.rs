//! What the suite asks and how it decides, pure: requirements, probes, cases, evidence, verdicts.
#![warn(missing_docs)]

mod action;
mod evidence;
mod nonce;
mod probe;
mod witness;
pub mod world;

pub use action::*;
pub use evidence::*;
pub use nonce::*;
pub use probe::*;
pub use witness::*;
