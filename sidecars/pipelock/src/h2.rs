//! HTTP/2 inside the guest's TLS: every stream is decided on by itself, and goes on as HTTP/1.1 over the hop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bottle_policy::{Decision, DenyReason, Rules, Stage};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

use crate::answer::Answer;
use crate::conn::{Io, write_all};
use crate::exchange::{refusal_text, unavailable};
use crate::framing::{Body, Written};
use crate::front::is_reflecting;
use crate::gate::{About, Destination, Gate, Refusal, Sent};
use crate::head::clean_nonce;
use crate::hop::{Hop, Onward, REFUSAL_FIELD};
use crate::inside::Tunnel;
use crate::reply::{Back, Reply, Upload, append_fields};

/// Streams a guest may have open at a time on one connection.
const STREAMS: u32 = 128;

/// Frames of a body that wait for the guest.
const QUEUE: usize = 4;

/// Serves one connection until it ends.
///
/// # Errors
/// The connection's.
pub async fn serve<S: Io>(io: S, gate: Arc<Gate>, tunnel: Arc<Tunnel>) -> io::Result<()> {
    let head = u32::try_from(gate.limits.head_bytes).unwrap_or(u32::MAX);
    let service = {
        let gate = gate.clone();
        let served = AtomicU64::new(tunnel.served);
        service_fn(move |request| {
            let (gate, tunnel) = (gate.clone(), tunnel.clone());
            let number = served.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, Infallible>(stream(gate, tunnel, request, number).await) }
        })
    };
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(head)
        .serve_connection(TokioIo::new(io), service)
        .await
        .map_err(io::Error::other)
}

/// One stream, the one with this number on its connection.
async fn stream(gate: Arc<Gate>, tunnel: Arc<Tunnel>, request: Request<Incoming>, number: u64) -> Response<Reply> {
    let nonce = request
        .headers()
        .get(bottle_policy::NONCE_FIELD)
        .and_then(|value| clean_nonce(value.as_bytes()));
    let nonce = nonce.or_else(|| tunnel.nonce.clone());
    let method = request.method().as_str().to_owned();
    let named = named(&request);
    let allowed = match decide(gate.rules(number), &tunnel, &request, &named) {
        Ok(allowed) => allowed,
        Err(reason) => {
            let text = named.last().map_or(&b""[..], Vec::as_slice);
            let about = About::authority(&method, text, Some(443), nonce);
            return refused(gate.refuse(Stage::Request, reason, about).await);
        }
    };
    let about = About::allowed(&method, &allowed, nonce.clone());
    let to = if allowed == tunnel.to.allowed && tunnel.to.until > Instant::now() {
        tunnel.to.clone()
    } else {
        match gate.destination(allowed).await {
            Ok(to) => to,
            Err(reason) => return refused(gate.refuse(Stage::Resolve, reason, about).await),
        }
    };
    match carry(&gate, request, &to, &named, nonce.as_deref()).await {
        Ok(response) => response,
        Err(refusal) => {
            gate.refused(
                Stage::Upstream,
                &refusal,
                About {
                    address: Some(to.addresses[0]),
                    ..about
                },
                true,
            )
            .await;
            refused(refusal)
        }
    }
}

/// Every authority that the request names: all `Host` fields, then `:authority`.
fn named(request: &Request<Incoming>) -> Vec<Vec<u8>> {
    let hosts = request
        .headers()
        .get_all(http::header::HOST)
        .iter()
        .map(|value| value.as_bytes().to_vec());
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes().to_vec());
    hosts.chain(authority).collect()
}

fn decide(
    rules: &Rules,
    tunnel: &Tunnel,
    request: &Request<Incoming>,
    named: &[Vec<u8>],
) -> Result<bottle_policy::Allowed, DenyReason> {
    let method = request.method().as_str();
    if method == "CONNECT" || is_reflecting(method) {
        return Err(DenyReason::Method);
    }
    if request.uri().scheme_str() != Some("https") {
        return Err(DenyReason::Scheme);
    }
    let named: Vec<&[u8]> = named.iter().map(Vec::as_slice).collect();
    match rules.inner(&tunnel.to.allowed, tunnel.sni.as_deref(), &named) {
        Decision::Allow(allowed) => Ok(allowed),
        Decision::Deny(reason) => Err(reason),
    }
}

