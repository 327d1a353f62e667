//! From a manifest to a plan, pure.
//!
//! The one decision behind this crate: whatever can be refused is refused here, before anything exists, with the place in
//! the file. [`Manifest::parse`](parse) reads only what the user wrote, [`prepare`] resolves it against what the host is
//! like ([`HostFacts`]) and what the command line said ([`PrepareOptions`]) into a [`Plan`]: plain data that can be
//! printed, compared and saved. Nothing here does I/O, reads a clock or is async.
#![warn(missing_docs)]

mod describe;
pub mod document;
mod manifest;
mod places;
mod plan;
mod prepare;
mod scalar;

pub use document::WorkspaceMode;
pub use manifest::{Manifest, ManifestError, parse, schema};
pub use places::Place;
pub use plan::*;
pub use prepare::{
    GUEST_PROXY, HostFacts, JAVA_TRUST_FILE, MACHINE_SOCKETS, NODE_LEAD_FILE, PROXY_SOCKET, PlanError, PrepareOptions,
    RelayFacts, is_own_variable, is_path, placeholder, prepare,
};
pub use scalar::{ByteSize, Scalar};
