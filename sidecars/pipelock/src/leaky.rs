//! What known-leaky bottles do on top: the other half of [`Control`](bottle_policy::Control), compiled only into the
//! bundle of the suite's self-test.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bottle_policy::authority::{host_authority, split};
use bottle_policy::{Allowed, BundleConfig, Control, Controls, DecisionVerdict, Dial, Host, Listen, Stage};
use bottle_wire::{BindError, Bound, Listener, Socket};
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::{self, Answer};
use crate::conn::{Io, Prefixed, pump, tunnel, write_all};
use crate::exchange::{After, Request};
use crate::front::{self, absolute};
use crate::gate::{Destination, Gate};
use crate::guest::Guest;
use crate::head::{Head, clean_nonce};
use crate::hop::{self, Onward};

/// Port of the admin listener (K-SIDEADM).
pub const ADMIN_PORT: u16 = 9901;
/// Port of the open forward proxy (K-RELAY).
pub const RELAY_PORT: u16 = 9418;
/// Name of its UNIX socket, beside the proxy's.
pub const RELAY_SOCKET: &str = "git.sock";
/// Port of the proxy that serves any bottle (K-SCOPEIP).
pub const SHARED_PORT: u16 = 8889;
/// Port of the DNS forwarder (K-DNSFWD).
const DNS_PORT: u16 = 53;
/// Redirects followed (K-PX-FOLLOW).
const REDIRECTS: usize = 5;

/// The listeners that a bottle should not have.
#[derive(Debug)]
pub struct Leaks {
    admin: Vec<Bound>,
    relay: Vec<Bound>,
    shared: Vec<Bound>,
    dns: Option<(Bound, std::net::UdpSocket)>,
}

impl Leaks {
    /// Binds what the removed controls ask for.
    pub fn bind(config: &BundleConfig) -> Result<Self, BindError> {
        let controls = Controls::without(config.removed.clone());
        let any = |port| Listen::Tcp((Ipv4Addr::UNSPECIFIED, port).into());
        let bind_all = |control, places: Vec<Listen>| -> Result<Vec<Bound>, BindError> {
            if controls.has(control) {
                Ok(Vec::new())
            } else {
                places.iter().map(bottle_wire::bind).collect()
            }
        };
        let beside = config.listen.iter().filter_map(|listen| match listen {
            Listen::Unix(path) => Some(Listen::Unix(
                Path::new(path).with_file_name(RELAY_SOCKET).to_str()?.to_owned(),
            )),
            Listen::Tcp(_) => None,
        });
        let dns = if controls.has(Control::NoDns) {
            None
        } else {
            let udp = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DNS_PORT)).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            // The TCP port's error is the one with a name for the place; UDP fails for the same reasons.
            let tcp = bottle_wire::bind(&any(DNS_PORT))?;
            udp.ok().map(|udp| (tcp, udp))
        };
        Ok(Self {
            admin: bind_all(Control::NoAdmin, vec![any(ADMIN_PORT)])?,
            relay: bind_all(Control::NoRelay, beside.chain([any(RELAY_PORT)]).collect())?,
            shared: bind_all(Control::OwnBottle, vec![any(SHARED_PORT)])?,
            dns,
        })
    }

    /// Serves them.
    pub fn serve(self, gate: &Arc<Gate>, slots: &Arc<Semaphore>, tasks: &mut JoinSet<()>) -> io::Result<()> {
        for bound in self.admin {
            tasks.spawn(each(bound.serve()?, gate.clone(), |socket, gate| {
                Box::pin(admin_only(socket, gate))
            }));
        }
        for bound in self.relay {
            tasks.spawn(each(bound.serve()?, gate.clone(), |socket, gate| {
                Box::pin(relay(socket, gate))
            }));
        }
        for bound in self.shared {
            tasks.spawn(crate::accept(bound.serve()?, gate.clone(), slots.clone()));
        }
        if let Some((tcp, udp)) = self.dns {
            tasks.spawn(each(tcp.serve()?, gate.clone(), |socket, gate| {
                Box::pin(dns_tcp(socket, gate))
            }));
            tasks.spawn(dns_udp(Arc::new(UdpSocket::from_std(udp)?), gate.clone()));
        }
        Ok(())
    }
}

type Served = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

