//! One allowed HTTP/1 request: on to egress, and the answer back. Bodies stream both ways at once.

use std::io;

use bottle_policy::{DenyReason, Stage};
use bytes::BytesMut;

use crate::answer::{self, Answer};
use crate::conn::{Io, PumpError, pump, write_all};
use crate::framing::{Body, Written};
use crate::gate::{About, Destination, Gate, Refusal, Sent};
use crate::guest::Guest;
use crate::head::Head;
use crate::hop::{Hop, Onward};

/// Most addresses tried for one request.
const ADDRESSES: usize = 3;

/// A request that may go on.
pub struct Request<'a> {
    /// Its head.
    pub head: &'a Head,
    /// How its body is framed.
    pub body: Body,
    /// Where it goes.
    pub to: &'a Destination,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Path and query.
    pub path: &'a [u8],
    /// The `Host` it is sent with.
    pub host: &'a [u8],
    /// The probe's nonce: its own, or that of the CONNECT around it.
    pub nonce: Option<&'a str>,
}

/// What becomes of the guest's connection.
pub enum After {
    /// It may send the next request.
    Next,
    /// It is closed.
    Close,
    /// It is a WebSocket now, with this other end.
    Switched(Hop),
}

/// How the answer went.
enum Answered {
    /// All of it was passed on; whether the hop can be used again.
    Whole { reusable: bool },
    /// The protocol is switched.
    Switched,
    /// Egress refused, or could not reach the upstream; the guest has been sent nothing.
    Refused(Refusal),
}

