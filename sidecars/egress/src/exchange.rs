//! One request and its answer.

use std::error::Error;
use std::io;

use bottle_policy::{DecisionRecord, DecisionVerdict, NONCE_FIELD, Stage};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use secrecy::ExposeSecret;

use crate::Egress;
use crate::body::AnswerBody;
use crate::hop::{REFUSAL_FIELD, SECRET_FIELD, Target};
use crate::inject::origin_form;
use crate::pool::{Lease, Sender};
use crate::refusal::Refusal;
use crate::strip::{ask_websocket, is_websocket, strip, takes_trailers};

/// Answers one request of the hop.
pub(crate) async fn answer(egress: &Egress, request: Request<Incoming>) -> Response<AnswerBody> {
    let noted = Noted::of(&request);
    match forward(egress, request, &noted).await {
        Ok(response) => response,
        Err((target, refusal)) => refuse(egress, noted, target, refusal).await,
    }
}

/// What a decision record needs of a request that is gone by then.
struct Noted {
    method: Method,
    host: Option<String>,
    port: Option<u16>,
    nonce: Option<String>,
}

impl Noted {
    fn of(request: &Request<Incoming>) -> Self {
        let host = request.uri().host().map(|host| host.chars().take(300).collect());
        let nonce = request.headers().get(NONCE_FIELD).and_then(|value| value.to_str().ok());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let nonce = nonce
            .filter(|nonce| nonce.len() <= 64 && nonce.bytes().all(allowed))
            .map(str::to_owned);
        Self {
            method: request.method().clone(),
            host,
            port: request.uri().port_u16(),
            nonce,
        }
    }

    fn fill(&self, record: DecisionRecord, target: Option<&Target>) -> DecisionRecord {
        DecisionRecord {
            method: Some(self.method.as_str().chars().take(32).collect()),
            host: target.map(|target| target.host.clone()).or_else(|| self.host.clone()),
            port: target.map(|target| target.port).or(self.port),
            address: target.map(|target| target.address.ip()),
            nonce: self.nonce.clone(),
            ..record
        }
    }
}

type Refused = (Option<Target>, Refusal);

async fn forward(
    egress: &Egress,
    mut request: Request<Incoming>,
    noted: &Noted,
) -> Result<Response<AnswerBody>, Refused> {
    if !knows_secret(egress, request.headers()) {
        return Err((None, Refusal::NotPipelock));
    }
    let target = Target::read(request.uri(), request.headers()).map_err(|refusal| (None, refusal))?;
    let websocket = is_websocket(request.headers());
    let trailers = takes_trailers(request.headers());
    strip(request.headers_mut());
    egress.injector.inject(&target, request.headers_mut());
    if let Some(told) = egress.injector.unscrubbed(&target) {
        eprintln!("{told}");
        let record = egress
            .recorder
            .blank(Stage::Upstream, DecisionVerdict::Allow, "token-added");
        egress
            .recorder
            .decision(DecisionRecord {
                told: Some(told),
                ..noted.fill(record, Some(&target))
            })
            .await;
    }
    if trailers {
        request
            .headers_mut()
            .insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let guest = websocket.then(|| hyper::upgrade::on(&mut request));
    let sent = send(egress, &target, request, websocket).await;
    let (mut response, lease) = sent.map_err(|refusal| (Some(target.clone()), refusal))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let switched = guest.filter(|_| is_websocket(response.headers()));
        let Some(guest) = switched else {
            let refusal = Refusal::Protocol("it switched protocols without being asked".into());
            return Err((Some(target), refusal));
        };
        let upstream = hyper::upgrade::on(&mut response);
        tokio::spawn(join(guest, upstream));
        strip(response.headers_mut());
        ask_websocket(response.headers_mut());
        return Ok(response.map(|_| AnswerBody::Sentence(None)));
    }
    strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if trailers {
        announce_trailers(response.headers_mut());
    }
    Ok(response.map(|body| AnswerBody::relayed(body, lease)))
}

/// Compares in a time that does not depend on the bytes.
fn knows_secret(egress: &Egress, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECRET_FIELD).iter();
    let (Some(given), None) = (values.next(), values.next()) else {
        return false;
    };
    bottle_policy::relay::is_same(given.as_bytes(), egress.hop_secret.expose_secret().as_bytes())
}

/// Over HTTP/1.1 trailers pass only if they were announced; gRPC never does, but its names are known.
fn announce_trailers(headers: &mut HeaderMap) {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc && !headers.contains_key(header::TRAILER) {
        let names = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
        headers.insert(header::TRAILER, names);
    }
}

type Answered = (Response<Incoming>, Option<Lease>);

