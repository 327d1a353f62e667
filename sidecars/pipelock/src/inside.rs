//! Inside CONNECT: the guest's TLS is ended here, and every request in it is decided on.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bottle_policy::{Control, Decision, DenyReason, Stage};
use bottle_wire::tls_provider;
use bytes::BytesMut;
use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::conn::{Idle, Io, Prefixed};
use crate::exchange::{After, Request};
use crate::front::{absolute, deny, is_reflecting, refuse_fault, switched};
use crate::gate::{About, Destination, Gate};
use crate::guest::Guest;
use crate::head::{Head, is_plain_path};

/// What CONNECT opened.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Where it leads.
    pub to: Destination,
    /// The nonce of the CONNECT request.
    pub nonce: Option<String>,
    /// The name in the handshake.
    pub sni: Option<String>,
    /// Requests that count as having gone before on the guest's connection (always 0 unless K-PX-ONCE).
    pub served: u64,
}

/// First byte of a TLS handshake record (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

/// Ends the guest's TLS and serves the requests in it. Whatever is not a complete, fitting handshake ends the connection:
/// nothing is ever tunnelled.
///
/// # Errors
/// The connection's.
pub async fn intercept<S: Io>(io: Prefixed<S>, gate: Arc<Gate>, mut tunnel: Tunnel) -> io::Result<()> {
    match timeout(gate.head(), handshake(io, &gate, &mut tunnel)).await {
        Ok(Ok(Some(tls))) => {
            let tunnel = Arc::new(tunnel);
            if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                crate::h2::serve(Idle::new(tls, gate.idle()), gate, tunnel).await
            } else {
                serve(tls, gate, tunnel).await
            }
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err((reason, error))) => {
            gate.cut_off(Stage::Tls, reason, about(&tunnel)).await;
            Err(error)
        }
        Err(_) => {
            gate.cut_off(Stage::Tls, DenyReason::TlsHandshake, about(&tunnel)).await;
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

fn about(tunnel: &Tunnel) -> About {
    About::allowed("CONNECT", &tunnel.to.allowed, tunnel.nonce.clone())
}

type Refused = (DenyReason, io::Error);

async fn handshake<S: Io>(
    mut io: Prefixed<S>,
    gate: &Gate,
    tunnel: &mut Tunnel,
) -> Result<Option<TlsStream<Prefixed<Prefixed<S>>>>, Refused> {
    let failed = |error| (DenyReason::TlsHandshake, error);
    let mut first = BytesMut::with_capacity(1);
    if io.read_buf(&mut first).await.map_err(failed)? == 0 {
        // Opened and closed again without a word: nothing was tried.
        return Ok(None);
    }
    if first[0] != HANDSHAKE {
        return Err((DenyReason::NotTls, io::ErrorKind::InvalidData.into()));
    }
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Prefixed::new(first, io));
    let start = acceptor.await.map_err(failed)?;
    tunnel.sni = start.client_hello().server_name().map(str::to_owned);
    #[cfg(feature = "leaky")]
    crate::leaky::resolve_first(gate, tunnel.sni.as_deref().unwrap_or_default().as_bytes()).await;
    if let Err(reason) = gate.rules(tunnel.served).tls(&tunnel.to.allowed, tunnel.sni.as_deref()) {
        // Sends the alert `access_denied`, so that the client's message says more than "connection closed".
        let _ = start.into_stream(refusing()).await;
        return Err((reason, io::ErrorKind::PermissionDenied.into()));
    }
    let host = leaf_host(gate, tunnel);
    let config = gate
        .authority
        .server_config(&host)
        .map_err(|error| failed(io::Error::other(error)))?;
    start.into_stream(config).await.map(Some).map_err(failed)
}

/// Whose leaf is shown: the CONNECT authority's, which is the SNI's unless a control is gone.
fn leaf_host(gate: &Gate, tunnel: &Tunnel) -> bottle_policy::Host {
    let is_lax = [
        Control::Binding,
        Control::StrictName,
        Control::StrictAddress,
        Control::EveryRequest,
    ]
    .into_iter()
    .any(|control| !gate.has(control));
    let sni = tunnel.sni.as_deref().filter(|_| is_lax);
    let named = sni.and_then(|name| bottle_policy::Host::from_wire(name.as_bytes()).ok());
    named.unwrap_or_else(|| tunnel.to.allowed.host.clone())
}

/// A configuration that refuses every handshake.
fn refusing() -> Arc<ServerConfig> {
    #[derive(Debug)]
    struct NoLeaf;
    impl rustls::server::ResolvesServerCert for NoLeaf {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
    }
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = || {
        let builder = ServerConfig::builder_with_provider(tls_provider());
        // The provider has the default versions, or no handshake at all would work.
        let builder = builder
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3");
        Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(NoLeaf)))
    };
    CONFIG.get_or_init(config).clone()
}