impl Request<'_> {
    /// Carries the request on and its answer back.
    ///
    /// # Errors
    /// The guest's connection's; it is of no use any more.
    pub async fn carry<S: Io>(mut self, gate: &Gate, guest: &mut Guest<S>) -> io::Result<After> {
        if self
            .head
            .values("expect")
            .any(|value| !value.eq_ignore_ascii_case(b"100-continue"))
        {
            let refusal = gate.refuse(Stage::Request, DenyReason::Expectation, self.about()).await;
            guest.refuse(gate, &refusal, false, false).await?;
            return Ok(After::Close);
        }
        if self.body != Body::Empty && self.head.values("expect").next().is_some() {
            guest.send(gate, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut sent = Sent::new(gate, self.head.method(), self.to, self.nonce);
        let is_bodyless = self.body == Body::Empty;
        let mut result = self.reach(gate, guest, &mut sent, 0).await;
        // A name with several addresses: the next one, when the one before could not be connected to. Each was checked.
        for at in 1..self.to.addresses.len().min(ADDRESSES) {
            match &result {
                Ok((Answered::Refused(refusal), _)) if is_bodyless && is_unreached(refusal) => {
                    result = self.reach(gate, guest, &mut sent, at).await;
                }
                _ => break,
            }
        }
        match result {
            Ok((Answered::Whole { reusable }, hop)) => {
                if reusable {
                    gate.hop.give(hop);
                }
                let is_over = self.body_is_over() && self.head.keeps_alive();
                Ok(if is_over { After::Next } else { After::Close })
            }
            Ok((Answered::Switched, hop)) => Ok(After::Switched(hop)),
            Ok((Answered::Refused(refusal), _)) => {
                sent.refused();
                self.refuse(gate, guest, &refusal).await
            }
            Err(Broken::Silent) => {
                sent.refused();
                self.refuse(gate, guest, &unavailable()).await
            }
            Err(Broken::Framing) => {
                gate.cut_off(Stage::Request, DenyReason::Framing, self.about()).await;
                Ok(After::Close)
            }
            Err(Broken::Answer) => Ok(After::Close),
            Err(Broken::Guest(error)) => Err(error),
        }
    }

    /// Carries the request to the address with this number.
    async fn reach<S: Io>(
        &mut self,
        gate: &Gate,
        guest: &mut Guest<S>,
        sent: &mut Sent<'_>,
        at: usize,
    ) -> Result<(Answered, Hop), Broken> {
        let mut hop = gate.hop.take().await.map_err(|_| Broken::Silent)?;
        sent.address(at);
        let is_repeatable = self.body == Body::Empty && matches!(self.head.method(), "GET" | "HEAD" | "OPTIONS");
        match self.attempt(gate, guest, &mut hop, at).await {
            Err(Broken::Silent) if hop.is_used && is_repeatable => {
                // Egress closed a kept connection just as we used it; nothing of an answer came, so once more on a new one.
                hop = gate.hop.fresh().await.map_err(|_| Broken::Silent)?;
                let answered = self.attempt(gate, guest, &mut hop, at).await?;
                Ok((answered, hop))
            }
            result => result.map(|answered| (answered, hop)),
        }
    }

    fn about(&self) -> About {
        About::allowed(self.head.method(), &self.to.allowed, self.nonce.map(str::to_owned))
    }

    fn is_upgrade(&self) -> bool {
        self.head.is_websocket() && self.body == Body::Empty
    }

    fn body_is_over(&self) -> bool {
        matches!(self.body, Body::Empty | Body::Length(0))
    }

    /// Passes on what keeps the request from being answered.
    async fn refuse<S: Io>(&self, gate: &Gate, guest: &mut Guest<S>, refusal: &Refusal) -> io::Result<After> {
        let about = About {
            address: self.to.addresses.first().copied(),
            ..self.about()
        };
        gate.refused(Stage::Upstream, refusal, about, true).await;
        let keeps = self.head.keeps_alive() && self.body_is_over();
        guest.refuse(gate, refusal, self.head.method() == "HEAD", keeps).await?;
        Ok(if keeps { After::Next } else { After::Close })
    }

    async fn attempt<S: Io>(
        &mut self,
        gate: &Gate,
        guest: &mut Guest<S>,
        hop: &mut Hop,
        at: usize,
    ) -> Result<Answered, Broken> {
        let Guest { source, sink, out, .. } = guest;
        out.clear();
        let onward = self.onward(at);
        gate.hop.write_head(&onward, self.head.fields(), out);
        let idle = gate.idle();
        if self.body == Body::Empty {
            write_all(&mut hop.sink, out, idle).await.map_err(|_| Broken::Silent)?;
            return self.answer(gate, &mut hop.source, sink, out).await;
        }
        let mut body = self.body;
        let mut up = std::mem::take(out);
        let written = if matches!(body, Body::Chunked(_)) {
            Written::Chunked
        } else {
            Written::Plain
        };
        let (mut is_uploaded, mut is_broken) = (false, None);
        let result = {
            let upload = pump(source, &mut body, &mut hop.sink, written, &mut up, idle);
            let download = self.answer(gate, &mut hop.source, sink, out);
            tokio::pin!(upload, download);
            loop {
                tokio::select! {
                    biased;
                    result = &mut upload, if !is_uploaded => {
                        is_uploaded = true;
                        match result {
                            Ok(()) => {}
                            // Egress may have answered before it had everything.
                            Err(PumpError::Write(_)) => is_broken = Some(()),
                            Err(PumpError::Read(error)) if error.kind() == io::ErrorKind::InvalidData => {
                                break Err(Broken::Framing);
                            }
                            Err(PumpError::Read(error)) => break Err(Broken::Guest(error)),
                        }
                    }
                    result = &mut download => break result,
                }
            }
        };
        let is_whole = is_uploaded && is_broken.is_none();
        if is_whole {
            self.body = Body::Empty;
        }
        match result? {
            Answered::Whole { reusable } => Ok(Answered::Whole {
                reusable: reusable && is_whole,
            }),
            other => Ok(other),
        }
    }

    fn onward(&self, at: usize) -> Onward<'_> {
        Onward {
            method: self.head.method(),
            scheme: self.scheme,
            place: &self.to.place,
            path: self.path,
            host: self.host,
            address: self.to.addresses[at],
            body: self.body,
            is_h2: false,
            is_upgrade: self.is_upgrade(),
            wants_trailers: false,
        }
    }

    /// Reads the answer and passes it on.
    async fn answer<W: tokio::io::AsyncWrite + Unpin>(
        &self,
        gate: &Gate,
        source: &mut crate::conn::Source<tokio::net::tcp::OwnedReadHalf>,
        sink: &mut W,
        out: &mut BytesMut,
    ) -> Result<Answered, Broken> {
        let answer = Answer::read(source, gate.idle()).await.map_err(|_| Broken::Silent)?;
        let mut body = answer.body(self.head.method() == "HEAD").map_err(|_| Broken::Silent)?;
        if let Some(name) = answer.refusal() {
            let told = refusal_text(source, body, gate.idle()).await;
            return Ok(Answered::Refused(Refusal {
                status: answer.status,
                name: name.to_owned(),
                told,
            }));
        }
        if answer.status == 101 && !self.is_upgrade() {
            return Err(Broken::Silent);
        }
        out.clear();
        let to = answer::Guest {
            is_minor_1: self.head.minor == 1,
            keeps_alive: self.head.keeps_alive(),
        };
        let written = answer.write_head(body, to, out);
        let is_until_close = body == Body::UntilClose;
        match pump(source, &mut body, sink, written, out, gate.idle()).await {
            Ok(()) if answer.status == 101 => Ok(Answered::Switched),
            Ok(()) if written == Written::Plain && is_until_close => Err(Broken::Answer),
            Ok(()) => Ok(Answered::Whole {
                reusable: answer.keeps_alive() && !is_until_close,
            }),
            Err(PumpError::Read(_)) => Err(Broken::Answer),
            Err(PumpError::Write(error)) => Err(Broken::Guest(error)),
        }
    }
}

/// Whether egress could not connect, so that nothing of the request went out.
fn is_unreached(refusal: &Refusal) -> bool {
    matches!(
        refusal.name.as_str(),
        "connect-refused" | "connect-timeout" | "connect-failed"
    )
}

/// Why an exchange ended early.
enum Broken {
    /// The hop gave no answer, or none that is one; the guest has been sent nothing.
    Silent,
    /// The guest's body is malformed.
    Framing,
    /// The answer broke off in the middle, or ended with the connection.
    Answer,
    /// The guest's connection broke.
    Guest(io::Error),
}

/// What is said when egress does not answer.
pub fn unavailable() -> Refusal {
    Refusal {
        status: 502,
        name: "egress-unavailable".to_owned(),
        told: "the bottle's own way out did not answer; try again.".to_owned(),
    }
}

/// The sentence that egress sent with its refusal: a short body of a known length.
pub async fn refusal_text<R>(source: &mut crate::conn::Source<R>, body: Body, idle: std::time::Duration) -> String
where
    R: tokio::io::AsyncRead + Unpin,
{
    let Body::Length(length) = body else {
        return "the upstream could not be reached.".to_owned();
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(2048);
    while source.buf.len() < length {
        if !matches!(source.fill(idle).await, Ok(1..)) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&source.buf[..length.min(source.buf.len())]);
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
