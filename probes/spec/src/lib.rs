//! What the suite asks and how it decides, pure: requirements, probes, cases, evidence, verdicts.
#![warn(missing_docs)]

mod action;
mod catalogue;
mod contract;
mod conversation;
mod evidence;
mod exit_code;
mod judge;
mod leak;
mod nonce;
mod probe;
mod waiver;
mod witness;
pub mod world;

pub use action::*;
pub use catalogue::{CATALOGUE, probe};
pub use contract::{NEEDS, contract, not_applicable};
pub use conversation::*;
pub use evidence::*;
pub use exit_code::*;
pub use judge::judge;
pub use leak::*;
pub use nonce::*;
pub use probe::*;
pub use waiver::*;
pub use witness::*;
