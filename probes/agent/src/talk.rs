//! Action `Talk`: one conversation over one connection, step by step.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use probe_spec::{CERTIFICATE_LINE, Step};

use crate::http::{self, Asked};
use crate::notes::{Done, NotIssued, Run, errno};
use crate::tls::{self, Hello};
use crate::wire::{self, Stream};
use crate::{h2, resolve};

/// Most that `Read` takes.
const READ_BYTES: usize = 64 << 10;

/// Characters of a certificate that fit into a line of the trace.
const CERTIFICATE_PIECE: usize = 256;

/// How a conversation ended early: all of them are the peer's doing.
enum Ended {
    /// It refused, closed, or answered something else than success.
    Refused(String),
    /// It did not answer in time.
    Silent(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match wire::is_silence(&error) {
            true => Self::Silent(errno(&error)),
            false => Self::Refused(errno(&error)),
        }
    }
}

/// Connects and goes through the steps. A refused connection and a conversation that the peer ends are attempts; a peer that
/// falls silent before the nonce was sent leaves the case not issued, since nobody has refused anything.
pub fn talk(run: &Run, to: &str, steps: &[Step]) -> Done {
    let Some(stream) = connect(run, &run.words.text(to)?)? else {
        return Ok(());
    };
    let mut talk = Conversation {
        run,
        stream: Some(stream),
        unread: Vec::new(),
        sent: Vec::new(),
        h2: h2::Session::default(),
        nonce_sent: false,
    };
    for (at, step) in steps.iter().enumerate() {
        if run.is_over() {
            return Err(NotIssued::CutOff("the end of the conversation"));
        }
        match talk.step(step)? {
            Ok(()) => {}
            Err(Ended::Refused(how)) => {
                run.trace(format!("step {}: ended by the peer: {how}", at + 1));
                return Ok(());
            }
            Err(Ended::Silent(how)) => {
                run.trace(format!("step {}: {how}", at + 1));
                return if talk.nonce_sent {
                    Ok(())
                } else {
                    Err(NotIssued::Silent("a step"))
                };
            }
        }
    }
    Ok(())
}

/// Connects to `proxy`, `unix:PATH` or a TCP target. None: tried, and refused or unreachable.
pub fn connect(run: &Run, to: &str) -> Result<Option<Box<dyn Stream>>, NotIssued> {
    if let Some(path) = to.strip_prefix("unix:") {
        return Ok(match wire::connect_unix(path) {
            Ok(stream) => Some(Box::new(stream)),
            Err(error) => {
                run.trace(format!("connect {path}: {}", errno(&error)));
                None
            }
        });
    }
    let addresses = match to {
        "proxy" => resolve::addresses(run, &proxy_of_environment()?)?,
        other => resolve::addresses(run, other)?,
    };
    Ok(connect_first(run, &addresses))
}

/// Connects to the first address that accepts.
pub fn connect_first(run: &Run, addresses: &[SocketAddr]) -> Option<Box<dyn Stream>> {
    for address in addresses {
        match wire::connect(run, *address, None) {
            Ok(stream) => {
                run.trace(format!("connect {address}: done"));
                return Some(stream);
            }
            Err(error) => run.trace(format!("connect {address}: {}", errno(&error))),
        }
    }
    None
}

/// `host:port` of the guest's proxy.
pub fn proxy_of_environment() -> Result<String, NotIssued> {
    const NAMES: [&str; 6] = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let value = NAMES
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let value =
        value.ok_or_else(|| NotIssued::Unfit("the guest's environment names no proxy (HTTP_PROXY)".to_owned()))?;
    Ok(authority_of(&value).to_owned())
}

/// Authority of a proxy's URL, without user information.
pub fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

struct Conversation<'a> {
    run: &'a Run,
    /// None only while TLS is being started over it, and after that failed.
    stream: Option<Box<dyn Stream>>,
    unread: Vec<u8>,
    /// Beginning of what was sent since the last response: it says whether a tunnel was asked for.
    sent: Vec<u8>,
    h2: h2::Session,
    nonce_sent: bool,
}

