//! Pipelock over loopback, between a guest made of bytes and stand-ins for egress and the name server.

mod front;
mod inside;
#[cfg(feature = "leaky")]
mod leaks;
mod stage;
