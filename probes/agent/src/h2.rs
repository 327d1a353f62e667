//! HTTP/2 frames by hand (RFC 9113, RFC 7541): the agent must be able to say what libraries refuse to.

use std::io;
use std::time::Duration;

use crate::notes::Run;
use crate::wire::{self, Stream};

/// Client preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Largest frame that every peer takes without being asked (RFC 9113, 4.2).
const FRAME_BYTES: usize = 16384;
/// How long an answer may take to begin, and how long more of it is read.
const ANSWER_BEGINS: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_millis(500);
const ANSWER_BYTES: usize = 64 << 10;

/// A request.
pub struct Request<'a> {
    /// Pseudo-header fields and field lines, in order.
    pub fields: Vec<(&'a str, &'a str)>,
    /// Body.
    pub body: &'a [u8],
}

/// One connection's state: the stream to use next.
#[derive(Default)]
pub struct Session {
    next_stream: u32,
}

impl Session {
    /// The bytes of a request on the next stream, after the preface if it is the first.
    pub fn request(&mut self, request: &Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        if self.next_stream == 0 {
            self.next_stream = 1;
            out.extend_from_slice(PREFACE);
            frame(&mut out, SETTINGS, 0, 0, &[]);
        }
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut block = Vec::new();
        for (name, value) in &request.fields {
            literal(&mut block, name.as_bytes(), value.as_bytes());
        }
        let end = if request.body.is_empty() { END_STREAM } else { 0 };
        let mut pieces = block.chunks(FRAME_BYTES);
        let first = pieces.next().unwrap_or_default();
        let last = block.len() <= FRAME_BYTES;
        frame(
            &mut out,
            HEADERS,
            end | if last { END_HEADERS } else { 0 },
            stream,
            first,
        );
        let rest = pieces.len();
        for (at, piece) in pieces.enumerate() {
            /// CONTINUATION (RFC 9113, 6.10).
            const CONTINUATION: u8 = 9;
            frame(
                &mut out,
                CONTINUATION,
                if at + 1 == rest { END_HEADERS } else { 0 },
                stream,
                piece,
            );
        }
        let pieces = request.body.chunks(FRAME_BYTES);
        let rest = pieces.len();
        for (at, piece) in pieces.enumerate() {
            frame(
                &mut out,
                DATA,
                if at + 1 == rest { END_STREAM } else { 0 },
                stream,
                piece,
            );
        }
        out
    }

    /// Reads the answer, and for half a second what else comes, acknowledging settings. Returns all bytes that came.
    pub fn answer(&mut self, run: &Run, stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
        let mut got = wire::read_until(run, stream, ANSWER_BEGINS, ANSWER_BYTES, is_answer)?;
        if is_answer(&got) {
            let left = ANSWER_BYTES - got.len();
            got.extend(wire::read_for(run, stream, ANSWER_TIME, left).unwrap_or_default());
        }
        let mut seen = Vec::new();
        for (kind, flags, id, payload) in Frames(&got) {
            seen.push(describe(kind, id, payload));
            if kind == SETTINGS && flags & 1 == 0 {
                let mut acknowledgement = Vec::new();
                frame(&mut acknowledgement, SETTINGS, 1, 0, &[]);
                stream.write_all(&acknowledgement)?;
            }
        }
        stream.flush()?;
        run.trace(if seen.is_empty() {
            format!("h2: {}", wire::excerpt(&got))
        } else {
            format!("h2: {}", seen.join(" "))
        });
        Ok(got)
    }
}

/// Whether a request was answered, or refused (RFC 9113, 6.4 and 6.8).
fn is_answer(bytes: &[u8]) -> bool {
    Frames(bytes).any(|(kind, ..)| matches!(kind, HEADERS | RST_STREAM | GOAWAY))
}

/// Frames in some bytes; what is cut short is left out.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    /// Type, flags, stream, payload.
    type Item = (u8, u8, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.0.get(9..9 + length)?;
        self.0 = &self.0[9 + length..];
        Some((
            head[3],
            head[4],
            u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload,
        ))
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Literal field without indexing, new name, no Huffman code (RFC 7541, 6.2.2).
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        integer(out, text.len());
        out.extend_from_slice(text);
    }
}

/// Integer with a 7-bit prefix (RFC 7541, 5.1).
fn integer(out: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

fn describe(kind: u8, stream: u32, payload: &[u8]) -> String {
    let code = |at: usize| {
        payload
            .get(at..at + 4)
            .map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    match kind {
        DATA => format!("DATA[{stream}] {}", wire::excerpt(payload)),
        HEADERS => format!("HEADERS[{stream}] status {}", indexed_status(payload).unwrap_or("?")),
        RST_STREAM => format!("RST_STREAM[{stream}] {}", code(0)),
        SETTINGS => "SETTINGS".to_owned(),
        GOAWAY => format!("GOAWAY {}", code(4)),
        _ => format!("type {kind}"),
    }
}

/// Statuses of the static table (RFC 7541, appendix A); others are shown as unknown.
fn indexed_status(block: &[u8]) -> Option<&'static str> {
    const STATUSES: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    STATUSES.get(usize::from(block.first()?.checked_sub(0x88)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_rfc_7541() {
        for (value, expected) in [
            (10, vec![10]),
            (126, vec![126]),
            (127, vec![127, 0]),
            (1337, vec![127, 0xba, 9]),
        ] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn requests_are_framed() {
        let mut session = Session::default();
        let request = Request {
            fields: vec![(":method", "GET"), ("a", "b")],
            body: b"",
        };
        let first = session.request(&request);
        let frames = first.strip_prefix(PREFACE).expect("begins with the preface");
        let frames: Vec<_> = Frames(frames).collect();
        assert_eq!(frames[0], (SETTINGS, 0, 0, &b""[..]));
        assert_eq!(
            frames[1],
            (
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &b"\0\x07:method\x03GET\0\x01a\x01b"[..]
            )
        );
        let second = session.request(&Request {
            fields: vec![("a", "b")],
            body: b"xy",
        });
        let frames: Vec<_> = Frames(&second).collect();
        assert_eq!((frames[0].0, frames[0].1, frames[0].2), (HEADERS, END_HEADERS, 3));
        assert_eq!(frames[1], (DATA, END_STREAM, 3, &b"xy"[..]));
    }

    #[test]
    fn long_requests_are_continued() {
        let long = "x".repeat(40_000);
        let bytes = Session::default().request(&Request {
            fields: vec![("a", &long)],
            body: long.as_bytes(),
        });
        let frames: Vec<_> = Frames(&bytes[PREFACE.len()..]).collect();
        let shape: Vec<_> = frames.iter().map(|frame| (frame.0, frame.1)).collect();
        assert_eq!(shape, [(4, 0), (1, 0), (9, 0), (9, 4), (0, 0), (0, 0), (0, 1)]);
        assert!(frames.iter().all(|frame| frame.3.len() <= FRAME_BYTES));
    }

    #[test]
    fn hostile_frames_are_harmless() {
        for bytes in [
            &b""[..],
            &[0xff; 40],
            &[0, 0, 1, 7, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0],
        ] {
            for (kind, _, stream, payload) in Frames(bytes) {
                let _ = describe(kind, stream, payload);
            }
        }
    }
}
