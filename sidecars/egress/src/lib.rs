//! Egress: the last hop of a bottle's requests, the only one that knows tokens.
//!
//! The one decision behind this crate: scanning and knowing are apart. Pipelock reads everything that the agent sends and
//! knows no token; egress adds the token after all scanning is done, over TLS that it verified itself, to exactly the
//! address that pipelock checked, and reads nothing that it does not have to. It takes requests from pipelock only.
//!
//! # The hop
//! HTTP/1.1 in absolute form (`GET https://host:port/path`) with the fields in [`hop`]. Everything else is refused and
//! nothing is dialled. Fields of the hop end here; [`NONCE_FIELD`](bottle_policy::NONCE_FIELD) goes on to the upstream.
#![warn(missing_docs)]

mod body;
mod exchange;
pub mod hop;
mod inject;
mod pool;
mod refusal;
mod strip;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{BundleConfig, Controls, EGRESS_PORT, Tokens, WireLimits};
use bottle_wire::Recorder;
use bottle_wire::upstream::{Connector, IdleIo, RootsError};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::SecretString;
use tokio::sync::Semaphore;

pub use inject::RouteError;

/// Everything egress works with.
pub struct Egress {
    connector: Connector,
    pool: pool::Pool,
    injector: inject::Injector,
    hop_secret: SecretString,
    limits: WireLimits,
    recorder: Recorder,
}

/// Why egress cannot start. No message holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The authorities trusted for upstreams.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The secret shared with pipelock is too short to be one.
    #[error("the secret of the hop is to have 32 bytes or more, found {0}")]
    HopSecret(usize),
}

/// Listens on the bundle's own loopback, [`EGRESS_PORT`], and nowhere else.
///
/// # Errors
/// When the port is taken.
pub fn bind() -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, EGRESS_PORT)))
}

impl Egress {
    /// Prepares egress from the bundle's configuration.
    ///
    /// # Errors
    /// See [`EgressError`].
    pub fn new(
        config: &BundleConfig,
        tokens: Tokens,
        hop_secret: SecretString,
        recorder: Recorder,
    ) -> Result<Self, EgressError> {
        use secrecy::ExposeSecret;
        #[cfg(feature = "leaky")]
        let controls = Controls::without(config.removed.clone());
        #[cfg(not(feature = "leaky"))]
        let controls = Controls::all();
        let length = hop_secret.expose_secret().len();
        if length < 32 {
            return Err(EgressError::HopSecret(length));
        }
        Ok(Self {
            connector: Connector::new(&config.upstream_roots, config.public_roots, &config.limits, &controls)?,
            pool: pool::Pool::default(),
            injector: inject::Injector::new(&config.routes, tokens, controls)?,
            hop_secret,
            limits: config.limits.clone(),
            recorder,
        })
    }
}

/// Serves until the listener fails.
///
/// # Errors
/// When the listener cannot be used; a failed accept is waited out.
pub async fn serve(listener: TcpListener, egress: Arc<Egress>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(egress.limits.connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: a moment later some are free.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let egress = Arc::clone(&egress);
        tokio::spawn(async move {
            serve_connection(stream, egress).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, egress: Arc<Egress>) {
    let limits = &egress.limits;
    // Longer than the upstream's own, so that a silent upstream is named and not just cut off.
    let io = IdleIo::new(stream, Duration::from_millis(limits.idle_ms * 2 + limits.connect_ms));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The idle time of the connection covers waiting for a head; there is one peer and it is ours.
        .header_read_timeout(None)
        // Room for the fields of the hop.
        .max_headers(limits.head_fields + 16)
        .max_buf_size((limits.head_bytes + 4096).max(8192))
        .preserve_header_case(true)
        .auto_date_header(false);
    let service = service_fn(|request| {
        let egress = Arc::clone(&egress);
        async move { Ok::<_, Infallible>(exchange::answer(&egress, request).await) }
    });
    // An error here is the connection's end; whoever waits for an answer on the other side sees just that.
    if let Err(error) = builder
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await
    {
        tracing::debug!(%error, "a connection of pipelock ended");
    }
}
