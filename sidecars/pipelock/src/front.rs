//! What a guest says to the proxy itself: CONNECT, and requests with an absolute target.

use std::io;
use std::sync::Arc;

use bottle_policy::{Control, Decision, DenyReason, Stage};
use bytes::BytesMut;

use crate::conn::{Io, tunnel};
use crate::exchange::{After, Request};
use crate::framing::Body;
use crate::gate::{About, Gate};
use crate::guest::{Fault, Guest};
use crate::head::{Head, is_plain_path};
use crate::inside::{self, Tunnel};

/// Serves one connection until it ends. `served` is the number of requests that went before (in known-leaky bottles a
/// connection can be inside another one).
///
/// # Errors
/// The connection's; nobody needs to do anything about it.
pub async fn serve<S: Io>(io: S, gate: Arc<Gate>, served: u64) -> io::Result<()> {
    let mut guest = Guest::new(io, BytesMut::new());
    guest.served = served;
    loop {
        let head = match guest.head(&gate).await {
            Ok(head) => head,
            Err(fault) => return refuse_fault(&gate, &mut guest, Stage::Head, fault).await,
        };
        if head.method() == "CONNECT" {
            return connect(gate, guest, &head).await;
        }
        match plain(&gate, &mut guest, &head).await? {
            After::Next => guest.served += 1,
            After::Close => return Ok(()),
            After::Switched(hop) => return switched(&gate, guest, hop).await,
        }
    }
}

/// Records and answers what is no head; the connection ends with it.
///
/// # Errors
/// The connection's.
pub async fn refuse_fault<S: Io>(gate: &Gate, guest: &mut Guest<S>, stage: Stage, fault: Fault) -> io::Result<()> {
    let Fault::Refused(reason, nonce) = fault else {
        return Ok(());
    };
    let about = About {
        nonce,
        ..About::default()
    };
    let refusal = gate.refuse(stage, reason, about).await;
    guest.refuse(gate, &refusal, false, false).await
}

/// Carries a WebSocket.
///
/// # Errors
/// Either side's.
pub async fn switched<S: Io>(gate: &Gate, guest: Guest<S>, hop: crate::hop::Hop) -> io::Result<()> {
    let (read, buf) = hop.source.into_parts();
    let upstream = read.reunite(hop.sink).map_err(io::Error::other)?;
    tunnel(guest.into_io(), crate::conn::Prefixed::new(buf, upstream), gate.idle()).await
}

/// Refuses a request whose body was not read: without one the connection may stay.
///
/// # Errors
/// The connection's.
pub async fn deny<S: Io>(
    gate: &Gate,
    guest: &mut Guest<S>,
    head: &Head,
    stage: Stage,
    reason: DenyReason,
    about: About,
) -> io::Result<After> {
    let refusal = gate.refuse(stage, reason, about).await;
    let keeps = head.keeps_alive() && head.method() != "CONNECT" && head.body() == Ok(Body::Empty);
    guest.refuse(gate, &refusal, head.method() == "HEAD", keeps).await?;
    Ok(if keeps { After::Next } else { After::Close })
}

