//! Just enough HTTP/1 as a client: one response, with its body if it announces one.

use std::io;
use std::time::{Duration, Instant};

use crate::notes::Run;
use crate::wire::Stream;

/// Time for a response: the proxy may look up, connect and mint a certificate before it answers.
const RESPONSE_TIME: Duration = Duration::from_secs(5);
/// Largest head, and largest part of a body that is read.
const HEAD_BYTES: usize = 64 << 10;
const BODY_BYTES: usize = 64 << 10;

/// A response.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The head without its last empty line.
    pub head: String,
    /// The body, or its first 64 KiB.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the status is 2xx or 101.
    pub fn is_success(&self) -> bool {
        self.status == 101 || (200..300).contains(&self.status)
    }

    /// First value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// How a request shapes its response (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A tunnel: a 2xx response has no body.
    Connect,
    /// Only the head.
    Head,
    /// Everything else.
    Other,
}

impl Asked {
    /// By the beginning of what was sent.
    pub fn by(sent: &[u8]) -> Self {
        match sent {
            _ if sent.starts_with(b"CONNECT ") => Self::Connect,
            _ if sent.starts_with(b"HEAD ") => Self::Head,
            _ => Self::Other,
        }
    }
}

/// Reads one final response. `buffer` holds what was read and not yet used, before and after.
pub fn read_response(run: &Run, stream: &mut dyn Stream, buffer: &mut Vec<u8>, asked: Asked) -> io::Result<Response> {
    let mut source = Source {
        stream,
        buffer,
        end: Instant::now() + run.awaiting(RESPONSE_TIME),
    };
    loop {
        let head_end = source.find(b"\r\n\r\n", HEAD_BYTES)?;
        let head = String::from_utf8_lossy(&source.buffer[..head_end]).into_owned();
        source.buffer.drain(..head_end + 4);
        let mut response = Response {
            status: status_of(&head)?,
            head,
            body: Vec::new(),
        };
        match response.status {
            // Interim responses (RFC 9110, 15.2) announce another one.
            100 | 102..=199 => continue,
            101 | 204 | 304 => return Ok(response),
            200..300 if asked == Asked::Connect => return Ok(response),
            _ if asked == Asked::Head => return Ok(response),
            _ => {}
        }
        response.body = source.body(&response)?;
        return Ok(response);
    }
}

fn status_of(head: &str) -> io::Result<u16> {
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next().and_then(|word| word.parse().ok())) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => Ok(status),
        _ => Err(invalid("no HTTP/1 response")),
    }
}

/// Bytes from a buffer and then from a stream, until an instant.
struct Source<'a> {
    stream: &'a mut dyn Stream,
    buffer: &'a mut Vec<u8>,
    end: Instant,
}

impl Source<'_> {
    /// Reads more; `Ok(false)` at the end of the stream.
    fn more(&mut self) -> io::Result<bool> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left.max(Duration::from_millis(1)))?;
        let mut piece = [0; 8192];
        let length = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..length]);
        Ok(length > 0)
    }

    /// Where `needle` is in the buffer, reading until it is there.
    fn find(&mut self, needle: &[u8], limit: usize) -> io::Result<usize> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..]
                .windows(needle.len())
                .position(|window| window == needle)
            {
                return Ok(searched + at);
            }
            // A protocol that is not HTTP is told by its first bytes: no need to wait for the time-out.
            let prefix = self.buffer.len().min(5);
            if needle.len() == 4 && self.buffer[..prefix] != b"HTTP/"[..prefix] {
                return Err(invalid("no HTTP/1 response"));
            }
            if self.buffer.len() > limit {
                return Err(invalid("head is too long"));
            }
            searched = self.buffer.len().saturating_sub(needle.len() - 1);
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes `length` bytes, of which at most [`BODY_BYTES`] are kept in `body`.
    fn take(&mut self, mut length: u64, body: &mut Vec<u8>) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            body.extend(self.buffer.drain(..here).take(BODY_BYTES.saturating_sub(body.len())));
            length -= here as u64;
        }
        Ok(())
    }

    fn body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response
            .field("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
        {
            self.chunks(&mut body)?;
        } else if let Some(length) = response.field("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length is no number"))?;
            // A body that is cut short is still a response with a status.
            match self.take(length, &mut body) {
                Err(error) if body.is_empty() => return Err(error),
                _ => {}
            }
        } else {
            while body.len() < BODY_BYTES {
                body.append(self.buffer);
                match self.more() {
                    Ok(true) => {}
                    _ => break,
                }
            }
            body.truncate(BODY_BYTES);
        }
        Ok(body)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let end = self.find(b"\r\n", 1024)?;
            let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 2);
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u32::from_str_radix(size, 16).map_err(|_| invalid("chunk size is no number"))?;
            if size == 0 {
                break;
            }
            self.take(size.into(), body)?;
            self.take(2, &mut Vec::new())?;
        }
        // Trailer fields are part of what the peer said.
        loop {
            let end = self.find(b"\r\n", HEAD_BYTES)?;
            let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
            if line.is_empty() {
                return Ok(());
            }
            body.extend(line.into_iter().take(BODY_BYTES.saturating_sub(body.len())));
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[rstest]
    #[case(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcREST",
        Asked::Other,
        200,
        "abc",
        "REST"
    )]
    #[case(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nT: v\r\n\r\nREST",
        Asked::Other,
        200,
        "abT: v",
        "REST"
    )]
    #[case("HTTP/1.1 200 OK\r\n\r\nREST", Asked::Connect, 200, "", "REST")]
    #[case("HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", Asked::Connect, 403, "x", "")]
    #[case("HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Asked::Other, 204, "", "")]
    #[case("HTTP/1.0 200 OK\r\n\r\nall of it", Asked::Other, 200, "all of it", "")]
    #[case("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Asked::Head, 200, "", "")]
    #[case("HTTP/1.1 101 Up\r\n\r\n\u{1}", Asked::Other, 101, "", "\u{1}")]
    #[case("SSH-2.0-x\r\n\r\n", Asked::Other, 0, "", "")]
    #[case("HTTP/1.1 200 OK\r\nContent-Le", Asked::Other, 0, "", "")]
    #[case(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        Asked::Other,
        0,
        "",
        ""
    )]
    fn responses(
        #[case] wire: &str,
        #[case] asked: Asked,
        #[case] status: u16,
        #[case] body: &str,
        #[case] rest: &str,
        #[values(1, 4096)] piece: usize,
    ) {
        let (mut peer, mut stream) = UnixStream::pair().expect("pairs");
        let run = crate::notes::tests::run(3000);
        let text = wire.to_owned();
        let writing = std::thread::spawn(move || {
            for piece in text.as_bytes().chunks(piece) {
                // The reader may have refused already.
                let _ = peer.write_all(piece);
            }
        });
        let mut buffer = Vec::new();
        let response = read_response(&run, &mut stream, &mut buffer, asked);
        writing.join().expect("writes");
        match response {
            Err(_) => assert_eq!(status, 0),
            Ok(response) => {
                assert_eq!((response.status, &*response.body), (status, body.as_bytes()));
                let left = crate::wire::read_for(&run, &mut stream, Duration::from_millis(50), 100).unwrap_or_default();
                assert_eq!([buffer, left].concat(), rest.as_bytes());
            }
        }
    }
}
