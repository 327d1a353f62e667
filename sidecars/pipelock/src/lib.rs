//! Pipelock: the filtering, intercepting proxy that is a guest's only way out.
//!
//! It speaks HTTP/1 by its own strict reader rather than through a server framework: a proxy must refuse whatever two
//! readers could read in two ways, and frameworks are made to be lenient. HTTP/2, whose framing is not ambiguous, is
//! hyper's. Every request is decided on its own, and goes on to egress over the bundle's loopback; pipelock never dials
//! anything else (but name servers), never sees a token, and never tunnels what it has not read.
#![warn(missing_docs)]

mod answer;
mod conn;
mod exchange;
mod framing;
mod front;
mod gate;
mod guest;
mod h2;
mod head;
mod hop;
mod inside;
#[cfg(feature = "leaky")]
mod leaky;
mod reply;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{BundleConfig, Controls, EGRESS_PORT, RuleError, Rules};
use bottle_wire::{Authority, BindError, Listener, Recorder, Resolver};
use tokio::sync::Semaphore;

use gate::Gate;
use hop::HopPool;

/// Listeners bound for the guest, and by known-leaky bottles for others.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<bottle_wire::Bound>,
    #[cfg(feature = "leaky")]
    leaks: leaky::Leaks,
}

impl Bound {
    /// The TCP addresses that are listened on.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(bottle_wire::Bound::tcp_address)
            .collect()
    }
}

/// Binds the configured listeners. No runtime is needed, so that a process may do it before it gives up its privileges.
///
/// # Errors
/// Names the first place that cannot be had.
pub fn bind(config: &BundleConfig) -> Result<Bound, BindError> {
    let listeners = config.listen.iter().map(bottle_wire::bind).collect::<Result<_, _>>()?;
    Ok(Bound {
        listeners,
        #[cfg(feature = "leaky")]
        leaks: leaky::Leaks::bind(config)?,
    })
}

/// By which egress knows pipelock. Not printed.
#[derive(Clone)]
pub struct HopSecret(String);

impl HopSecret {
    /// Takes a secret: printable ASCII without space, as it travels in a header field.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for HopSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HopSecret(..)")
    }
}

/// What pipelock serves with.
#[derive(Debug)]
pub struct PipelockSetup {
    /// The bundle's configuration.
    pub config: BundleConfig,
    /// By which egress knows pipelock.
    pub hop_secret: HopSecret,
    /// Where egress listens; see [`PipelockSetup::egress`] for the usual place.
    pub egress: SocketAddr,
    /// The controls in force.
    pub controls: Controls,
    /// Where decisions go.
    pub events: Recorder,
    /// The bottle's certificate authority.
    pub authority: Arc<Authority>,
}

impl PipelockSetup {
    /// Where egress listens in a bundle.
    pub fn egress() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, EGRESS_PORT).into()
    }
}

/// Pipelock cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The policy is not usable.
    #[error("the policy cannot be used: {0}")]
    Policy(#[from] RuleError),
    /// The name servers are not known.
    #[error("cannot read the name servers from /etc/resolv.conf: {0}")]
    Resolver(#[source] io::Error),
    /// A listener cannot be watched.
    #[error("cannot serve a listener: {0}")]
    Listener(#[source] io::Error),
}

/// Serves until the future is dropped; it returns only what keeps it from serving at all.
///
/// # Errors
/// When the policy, the resolver's configuration or a listener cannot be used.
pub async fn serve(bound: Bound, setup: PipelockSetup) -> Result<(), ServeError> {
    let limits = setup.config.limits.clone();
    let connect = Duration::from_millis(limits.connect_ms);
    let rules = Rules::new(&setup.config.policy, &setup.config.routes, setup.controls)?;
    let gate = Arc::new(Gate {
        rules,
        #[cfg(feature = "leaky")]
        open: Rules::open(),
        resolver: Resolver::new(&setup.config.resolver, connect).map_err(ServeError::Resolver)?,
        recorder: setup.events.clone(),
        hop: HopPool::new(setup.egress, setup.hop_secret.0, connect),
        authority: setup.authority,
        limits,
    });
    let slots = Arc::new(Semaphore::new(gate.limits.connections));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(setup.events.run());
    for listener in bound.listeners {
        let listener = listener.serve().map_err(ServeError::Listener)?;
        tasks.spawn(accept(listener, gate.clone(), slots.clone()));
    }
    #[cfg(feature = "leaky")]
    bound
        .leaks
        .serve(&gate, &slots, &mut tasks)
        .map_err(ServeError::Listener)?;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Accepts for ever. Connections over the limit wait in the system's queue.
async fn accept(listener: Listener, gate: Arc<Gate>, slots: Arc<Semaphore>) {
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok(socket) => {
                let gate = gate.clone();
                tokio::spawn(async move {
                    if let Err(error) = front::serve(socket, gate, 0).await {
                        tracing::debug!(%error, "connection");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was taken.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