/// Carries the request on; gives the answer once its head is there. Bodies are carried by tasks.
async fn carry(
    gate: &Arc<Gate>,
    request: Request<Incoming>,
    to: &Destination,
    named: &[Vec<u8>],
    nonce: Option<&str>,
) -> Result<Response<Reply>, Refusal> {
    let (parts, incoming) = request.into_parts();
    let mut sent = Sent::new(gate, parts.method.as_str(), to, nonce);
    let Ok(mut hop) = gate.hop.take().await else {
        sent.refused();
        return Err(unavailable());
    };
    let body = framing(&parts.headers, &incoming);
    let mut out = BytesMut::new();
    write_head(gate, &parts, to, named, body, &mut out);
    let is_empty = body == Body::Empty;
    let mut written = write_all(&mut hop.sink, &mut out.clone(), gate.idle()).await;
    let mut answer = None;
    if is_empty {
        let first = read_answer(&mut hop, &written, gate).await;
        if first.is_err()
            && hop.is_used
            && let Ok(fresh) = gate.hop.fresh().await
        {
            // As in `exchange`: a kept connection that egress closed just now.
            hop = fresh;
            written = write_all(&mut hop.sink, &mut out, gate.idle()).await;
            answer = Some(read_answer(&mut hop, &written, gate).await);
        } else {
            answer = Some(first);
        }
    }
    let Hop { mut source, sink, .. } = hop;
    let (sender, uploaded) = oneshot::channel();
    let (answer, upload) = match answer {
        Some(answer) => (answer, Upload::Done(sink)),
        None => {
            let uploader = gate.clone();
            tokio::spawn(async move {
                let _ = sender.send(upload(incoming, sink, body, &uploader).await);
            });
            (Answer::read(&mut source, gate.idle()).await, Upload::Running(uploaded))
        }
    };
    let answer = answer.map_err(|_| {
        sent.refused();
        unavailable()
    })?;
    let failed = |sent: &mut Sent<'_>| {
        sent.refused();
        unavailable()
    };
    let body = answer
        .body(parts.method == http::Method::HEAD)
        .map_err(|_| failed(&mut sent))?;
    if let Some(name) = answer.refusal() {
        sent.refused();
        let told = refusal_text(&mut source, body, gate.idle()).await;
        return Err(Refusal {
            status: answer.status,
            name: name.to_owned(),
            told,
        });
    }
    let Ok(status) = StatusCode::from_u16(answer.status) else {
        return Err(failed(&mut sent));
    };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(failed(&mut sent));
    }
    let (frames, receiver) = mpsc::channel(QUEUE);
    let keeps = answer.keeps_alive();
    let mut response = Response::new(match body {
        Body::Empty => Reply::Nothing,
        _ => Reply::Frames(
            receiver,
            if let Body::Length(length) = body {
                Some(length)
            } else {
                None
            },
        ),
    });
    *response.status_mut() = status;
    copy_fields(&answer, response.headers_mut(), body);
    let back = Back {
        gate: gate.clone(),
        source,
        body,
        frames,
        upload,
        keeps,
    };
    if back.body == Body::Empty && matches!(back.upload, Upload::Done(_)) {
        back.finish().await;
    } else {
        tokio::spawn(back.run());
    }
    Ok(response)
}

async fn read_answer(hop: &mut Hop, written: &io::Result<()>, gate: &Gate) -> io::Result<Answer> {
    if written.is_err() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Answer::read(&mut hop.source, gate.idle()).await
}

fn framing(headers: &HeaderMap, incoming: &Incoming) -> Body {
    use http_body::Body as _;
    if incoming.is_end_stream() {
        return Body::Empty;
    }
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| crate::head::plain_length(value.as_bytes()));
    length.map_or_else(Body::chunked, Body::length)
}

fn write_head(
    gate: &Gate,
    parts: &http::request::Parts,
    to: &Destination,
    named: &[Vec<u8>],
    body: Body,
    out: &mut BytesMut,
) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let wants_trailers = parts
        .headers
        .get_all(http::header::TE)
        .iter()
        .any(|v| crate::head::has_token(v.as_bytes(), "trailers"));
    let onward = Onward {
        method: parts.method.as_str(),
        scheme: "https",
        place: &to.place,
        path: path.as_bytes(),
        host: named.last().map_or(to.place.as_bytes(), Vec::as_slice),
        address: to.addresses[0],
        body,
        is_h2: true,
        is_upgrade: false,
        wants_trailers,
    };
    let is_cookie = |name: &&HeaderName| **name == http::header::COOKIE;
    // HTTP/2 may split cookies; HTTP/1.1 wants them in one field (RFC 9113 8.2.3).
    let crumbs: Vec<&[u8]> = parts
        .headers
        .get_all(http::header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let cookie = crumbs.join(&b"; "[..]);
    let plain = parts.headers.iter().filter(|(name, _)| !is_cookie(name));
    let plain = plain.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let cookie = (!cookie.is_empty()).then_some((&b"cookie"[..], &cookie[..]));
    let fields: Vec<(&[u8], &[u8])> = plain.chain(cookie).collect();
    gate.hop.write_head(&onward, fields.into_iter(), out);
}

/// Carries the request's body; gives the sink back when all of it went.
async fn upload(mut incoming: Incoming, mut sink: OwnedWriteHalf, body: Body, gate: &Gate) -> Option<OwnedWriteHalf> {
    let written = if matches!(body, Body::Chunked(_)) {
        Written::Chunked
    } else {
        Written::Plain
    };
    let mut out = BytesMut::new();
    let mut trailers = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) => written.data(&data, &mut out),
            Err(frame) => {
                let fields = frame.into_trailers().ok()?;
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
                crate::hop::write_fields(
                    fields.collect::<Vec<_>>().into_iter(),
                    crate::hop::Direction::Onward,
                    &mut trailers,
                );
            }
        }
        write_all(&mut sink, &mut out, gate.idle()).await.ok()?;
    }
    written.end(&trailers, &mut out);
    write_all(&mut sink, &mut out, gate.idle()).await.ok()?;
    Some(sink)
}

fn copy_fields(answer: &Answer, headers: &mut HeaderMap, body: Body) {
    let mut lines = BytesMut::new();
    crate::hop::write_fields(answer.fields(), crate::hop::Direction::Back, &mut lines);
    append_fields(&lines, headers);
    match body {
        Body::Length(length) => drop(headers.insert(http::header::CONTENT_LENGTH, length.into())),
        Body::Empty => {
            let length = answer
                .values("content-length")
                .next()
                .and_then(|value| HeaderValue::from_bytes(value).ok());
            if let Some(length) = length {
                headers.insert(http::header::CONTENT_LENGTH, length);
            }
        }
        Body::Chunked(_) | Body::UntilClose => {}
    }
}

fn refused(refusal: Refusal) -> Response<Reply> {
    let mut response = Response::new(Reply::Once(Some(Bytes::from(format!("{}\n", refusal.told)))));
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if let Ok(name) = HeaderValue::from_str(&refusal.name) {
        headers.insert(REFUSAL_FIELD, name);
    }
    response
}
