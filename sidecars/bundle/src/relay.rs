//! The port that is published for the launcher: whoever knows the bottle's secret is led to a socket of the bundle.
//!
//! Any process of the engine's host may find the port. Until its preface is there and right, a connection is given nothing:
//! no service, no byte back, and a place among few for a limited time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::relay::{PREFACE, RELAY_SECRET, RelayRefusal, asked};
use bottle_policy::{DecisionVerdict, Relay as RelayPlan, Stage, WireLimits};
use bottle_wire::Recorder;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Connections at a time whose preface is not there yet. More wait in the system's queue.
const WAITING: usize = 32;

/// What prefaces are judged by, and what they lead to.
pub struct Relay {
    secret: Zeroizing<[u8; RELAY_SECRET]>,
    directory: PathBuf,
    services: Vec<String>,
    within: Duration,
    waiting: Arc<Semaphore>,
    led: Arc<Semaphore>,
    recorder: Recorder,
}

/// The relay's secret is not what it should be. It is not shown.
#[derive(Debug, thiserror::Error)]
#[error("expected a relay secret of {RELAY_SECRET} bytes in hexadecimal digits, found something else")]
pub struct SecretError;

impl Relay {
    /// Prepares a relay; the secret is in hexadecimal digits.
    pub fn new(plan: &RelayPlan, secret: &str, limits: &WireLimits, recorder: Recorder) -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; RELAY_SECRET]);
        hex::decode_to_slice(secret, &mut *bytes).map_err(|_| SecretError)?;
        Ok(Self {
            secret: bytes,
            directory: plan.directory.clone().into(),
            services: plan.services.clone(),
            within: Duration::from_millis(limits.head_ms),
            waiting: Arc::new(Semaphore::new(WAITING)),
            led: Arc::new(Semaphore::new(limits.connections)),
            recorder,
        })
    }

    /// The socket that a connection is to be led to, when its preface is there.
    async fn asked(&self, from: &mut (impl AsyncRead + Unpin)) -> Result<PathBuf, RelayRefusal> {
        let mut preface = Zeroizing::new([0; PREFACE]);
        let read = tokio::time::timeout(self.within, from.read_exact(&mut *preface)).await;
        read.map_err(|_| RelayRefusal::Late)?
            .map_err(|_| RelayRefusal::BrokenOff)?;
        let service = asked(&preface, &self.secret)?;
        // Only names of the configuration: nothing that comes from outside makes a path.
        let service = self.services.iter().find(|known| *known == service);
        service
            .map(|service| self.directory.join(service))
            .ok_or(RelayRefusal::Service)
    }

    async fn refuse(&self, refusal: RelayRefusal) {
        let record = self.recorder.blank(Stage::Relay, DecisionVerdict::Deny, refusal.name());
        self.recorder.decision(record).await;
    }
}

/// Serves until the listener fails.
///
/// # Errors
/// When the listener cannot be used; a failed accept is waited out.
pub async fn serve(listener: std::net::TcpListener, relay: Arc<Relay>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok(place) = relay.waiting.clone().acquire_owned().await else {
            return Ok(());
        };
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: a moment later some are free.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let relay = relay.clone();
        tokio::spawn(async move {
            let socket = match relay.asked(&mut stream).await {
                Ok(socket) => socket,
                Err(refusal) => {
                    // The connection ends first: who holds up the record of it holds up no more.
                    drop(stream);
                    return relay.refuse(refusal).await;
                }
            };
            // Its place is kept until it has one among those that are led.
            let Ok(_led) = relay.led.clone().acquire_owned().await else {
                return;
            };
            drop(place);
            if let Err(refusal) = lead(stream, &socket).await {
                relay.refuse(refusal).await;
            }
        });
    }
}

/// Copies both ways until both are done; each end is told of the other's.
async fn lead(mut stream: TcpStream, socket: &Path) -> Result<(), RelayRefusal> {
    let Ok(mut service) = UnixStream::connect(socket).await else {
        return Err(RelayRefusal::Unreachable);
    };
    let _ = stream.set_nodelay(true);
    if let Err(error) = tokio::io::copy_bidirectional(&mut stream, &mut service).await {
        tracing::debug!(%error, "a relayed connection broke off");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