/// HTTP/1 inside the guest's TLS.
async fn serve<S: Io>(tls: TlsStream<S>, gate: Arc<Gate>, tunnel: Arc<Tunnel>) -> io::Result<()> {
    let mut guest = Guest::new(tls, BytesMut::new());
    let mut to = tunnel.to.clone();
    loop {
        let head = match guest.head(&gate).await {
            Ok(head) => head,
            Err(fault) => return refuse_fault(&gate, &mut guest, Stage::Head, with_nonce(fault, &tunnel)).await,
        };
        #[cfg(feature = "leaky")]
        if head.method() == "CONNECT" && !gate.has(Control::EveryRequest) {
            return crate::leaky::nested_connect(gate, guest, head).await;
        }
        match request(&gate, &mut guest, &head, &tunnel, &mut to).await? {
            After::Next => guest.served += 1,
            After::Close => return Ok(()),
            After::Switched(hop) => return switched(&gate, guest, hop).await,
        }
    }
}

fn with_nonce(fault: crate::guest::Fault, tunnel: &Tunnel) -> crate::guest::Fault {
    match fault {
        crate::guest::Fault::Refused(reason, None) => crate::guest::Fault::Refused(reason, tunnel.nonce.clone()),
        fault => fault,
    }
}

/// One request inside the tunnel; `to` is its destination, looked up again when it has grown old.
async fn request<S: Io>(
    gate: &Gate,
    guest: &mut Guest<S>,
    head: &Head,
    tunnel: &Tunnel,
    to: &mut Destination,
) -> io::Result<After> {
    let nonce = head.nonce().or_else(|| tunnel.nonce.clone());
    let lenient = !gate.has(Control::Binding);
    let (body, host) = match head.body().and_then(|body| Ok((body, head.host(lenient)?))) {
        Ok(pair) => pair,
        Err(reason) => {
            let about = About::allowed(head.method(), &tunnel.to.allowed, nonce);
            deny(gate, guest, head, Stage::Head, reason, about).await?;
            return Ok(After::Close);
        }
    };
    let decided = decide(gate, guest.served + tunnel.served, head, host, tunnel);
    let (allowed, path) = match decided {
        Ok(pair) => pair,
        Err(reason) => {
            let about = About::authority(head.method(), host.unwrap_or_default(), Some(443), nonce);
            return deny(gate, guest, head, Stage::Request, reason, about).await;
        }
    };
    let is_stale = allowed != to.allowed || to.until <= Instant::now();
    if is_stale {
        match gate.destination(allowed).await {
            Ok(fresh) => *to = fresh,
            Err(reason) => {
                let about = About::allowed(head.method(), &tunnel.to.allowed, nonce);
                return deny(gate, guest, head, Stage::Resolve, reason, about).await;
            }
        }
    }
    let host = host
        .filter(|_| gate.has(Control::StrictName))
        .unwrap_or(to.place.as_bytes());
    let request = Request {
        head,
        body,
        to,
        scheme: "https",
        path: &path,
        host,
        nonce: nonce.as_deref(),
    };
    #[cfg(feature = "leaky")]
    if !gate.has(Control::NoFollow) {
        return crate::leaky::follow(gate, guest, request).await;
    }
    request.carry(gate, guest).await
}

type Way<'a> = (bottle_policy::Allowed, std::borrow::Cow<'a, [u8]>);

fn decide<'a>(
    gate: &Gate,
    number: u64,
    head: &'a Head,
    host: Option<&[u8]>,
    tunnel: &Tunnel,
) -> Result<Way<'a>, DenyReason> {
    if head.method() == "CONNECT" || is_reflecting(head.method()) {
        return Err(DenyReason::Method);
    }
    let (target, path): (Option<&[u8]>, _) = match head.target() {
        path @ [b'/', ..] => (None, path.into()),
        b"*" if head.method() == "OPTIONS" => (None, (&b"*"[..]).into()),
        target => {
            let (scheme, authority, path) = absolute(target).ok_or(DenyReason::Target)?;
            if !scheme.eq_ignore_ascii_case(b"https") {
                return Err(DenyReason::Scheme);
            }
            (Some(authority), path)
        }
    };
    if host.is_none() && head.minor == 1 {
        return Err(DenyReason::HostMissing);
    }
    if !is_plain_path(&path) {
        return Err(DenyReason::Framing);
    }
    let named = [host, target];
    let named: [&[u8]; 2] = match named {
        [Some(host), target] => [host, target.unwrap_or(host)],
        [None, Some(target)] => [target, target],
        [None, None] => return Err(DenyReason::HostMissing),
    };
    match gate
        .rules(number)
        .inner(&tunnel.to.allowed, tunnel.sni.as_deref(), &named)
    {
        Decision::Allow(allowed) => Ok((allowed, path)),
        Decision::Deny(reason) => Err(reason),
    }
}
