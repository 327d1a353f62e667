//! From a manifest to a plan, pure.
#![warn(missing_docs)]

mod plan;

pub use plan::*;