async fn connect<S: Io>(gate: Arc<Gate>, mut guest: Guest<S>, head: &Head) -> io::Result<()> {
    let nonce = head.nonce();
    let about = |nonce| About::authority("CONNECT", head.target(), None, nonce);
    let decided = match head.body().and_then(|body| Ok((body, head.host(false)?))) {
        Ok((Body::Empty, host)) => {
            #[cfg(feature = "leaky")]
            crate::leaky::resolve_first(&gate, head.target()).await;
            gate.rules(guest.served).connect(head.target(), host)
        }
        Ok(_) => Decision::Deny(DenyReason::Framing),
        Err(reason) => Decision::Deny(reason),
    };
    let allowed = match decided {
        Decision::Allow(allowed) => allowed,
        Decision::Deny(reason) => {
            deny(&gate, &mut guest, head, Stage::Connect, reason, about(nonce)).await?;
            return Ok(());
        }
    };
    let to = match gate.destination(allowed).await {
        Ok(to) => to,
        Err(reason) => {
            deny(&gate, &mut guest, head, Stage::Resolve, reason, about(nonce)).await?;
            return Ok(());
        }
    };
    gate.passed(Stage::Connect, "CONNECT", &to, nonce.as_deref());
    guest
        .send(&gate, b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    let served = if gate.has(Control::EveryRequest) {
        0
    } else {
        guest.served + 1
    };
    inside::intercept(
        guest.into_io(),
        gate,
        Tunnel {
            to,
            nonce,
            sni: None,
            served,
        },
    )
    .await
}

/// A request that is not CONNECT.
async fn plain<S: Io>(gate: &Gate, guest: &mut Guest<S>, head: &Head) -> io::Result<After> {
    let nonce = head.nonce();
    let lenient = !gate.has(Control::Binding);
    let (body, host) = match head.body().and_then(|body| Ok((body, head.host(lenient)?))) {
        Ok(pair) => pair,
        Err(reason) => {
            let about = About {
                method: Some(head.method().to_owned()),
                nonce,
                ..About::default()
            };
            deny(gate, guest, head, Stage::Head, reason, about).await?;
            return Ok(After::Close);
        }
    };
    let Some((scheme, authority, path)) = absolute(head.target()) else {
        #[cfg(feature = "leaky")]
        if let Some(after) = crate::leaky::admin(gate, guest, head).await? {
            return Ok(after);
        }
        let about = About::authority(head.method(), host.unwrap_or_default(), None, nonce);
        return deny(gate, guest, head, Stage::Request, DenyReason::Target, about).await;
    };
    let about = |nonce| About::authority(head.method(), authority, Some(80), nonce);
    let decided = match (host, head.minor) {
        (None, 1) => Decision::Deny(DenyReason::HostMissing),
        _ if is_reflecting(head.method()) => Decision::Deny(DenyReason::Method),
        _ if !is_plain_path(&path) => Decision::Deny(DenyReason::Framing),
        _ => {
            #[cfg(feature = "leaky")]
            crate::leaky::resolve_first(gate, authority).await;
            gate.rules(guest.served).absolute(scheme, authority, host)
        }
    };
    let allowed = match decided {
        Decision::Allow(allowed) => allowed,
        Decision::Deny(reason) => return deny(gate, guest, head, Stage::Request, reason, about(nonce)).await,
    };
    let to = match gate.destination(allowed).await {
        Ok(to) => to,
        Err(reason) => return deny(gate, guest, head, Stage::Resolve, reason, about(nonce)).await,
    };
    let scheme = if scheme.eq_ignore_ascii_case(b"https") {
        "https"
    } else {
        "http"
    };
    let host = host
        .filter(|_| gate.has(Control::StrictName))
        .unwrap_or(to.place.as_bytes());
    let request = Request {
        head,
        body,
        to: &to,
        scheme,
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

/// Methods that send the request back: the token that egress adds would be in the answer.
pub fn is_reflecting(method: &str) -> bool {
    method.eq_ignore_ascii_case("TRACE") || method.eq_ignore_ascii_case("TRACK")
}

/// An absolute target's scheme, authority, and path with query.
type Absolute<'a> = (&'a [u8], &'a [u8], std::borrow::Cow<'a, [u8]>);

/// Splits an absolute target; the path is at least `/`.
pub fn absolute(target: &[u8]) -> Option<Absolute<'_>> {
    let at = target.windows(3).position(|w| w == b"://")?;
    let scheme = &target[..at];
    if scheme.is_empty() || !scheme.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
        return None;
    }
    let rest = &target[at + 3..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = match path.first() {
        Some(b'/') => path.into(),
        Some(_) => [b"/", path].concat().into(),
        None => (&b"/"[..]).into(),
    };
    Some((scheme, authority, path))
}
