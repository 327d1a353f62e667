//! What egress answers.

use std::io;
use std::io::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;

use crate::conn::Source;
use crate::framing::{Body, Written};
use crate::head::{FieldRange, Scan, fields, has_token, plain_length, scan};
use crate::hop::{Direction, REFUSAL_FIELD, field, line, write_fields};

/// Longest response head, and most fields in it.
const HEAD: usize = 256 * 1024;
const FIELDS: usize = 256;

/// A response head from egress.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Bytes,
    /// Status code.
    pub status: u16,
    fields: Vec<FieldRange>,
}

impl Answer {
    /// Reads the next final head; informational ones (but 101) are passed over.
    ///
    /// # Errors
    /// `UnexpectedEof` when egress closed before its first byte, `InvalidData` for what is no response.
    pub async fn read<R: AsyncRead + Unpin>(source: &mut Source<R>, within: Duration) -> io::Result<Self> {
        loop {
            let mut from = 0;
            let length = loop {
                match scan(&source.buf, &mut from) {
                    Scan::Complete(length) => break length,
                    Scan::More if source.buf.len() <= HEAD => {}
                    _ => return Err(invalid()),
                }
                let had = !source.buf.is_empty();
                if source.fill(within).await? == 0 {
                    return Err(if had {
                        invalid()
                    } else {
                        io::ErrorKind::UnexpectedEof.into()
                    });
                }
            };
            let answer = Self::parse(source.buf.split_to(length).freeze())?;
            if answer.status == 101 || answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    fn parse(bytes: Bytes) -> io::Result<Self> {
        let end = bytes.windows(2).position(|w| w == b"\r\n").ok_or_else(invalid)?;
        let digits = bytes
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .ok_or_else(invalid)?;
        let status = plain_length(digits)
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| (100..1000).contains(n));
        let fields = fields(&bytes, end + 2, FIELDS, false).map_err(|_| invalid())?;
        Ok(Self {
            status: status.ok_or_else(invalid)?,
            bytes,
            fields,
        })
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields
            .iter()
            .map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// The values of one field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// How the body is framed (RFC 9112 6.3).
    ///
    /// # Errors
    /// `InvalidData` where it is ambiguous.
    pub fn body(&self, is_head: bool) -> io::Result<Body> {
        if is_head || matches!(self.status, 101 | 204 | 304) {
            return Ok(Body::Empty);
        }
        let mut codings = self.values("transfer-encoding");
        let mut lengths = self.values("content-length");
        match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
            (None, None, None, None) => Ok(Body::UntilClose),
            (None, None, Some(length), None) => plain_length(length).map(Body::length).ok_or_else(invalid),
            (Some(coding), None, None, None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Body::chunked()),
            _ => Err(invalid()),
        }
    }

    /// Whether egress keeps the connection.
    pub fn keeps_alive(&self) -> bool {
        self.status != 101 && !self.values("connection").any(|value| has_token(value, "close"))
    }

    /// The name of the refusal, where egress refused. It strips this field from answers of upstreams.
    pub fn refusal(&self) -> Option<&str> {
        let name = self.values(REFUSAL_FIELD).next().filter(|_| self.status >= 400)?;
        std::str::from_utf8(name)
            .ok()
            .filter(|n| n.len() <= 64 && n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
    }

    /// Writes this head to a guest that speaks HTTP/1; gives how the body is to be written.
    pub fn write_head(&self, body: Body, to: Guest, out: &mut BytesMut) -> Written {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or("");
        let mut digits = [b'0'; 3];
        let _ = write!(&mut digits[..], "{}", self.status);
        line(out, &[b"HTTP/1.1 ", &digits, b" ", reason.as_bytes()]);
        write_fields(self.fields(), Direction::Back, out);
        let mut written = Written::Plain;
        match body {
            Body::Length(length) => line(out, &[b"content-length: ", length.to_string().as_bytes()]),
            Body::Empty if self.status == 101 => line(out, &[b"connection: upgrade\r\nupgrade: websocket"]),
            // What a HEAD or a 304 says about a body that is not sent, or a body of no bytes.
            Body::Empty if self.status != 204 => {
                if let Some(length) = self.values("content-length").next() {
                    field(out, "content-length", length);
                }
            }
            Body::Empty => {}
            Body::Chunked(_) | Body::UntilClose if to.is_minor_1 => {
                field(out, "transfer-encoding", b"chunked");
                written = Written::Chunked;
            }
            Body::Chunked(_) | Body::UntilClose => {}
        }
        if self.status != 101 {
            if !to.keeps_alive || (written == Written::Plain && !matches!(body, Body::Length(_) | Body::Empty)) {
                field(out, "connection", b"close");
            } else if !to.is_minor_1 {
                field(out, "connection", b"keep-alive");
            }
        }
        out.extend_from_slice(b"\r\n");
        written
    }
}

/// What a guest that speaks HTTP/1 can take.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// HTTP/1.1, not 1.0.
    pub is_minor_1: bool,
    /// Whether the connection stays open.
    pub keeps_alive: bool,
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/1.1 response")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use tokio::io::AsyncWriteExt;

    async fn read(text: &'static str) -> io::Result<Answer> {
        // A pipe of one byte: the reader never sees more at once.
        let (mut egress, guest) = tokio::io::duplex(1);
        tokio::spawn(async move { egress.write_all(text.as_bytes()).await });
        Answer::read(&mut Source::new(guest, BytesMut::new()), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn one_byte_at_a_time() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        let answer = read(text).await.unwrap();
        assert_eq!((answer.status, answer.body(false).unwrap()), (200, Body::Length(3)));
        assert_eq!(answer.body(true).unwrap(), Body::Empty);
    }

    #[rstest]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n")]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n")]
    #[case("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n")]
    #[tokio::test]
    async fn ambiguous_bodies(#[case] text: &'static str) {
        assert!(read(text).await.unwrap().body(false).is_err());
    }

    #[rstest]
    #[case("HTTP/1.1 2x0 OK\r\n\r\n")]
    #[case("HTTP/2 200 OK\r\n\r\n")]
    #[case("HTTP/1.1 200 OK\n\n")]
    #[case("HTTP/1.1 200 OK\r\n")]
    #[case("")]
    #[tokio::test]
    async fn no_answers(#[case] text: &'static str) {
        assert!(read(text).await.is_err());
    }

    #[tokio::test]
    async fn only_failures_are_refusals() {
        let ok = read("HTTP/1.1 200 OK\r\nx-bottle-refusal: upstream-tls\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(ok.refusal(), None);
        let bad = read("HTTP/1.1 502 Bad\r\nx-bottle-refusal: upstream-tls\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(bad.refusal(), Some("upstream-tls"));
    }
}
