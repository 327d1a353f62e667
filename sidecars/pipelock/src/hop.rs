//! The hop to egress: HTTP/1.1 over the bundle's loopback, connections kept and shared within the bottle.
//!
//! Egress gets the request with an absolute target, the guest's own fields, and three of ours: the secret by which it
//! knows pipelock, the address to dial (already checked), and what the guest spoke. A guest's fields of these names are
//! dropped on the way in.

use std::fmt;
use std::io;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::NONCE_FIELD;
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::conn::Source;
use crate::framing::Body;
use crate::head::has_token;

/// By which egress knows pipelock.
pub const HOP_FIELD: &str = "x-bottle-hop";
/// The address to dial.
pub const ADDRESS_FIELD: &str = "x-bottle-address";
/// What the guest spoke: `h2` or `http/1.1`.
pub const ALPN_FIELD: &str = "x-bottle-alpn";
/// The name of a refusal, in responses.
pub const REFUSAL_FIELD: &str = "x-bottle-refusal";

/// Connections kept when idle.
const KEPT: usize = 64;

/// The connections to egress.
pub struct HopPool {
    address: SocketAddr,
    secret: String,
    connect: Duration,
    idle: Mutex<Vec<Hop>>,
}

impl fmt::Debug for HopPool {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HopPool")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl HopPool {
    /// A pool without connections.
    pub fn new(address: SocketAddr, secret: String, connect: Duration) -> Self {
        Self {
            address,
            secret,
            connect,
            idle: Mutex::default(),
        }
    }

    /// A connection: a kept one that is still open, or a new one.
    ///
    /// # Errors
    /// When egress does not accept.
    pub async fn take(&self) -> io::Result<Hop> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(hop) if hop.is_quiet() => return Ok(hop),
                Some(_) => {}
                None => return self.fresh().await,
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// When egress does not accept.
    pub async fn fresh(&self) -> io::Result<Hop> {
        let connected = timeout(self.connect, TcpStream::connect(self.address)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (read, sink) = stream.into_split();
        Ok(Hop {
            source: Source::new(read, BytesMut::new()),
            sink,
            is_used: false,
        })
    }

    /// Keeps a connection whose last response was read to its end.
    pub fn give(&self, mut hop: Hop) {
        hop.is_used = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(hop);
        }
    }

    /// Writes the head of a request.
    pub fn write_head<'a>(
        &self,
        onward: &Onward<'_>,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        out: &mut BytesMut,
    ) {
        line(
            out,
            &[
                onward.method.as_bytes(),
                b" ",
                onward.scheme.as_bytes(),
                b"://",
                onward.place.as_bytes(),
            ],
        );
        out.truncate(out.len() - 2);
        line(out, &[onward.path, b" HTTP/1.1"]);
        field(out, "host", onward.host);
        field(out, HOP_FIELD, self.secret.as_bytes());
        let mut address = [0u8; 48];
        let mut cursor = &mut address[..];
        // 45 bytes hold any address.
        let _ = write!(cursor, "{}", onward.address);
        let used = 48 - cursor.len();
        field(out, ADDRESS_FIELD, &address[..used]);
        field(out, ALPN_FIELD, if onward.is_h2 { b"h2" } else { b"http/1.1" });
        write_fields(fields, Direction::Onward, out);
        match onward.body {
            Body::Length(length) => line(out, &[b"content-length: ", length.to_string().as_bytes()]),
            Body::Chunked(_) | Body::UntilClose => field(out, "transfer-encoding", b"chunked"),
            // A length of zero says that the method may have had a body.
            Body::Empty if has_body_meaning(onward.method) => field(out, "content-length", b"0"),
            Body::Empty => {}
        }
        if onward.is_upgrade {
            line(out, &[b"connection: upgrade\r\nupgrade: websocket"]);
        }
        if onward.wants_trailers {
            field(out, "te", b"trailers");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn has_body_meaning(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

/// What goes onward, apart from its fields and body.
#[derive(Clone, Copy, Debug)]
pub struct Onward<'a> {
    /// The method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `host:port`.
    pub place: &'a str,
    /// Path and query.
    pub path: &'a [u8],
    /// The guest's own `Host`.
    pub host: &'a [u8],
    /// The checked address.
    pub address: IpAddr,
    /// How the body is framed.
    pub body: Body,
    /// Whether the guest speaks HTTP/2.
    pub is_h2: bool,
    /// Whether this asks for a WebSocket.
    pub is_upgrade: bool,
    /// Whether the guest can take trailers.
    pub wants_trailers: bool,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest.
    Onward,
    /// To the guest.
    Back,
}

/// Writes the fields that pass a proxy (RFC 9110 7.6.1): not those about one connection, not those that `Connection`
/// names, not those about framing, which are written anew, and none of ours but the nonce.
pub fn write_fields<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    direction: Direction,
    out: &mut BytesMut,
) {
    let is_connection = |name: &[u8]| name.eq_ignore_ascii_case(b"connection");
    let named = fields
        .clone()
        .filter(|(name, _)| is_connection(name))
        .map(|(_, value)| value);
    for (name, value) in fields {
        let is_named = || {
            let name = std::str::from_utf8(name).unwrap_or_default();
            named.clone().any(|list| has_token(list, name))
        };
        if !stays_here(name, direction) && !is_named() {
            line(out, &[name, b": ", value]);
        }
    }
}

fn stays_here(name: &[u8], direction: Direction) -> bool {
    const BOTH: [&[u8]; 9] = [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"transfer-encoding",
        b"content-length",
        b"upgrade",
        b"te",
    ];
    const ONWARD: [&[u8]; 4] = [b"host", b"expect", b"http2-settings", b"trailer"];
    let is_in = |list: &[&[u8]]| list.iter().any(|other| name.eq_ignore_ascii_case(other));
    let is_ours = name.len() > 9 && name[..9].eq_ignore_ascii_case(b"x-bottle-");
    if is_ours {
        return !(direction == Direction::Onward && name.eq_ignore_ascii_case(NONCE_FIELD.as_bytes()));
    }
    is_in(&BOTH) || direction == Direction::Onward && is_in(&ONWARD)
}

/// Writes one field line.
pub fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    line(out, &[name.as_bytes(), b": ", value]);
}

/// Writes one line from its parts.
pub fn line(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// A connection to egress.
#[derive(Debug)]
pub struct Hop {
    /// The reading side.
    pub source: Source<OwnedReadHalf>,
    /// The writing side.
    pub sink: OwnedWriteHalf,
    /// Whether it carried a request before: then egress may just have closed it.
    pub is_used: bool,
}

impl Hop {
    /// Whether nothing has come in since the last response: no close, no stray bytes.
    fn is_quiet(&self) -> bool {
        let mut byte = [0u8; 1];
        let waits = self.source.get_ref().try_read(&mut byte);
        self.source.buf.is_empty() && waits.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}