impl Conversation<'_> {
    /// The outer error is the agent's own, the inner one the peer's.
    fn step(&mut self, step: &Step) -> Result<Result<(), Ended>, NotIssued> {
        let words = &self.run.words;
        Ok(match step {
            Step::Send { text } => self.send(&words.bytes(text)?, None),
            Step::SendSlowly { text, piece, pause_ms } => {
                self.send(&words.bytes(text)?, Some((*piece, Duration::from_millis(*pause_ms))))
            }
            Step::Response => self.response().map(drop),
            Step::Success => self.response().and_then(|response| match response.is_success() {
                true => Ok(()),
                false => Err(Ended::Refused(format!("status {}", response.status))),
            }),
            Step::Read { ms } => self.read(Duration::from_millis(*ms)),
            Step::Tls { sni, alpn, split } => {
                let sni = sni.as_deref().map(|sni| words.text(sni)).transpose()?;
                return self.start_tls(&Hello {
                    sni: sni.as_deref(),
                    alpn,
                    split: *split,
                });
            }
            Step::Certificate => self.certificate(),
            Step::H2 {
                method,
                scheme,
                authority,
                path,
                fields,
                body,
            } => {
                let pseudo = [
                    (":method", method),
                    (":scheme", scheme),
                    (":authority", authority),
                    (":path", path),
                ];
                let mut all = Vec::new();
                for (name, value) in pseudo {
                    all.push((name.to_owned(), words.text(value)?));
                }
                all.extend(words.pairs(fields)?);
                self.h2_request(&all, &words.bytes(body)?)
            }
            Step::WebSocket {
                host,
                path,
                fields,
                text,
            } => {
                let fields = words.pairs(fields)?;
                self.web_socket(&words.text(host)?, &words.text(path)?, &fields, &words.bytes(text)?)
            }
            Step::Pause { ms } => {
                self.run.pause(Duration::from_millis(*ms));
                Ok(())
            }
        })
    }

    fn stream(&mut self) -> Result<&mut Box<dyn Stream>, Ended> {
        self.stream
            .as_mut()
            .ok_or_else(|| Ended::Refused("the connection is gone".to_owned()))
    }

    fn send(&mut self, bytes: &[u8], slowly: Option<(usize, Duration)>) -> Result<(), Ended> {
        self.sent
            .extend(bytes.iter().take(8usize.saturating_sub(self.sent.len())));
        let (piece, pause) = slowly.unwrap_or((bytes.len(), Duration::ZERO));
        for piece in bytes.chunks(piece.max(1)) {
            let stream = self.stream()?;
            stream.write_all(piece)?;
            stream.flush()?;
            if !pause.is_zero() {
                self.run.pause(pause);
            }
        }
        // Only after the whole text: the nonce may be its last part. (Hidden forms are not recognised: the safe side.)
        self.nonce_sent |= probe_spec::Nonce::find_all(bytes).contains(&self.run.words.nonce);
        Ok(())
    }

    fn response(&mut self) -> Result<http::Response, Ended> {
        let (run, asked) = (self.run, Asked::by(&std::mem::take(&mut self.sent)));
        let mut unread = std::mem::take(&mut self.unread);
        let response = http::read_response(run, &mut **self.stream()?, &mut unread, asked);
        self.unread = unread;
        let response = response?;
        run.trace(format!(
            "{}; body {}",
            response.head.lines().next().unwrap_or_default(),
            wire::excerpt(&response.body)
        ));
        Ok(response)
    }

    fn read(&mut self, time: Duration) -> Result<(), Ended> {
        let run = self.run;
        let mut got = std::mem::take(&mut self.unread);
        match wire::read_for(run, &mut **self.stream()?, time, READ_BYTES) {
            Ok(more) => got.extend(more),
            // Silence is a fine outcome of listening for a while.
            Err(error) if wire::is_silence(&error) => {}
            Err(error) => return Err(error.into()),
        }
        run.trace(format!("read {}", wire::excerpt(&got)));
        Ok(())
    }

    fn start_tls(&mut self, hello: &Hello<'_>) -> Result<Result<(), Ended>, NotIssued> {
        if !self.unread.is_empty() {
            self.run.trace(format!(
                "before TLS the peer had said {}",
                wire::excerpt(&std::mem::take(&mut self.unread))
            ));
        }
        let Some(stream) = self.stream.take() else {
            return Ok(Err(Ended::Refused("the connection is gone".to_owned())));
        };
        Ok(match tls::start(self.run, stream, hello)? {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => Err(error.into()),
        })
    }

    fn certificate(&mut self) -> Result<(), Ended> {
        let shown = self.stream()?.certificate();
        let shown = shown.ok_or_else(|| Ended::Refused("the peer showed no certificate".to_owned()))?;
        let text = STANDARD.encode(shown);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(CERTIFICATE_PIECE));
            self.run.trace(format!("{CERTIFICATE_LINE}{piece}"));
            rest = more;
        }
        Ok(())
    }

    fn h2_request(&mut self, fields: &[(String, String)], body: &[u8]) -> Result<(), Ended> {
        let request = h2::Request {
            fields: fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            body,
        };
        let bytes = self.h2.request(&request);
        self.send(&bytes, None)?;
        let run = self.run;
        let mut session = std::mem::take(&mut self.h2);
        let answer = self.stream().map(|stream| session.answer(run, &mut **stream));
        self.h2 = session;
        match answer? {
            Err(error) if !wire::is_silence(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn web_socket(&mut self, host: &str, path: &str, fields: &[(String, String)], text: &[u8]) -> Result<(), Ended> {
        // Any 16 bytes do as a key (RFC 6455, 4.1): it only shows that the server understood.
        let key = STANDARD.encode(&self.run.words.nonce.as_str().as_bytes()[2..18]);
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes(), None)?;
        let response = self.response()?;
        if response.status != 101 {
            return Err(Ended::Refused(format!("status {} instead of 101", response.status)));
        }
        let frame = web_socket_frame(text);
        self.send(&frame, None)?;
        // The mask hides it from `send`.
        self.nonce_sent |= probe_spec::Nonce::find_all(text).contains(&self.run.words.nonce);
        self.read(Duration::from_millis(300))
    }
}

/// One final text frame, masked as a client must (RFC 6455, 5.2 and 5.3).
fn web_socket_frame(text: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
        longer => {
            frame.push(0x80 | 127);
            frame.extend((longer as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(text.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
#[path = "talk_tests.rs"]
mod tests;
