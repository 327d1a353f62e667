//! Bodies: where one ends, and how it is written on.

use std::io::Write;

use bytes::{Buf, BytesMut};

use crate::head::is_token;

/// Longest chunk-size line or trailer section.
const LINES: usize = 8 * 1024;

/// A body being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Empty,
    /// This many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked(Chunk),
    /// Until the sender closes (responses only).
    UntilClose,
}

/// Where in a chunked body the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before a size line.
    Size,
    /// This many bytes of data are left in the chunk.
    Data(u64),
    /// Before the line end behind the data.
    DataEnd,
    /// In the trailer section.
    Trailers,
}

/// What comes next in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes at the front of the buffer are data; the caller takes them out.
    Data(usize),
    /// More bytes are needed.
    More,
    /// The body is over; its trailer fields, as lines with their ends.
    End(BytesMut),
}

/// A chunked body is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub struct Malformed;

impl Body {
    /// A body of a known length.
    pub fn length(length: u64) -> Self {
        if length == 0 { Self::Empty } else { Self::Length(length) }
    }

    /// A chunked body from its beginning.
    pub fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// Looks at the front of the buffer. Size and line bytes are taken out here, data by the caller.
    ///
    /// # Errors
    /// When a chunk is malformed. Chunk extensions count as that: nobody needs them, and they were used for smuggling.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Piece, Malformed> {
        match self {
            Self::Empty => Ok(Piece::End(BytesMut::new())),
            Self::UntilClose if buf.is_empty() => Ok(Piece::More),
            Self::UntilClose => Ok(Piece::Data(buf.len())),
            Self::Length(0) => Ok(Piece::End(BytesMut::new())),
            Self::Length(left) => Ok(data(left, buf)),
            Self::Chunked(chunk) => chunk.next(buf),
        }
    }
}

/// Takes what is there of `left` bytes.
fn data(left: &mut u64, buf: &BytesMut) -> Piece {
    if buf.is_empty() {
        return Piece::More;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left -= length as u64;
    Piece::Data(length)
}

impl Chunk {
    fn next(&mut self, buf: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = line(buf)? else {
                        return Ok(Piece::More);
                    };
                    *self = match chunk_size(&line)? {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(left) => return Ok(data(left, buf)),
                Self::DataEnd => match (buf.first(), buf.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        buf.advance(2);
                        *self = Self::Size;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Piece::More),
                    _ => return Err(Malformed),
                },
                Self::Trailers => return trailers(buf),
            }
        }
    }
}

/// Takes one line out, without its end.
fn line(buf: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    match buf.iter().take(LINES).position(|&b| b == b'\n') {
        Some(0) => Err(Malformed),
        Some(at) if buf[at - 1] != b'\r' => Err(Malformed),
        Some(at) => {
            let mut line = buf.split_to(at + 1);
            line.truncate(at - 1);
            Ok(Some(line))
        }
        None if buf.len() >= LINES => Err(Malformed),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    if line.is_empty() || line.len() > 15 || !line.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(line).map_err(|_| Malformed)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed)
}

/// Takes the trailer section out once it is complete.
fn trailers(buf: &mut BytesMut) -> Result<Piece, Malformed> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Piece::End(BytesMut::new()));
    }
    let Some(at) = buf.windows(4).take(LINES).position(|w| w == b"\r\n\r\n") else {
        return if buf.len() >= LINES {
            Err(Malformed)
        } else {
            Ok(Piece::More)
        };
    };
    let mut section = buf.split_to(at + 4);
    section.truncate(at + 2);
    if trailer_fields(&section).all(|field| field.is_some()) {
        Ok(Piece::End(section))
    } else {
        Err(Malformed)
    }
}