/// Sends a request on a kept connection or a new one.
async fn send(
    egress: &Egress,
    target: &Target,
    mut request: Request<Incoming>,
    websocket: bool,
) -> Result<Answered, Refusal> {
    // A connection that becomes a WebSocket is its own, and HTTP/2 has another way of making one.
    let mut target = target.clone();
    if websocket {
        ask_websocket(request.headers_mut());
        if let bottle_wire::upstream::Security::Tls { http2 } = &mut target.security {
            *http2 = false;
        }
    }
    let uri = request.uri().clone();
    while let Some(sender) = egress.pool.take(&target).filter(|_| !websocket) {
        match sender.send(egress, &target, request, &uri).await {
            Ok(answered) => return Ok(answered),
            // Nothing of it was written: the other side closed the connection while it was kept.
            Err((_, Some(unsent))) => request = *unsent,
            Err((refusal, None)) => return Err(refusal),
        }
    }
    let sender = connect(egress, &target).await?;
    sender
        .send(egress, &target, request, &uri)
        .await
        .map_err(|(refusal, _)| refusal)
}

async fn connect(egress: &Egress, target: &Target) -> Result<Sender, Refusal> {
    let upstream = egress
        .connector
        .connect(&target.host, target.address, target.security)
        .await
        .map_err(Refusal::Connect)?;
    let io = TokioIo::new(upstream.io);
    if upstream.is_http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .handshake(io)
            .await
            .map_err(|error| failure(&error))?;
        tokio::spawn(connection);
        egress.pool.share(target, &sender);
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(egress.limits.head_fields.max(100))
        .handshake(io)
        .await
        .map_err(|error| failure(&error))?;
    tokio::spawn(connection.with_upgrades());
    Ok(Sender::Http1(sender))
}

impl Sender {
    /// Sends; a request of which nothing was written comes back with the error. `uri` is the absolute target.
    async fn send(
        self,
        egress: &Egress,
        target: &Target,
        mut request: Request<Incoming>,
        uri: &Uri,
    ) -> Result<Answered, (Refusal, Option<Box<Request<Incoming>>>)> {
        let authority = target.authority();
        match self {
            Self::Http1(mut sender) => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = origin_form(uri);
                let host = HeaderValue::try_from(authority).map_err(|_| (Refusal::HopMalformed("a host"), None))?;
                request.headers_mut().insert(header::HOST, host);
                let response = sender.try_send_request(request).await.map_err(unsent)?;
                Ok((response, Some(egress.pool.lease(target, sender))))
            }
            Self::Http2(mut sender) => {
                *request.version_mut() = Version::HTTP_2;
                let mut parts = uri.clone().into_parts();
                parts.authority = Some(authority.parse().map_err(|_| (Refusal::HopMalformed("a host"), None))?);
                *request.uri_mut() = Uri::from_parts(parts).map_err(|_| (Refusal::HopMalformed("a target"), None))?;
                request.headers_mut().remove(header::HOST);
                let response = sender.try_send_request(request).await.map_err(unsent)?;
                Ok((response, None))
            }
        }
    }
}

fn unsent(
    mut error: hyper::client::conn::TrySendError<Request<Incoming>>,
) -> (Refusal, Option<Box<Request<Incoming>>>) {
    let request = error.take_message().map(Box::new);
    (failure(error.error()), request)
}

/// What a failed exchange is called.
fn failure(error: &hyper::Error) -> Refusal {
    let mut source = error.source();
    while let Some(inner) = source {
        if inner
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        {
            return Refusal::Silent;
        }
        source = inner.source();
    }
    if error.is_user() {
        return Refusal::Aborted;
    }
    Refusal::Protocol(error.to_string())
}

/// Joins a guest and an upstream that switched to WebSocket, until either ends.
async fn join(guest: hyper::upgrade::OnUpgrade, upstream: hyper::upgrade::OnUpgrade) {
    if let (Ok(guest), Ok(upstream)) = tokio::join!(guest, upstream) {
        let (mut guest, mut upstream) = (TokioIo::new(guest), TokioIo::new(upstream));
        let _ = tokio::io::copy_bidirectional(&mut guest, &mut upstream).await;
    }
}

async fn refuse(egress: &Egress, noted: Noted, target: Option<Target>, refusal: Refusal) -> Response<AnswerBody> {
    let mut told = refusal.sentence();
    if let Some(unscrubbed) = target.as_ref().and_then(|target| egress.injector.unscrubbed(target)) {
        told = format!("{told}; {unscrubbed}");
    }
    let record = egress
        .recorder
        .blank(Stage::Upstream, DecisionVerdict::Deny, refusal.rule());
    let record = DecisionRecord {
        told: Some(told.clone()),
        ..noted.fill(record, target.as_ref())
    };
    egress.recorder.decision(record).await;
    let mut response = Response::new(AnswerBody::Sentence(Some(Bytes::from(format!("{told}\n")))));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(REFUSAL_FIELD, HeaderValue::from_static(refusal.rule()));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if refusal.ends_connection() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
