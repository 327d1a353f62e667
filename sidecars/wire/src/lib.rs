//! The wire: everything of the bundle that touches a socket, a clock or a key, so that the daemons above it are about
//! their decisions only.
#![warn(missing_docs)]

mod provider;

pub use provider::tls_provider;