/// The fields of a trailer section; `None` for a line that is no field.
pub fn trailer_fields(section: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let lines = section
        .split_inclusive(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r\n"));
    lines.map(|line| {
        let line = line?;
        let colon = line.iter().position(|&b| b == b':').filter(|&at| at > 0)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_text = value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f));
        (name.iter().copied().all(is_token) && is_text).then_some((name, value))
    })
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// As it is: the length was told before, or the end is the connection's.
    Plain,
    /// In chunks.
    Chunked,
}

impl Written {
    /// Writes a piece of data, never an empty one (that would end a chunked body).
    pub fn data(self, data: &[u8], out: &mut BytesMut) {
        match self {
            _ if data.is_empty() => {}
            Self::Plain => out.extend_from_slice(data),
            Self::Chunked => {
                let mut size = [0u8; 20];
                let mut cursor = &mut size[..];
                // Twenty bytes hold any 64-bit size.
                let _ = write!(cursor, "{:x}\r\n", data.len());
                let used = 20 - cursor.len();
                out.extend_from_slice(&size[..used]);
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Ends the body; `trailers` are complete lines.
    pub fn end(self, trailers: &[u8], out: &mut BytesMut) {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Reads a whole body, given `step` bytes at a time.
    fn read(mut body: Body, text: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, usize), Malformed> {
        let mut buf = BytesMut::new();
        let mut rest = text;
        let mut out = Vec::new();
        loop {
            match body.next(&mut buf)? {
                Piece::Data(length) => out.extend_from_slice(&buf.split_to(length)),
                Piece::End(trailers) => return Ok((out, trailers.to_vec(), buf.len() + rest.len())),
                Piece::More if rest.is_empty() => return Err(Malformed),
                Piece::More => {
                    let (now, later) = rest.split_at(step.min(rest.len()));
                    buf.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    #[rstest]
    fn chunks_in_steps(#[values(1, 2, 3, 5, 100)] step: usize) {
        let text = b"5\r\nhello\r\n1\r\n \r\n00A\r\nwonderful!\r\n0\r\n\r\nNEXT";
        assert_eq!(
            read(Body::chunked(), text, step),
            Ok((b"hello wonderful!".to_vec(), vec![], 4))
        );
        let text = b"1\r\nx\r\n0\r\na: b\r\nc:d\r\n\r\nNEXT";
        assert_eq!(
            read(Body::chunked(), text, step),
            Ok((b"x".to_vec(), b"a: b\r\nc:d\r\n".to_vec(), 4))
        );
        assert_eq!(
            read(Body::length(3), b"abcNEXT", step),
            Ok((b"abc".to_vec(), vec![], 4))
        );
    }

    #[rstest]
    #[case(b"5\nhello\r\n0\r\n\r\n")]
    #[case(b"5;x=y\r\nhello\r\n0\r\n\r\n")]
    #[case(b"+5\r\nhello\r\n0\r\n\r\n")]
    #[case(b"0x5\r\nhello\r\n0\r\n\r\n")]
    #[case(b" 5\r\nhello\r\n0\r\n\r\n")]
    #[case(b"5 \r\nhello\r\n0\r\n\r\n")]
    #[case(b"\r\nhello\r\n0\r\n\r\n")]
    #[case(b"ffffffffffffffff\r\nhello")]
    #[case(b"5\r\nhello0\r\n\r\n")]
    #[case(b"5\r\nhello\n0\r\n\r\n")]
    #[case(b"0\r\nno colon\r\n\r\n")]
    #[case(b"0\r\n folded: x\r\n\r\n")]
    fn malformed(#[case] text: &[u8]) {
        for step in [1, 100] {
            assert_eq!(read(Body::chunked(), text, step), Err(Malformed));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = BytesMut::new();
        for data in [&b"hello"[..], b"", &[7; 300]] {
            Written::Chunked.data(data, &mut out);
        }
        Written::Chunked.end(b"a: b\r\n", &mut out);
        let (data, trailers, rest) = read(Body::chunked(), &out, 1).unwrap();
        assert_eq!((data.len(), trailers, rest), (305, b"a: b\r\n".to_vec(), 0));
    }
}
