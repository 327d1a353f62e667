//! The wire: everything of the bundle that touches a socket, a clock or a key, so that the daemons above it are about
//! their decisions only.
#![warn(missing_docs)]

mod authority;
mod clock;
mod listen;
mod provider;
mod record;
mod resolve;

pub use authority::{Authority, AuthorityFault};
pub use clock::timestamp;
pub use listen::{BindError, Bound, Listener, Socket, bind};
pub use provider::tls_provider;
pub use record::{Counted, MAX_LINE, Recorder, write_line};
pub use resolve::{Answer, ResolveError, Resolver};
pub mod upstream;