async fn each(listener: Listener, gate: Arc<Gate>, serve: fn(Socket, Arc<Gate>) -> Served) {
    loop {
        match listener.accept().await {
            Ok(socket) => {
                let gate = gate.clone();
                tokio::spawn(serve(socket, gate));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// K-PX-RESOLVE1: looks a name up before anything is decided on it.
pub async fn resolve_first(gate: &Gate, authority: &[u8]) {
    if !gate.has(Control::DecideFirst)
        && let Ok(Host::Name(name)) = Host::from_wire(split(authority).0)
    {
        let _ = gate.resolver.lookup(&name).await;
    }
}

/// K-SIDEADM on the proxy's own port: `None` where the control is in force or the path is another one.
pub async fn admin<S: Io>(gate: &Gate, guest: &mut Guest<S>, head: &Head) -> io::Result<Option<After>> {
    if gate.has(Control::NoAdmin) {
        return Ok(None);
    }
    let Some(rest) = head.target().strip_prefix(b"/__admin/") else {
        return Ok(None);
    };
    let rest = String::from_utf8_lossy(rest);
    let (page, query) = rest.split_once('?').unwrap_or((&rest, ""));
    let Some(text) = admin_page(gate, page, query) else {
        return Ok(None);
    };
    let nonce = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("nonce="))
        .and_then(|n| clean_nonce(n.as_bytes()));
    let mut record = gate.recorder.blank(Stage::Request, DecisionVerdict::Allow, "admin");
    record.method = Some(head.method().to_owned());
    record.host = Some(format!("/__admin/{}", crate::gate::printable(page.as_bytes())));
    record.nonce = head.nonce().or(nonce);
    gate.recorder.decision(record).await;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    guest.send(gate, answer.as_bytes()).await?;
    Ok(Some(After::Next))
}

fn admin_page(gate: &Gate, page: &str, query: &str) -> Option<String> {
    Some(match page {
        "ping" => format!("pong {query}\n"),
        "status" => format!("serving; name servers {:?}\n", gate.resolver.servers()),
        "metrics" => format!("pipelock_connections_limit {}\n", gate.limits.connections),
        "ca" => gate.authority.certificate_pem().to_owned(),
        "config" => format!("{:?}\n", gate.limits),
        "reload" => "the configuration is as it was\n".to_owned(),
        "open" => format!("would open {query}\n"),
        _ => return None,
    })
}

/// The admin port: nothing but the control routes.
async fn admin_only(socket: Socket, gate: Arc<Gate>) -> io::Result<()> {
    let mut guest = Guest::new(socket, BytesMut::new());
    while let Ok(head) = guest.head(&gate).await {
        if admin(&gate, &mut guest, &head).await?.is_none() {
            guest
                .send(&gate, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
        guest.served += 1;
    }
    Ok(())
}

/// K-PX-ONCE: CONNECT inside CONNECT, decided on as a later request of the same connection: not at all.
pub fn nested_connect<S: Io>(gate: Arc<Gate>, guest: Guest<S>, head: Head) -> Served {
    let prefix = BytesMut::from(head.bytes());
    let io: Box<dyn Io> = Box::new(Prefixed::new(prefix, guest.into_io()));
    Box::pin(front::serve(io, gate, 1))
}

/// K-RELAY: an open forward proxy, directly dialled.
async fn relay(socket: Socket, gate: Arc<Gate>) -> io::Result<()> {
    let mut guest = Guest::new(socket, BytesMut::new());
    let Ok(head) = guest.head(&gate).await else {
        return Ok(());
    };
    let is_connect = head.method() == "CONNECT";
    let target = if is_connect { None } else { absolute(head.target()) };
    let authority = target.as_ref().map_or(head.target(), |(_, authority, _)| authority);
    let upstream = match dial(&gate, authority).await {
        Ok(upstream) => upstream,
        Err(_) => {
            return guest
                .send(&gate, b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    };
    let mut record = gate.recorder.blank(Stage::Request, DecisionVerdict::Allow, "relay");
    record.host = Some(crate::gate::printable(authority));
    record.address = upstream.peer_addr().ok().map(|address| address.ip());
    record.nonce = head.nonce();
    gate.recorder.decision(record).await;
    let mut onward = BytesMut::new();
    if let Some((_, _, path)) = target {
        onward.extend_from_slice(head.method().as_bytes());
        onward.extend_from_slice(b" ");
        onward.extend_from_slice(&path);
        onward.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in head.fields() {
            hop::field(&mut onward, std::str::from_utf8(name).unwrap_or_default(), value);
        }
        onward.extend_from_slice(b"\r\n");
    } else {
        guest
            .send(&gate, b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    }
    let mut upstream = upstream;
    write_all(&mut upstream, &mut onward, gate.idle()).await?;
    tunnel(guest.into_io(), upstream, gate.idle()).await
}

async fn dial(gate: &Gate, authority: &[u8]) -> io::Result<TcpStream> {
    let (host, port) = host_authority(authority).map_err(io::Error::other)?;
    let address: IpAddr = match host {
        Host::Addr(address) => address,
        Host::Name(name) => gate.resolver.lookup(&name).await.map_err(io::Error::other)?.addresses[0],
    };
    let limit = Duration::from_millis(gate.limits.connect_ms);
    timeout(limit, TcpStream::connect(SocketAddr::new(address, port.unwrap_or(80))))
        .await
        .map_err(io::Error::other)?
}

/// K-PX-FOLLOW: carries a request on and follows redirects to wherever they lead, with all its fields.
pub async fn follow<S: Io>(gate: &Gate, guest: &mut Guest<S>, request: Request<'_>) -> io::Result<After> {
    if request.body != crate::framing::Body::Empty || !matches!(request.head.method(), "GET" | "HEAD") {
        return request.carry(gate, guest).await;
    }
    let method = request.head.method();
    let mut to = request.to.clone();
    let mut scheme = request.scheme.to_owned();
    let mut path = request.path.to_vec();
    let mut host = request.host.to_vec();
    for _ in 0..=REDIRECTS {
        gate.passed(Stage::Request, method, &to, request.nonce);
        let mut hop = gate.hop.fresh().await?;
        let onward = Onward {
            method,
            scheme: &scheme,
            place: &to.place,
            path: &path,
            host: &host,
            address: to.addresses[0],
            body: request.body,
            is_h2: false,
            is_upgrade: false,
            wants_trailers: false,
        };
        let mut out = BytesMut::new();
        gate.hop.write_head(&onward, request.head.fields(), &mut out);
        write_all(&mut hop.sink, &mut out, gate.idle()).await?;
        let answer = Answer::read(&mut hop.source, gate.idle()).await?;
        if let Some((next, next_scheme, authority, next_path)) = redirect(gate, &answer).await {
            (to, scheme, host, path) = (next, next_scheme, authority, next_path);
            continue;
        }
        let mut body = answer.body(method == "HEAD")?;
        let written = answer.write_head(
            body,
            answer::Guest {
                is_minor_1: true,
                keeps_alive: false,
            },
            &mut out,
        );
        let passed = pump(
            &mut hop.source,
            &mut body,
            &mut guest.sink,
            written,
            &mut out,
            gate.idle(),
        )
        .await;
        passed.map_err(io::Error::other)?;
        return Ok(After::Close);
    }
    Ok(After::Close)
}

type Redirect = (Destination, String, Vec<u8>, Vec<u8>);

/// Where an answer redirects to, resolved without any rule.
async fn redirect(gate: &Gate, answer: &Answer) -> Option<Redirect> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.values("location").next()?;
    let (scheme, authority, path) = absolute(location)?;
    let is_https = scheme.eq_ignore_ascii_case(b"https");
    let (host, port) = host_authority(authority).ok()?;
    let port = port.unwrap_or(if is_https { 443 } else { 80 });
    let allowed = Allowed {
        rule: "followed",
        host,
        port,
        dial: Dial::Anything,
    };
    let to = gate.destination(allowed).await.ok()?;
    let scheme = if is_https { "https" } else { "http" };
    Some((to, scheme.to_owned(), authority.to_vec(), path.into_owned()))
}

/// K-DNSFWD over UDP: every question goes to the first name server.
async fn dns_udp(socket: Arc<UdpSocket>, gate: Arc<Gate>) {
    let mut buffer = [0u8; 4096];
    let Some(server) = gate.resolver.servers().first().copied() else {
        return;
    };
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let (question, socket) = (buffer[..length].to_vec(), socket.clone());
        tokio::spawn(async move {
            let onward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            onward.connect(server).await?;
            onward.send(&question).await?;
            let mut answer = [0u8; 4096];
            let length = timeout(Duration::from_secs(3), onward.recv(&mut answer)).await??;
            socket.send_to(&answer[..length], from).await
        });
    }
}

/// K-DNSFWD over TCP.
async fn dns_tcp(mut socket: Socket, gate: Arc<Gate>) -> io::Result<()> {
    let Some(server) = gate.resolver.servers().first() else {
        return Ok(());
    };
    let mut first = BytesMut::with_capacity(512);
    timeout(gate.head(), socket.read_buf(&mut first)).await??;
    let upstream = TcpStream::connect(server).await?;
    tunnel(Prefixed::new(first, socket), upstream, gate.idle()).await
}
