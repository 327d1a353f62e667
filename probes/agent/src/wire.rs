//! Connections: TCP, UNIX, and TLS over either, behind one trait.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::notes::Run;

/// Time for a connection: everything that may answer is near.
pub const CONNECT_TIME: Duration = Duration::from_millis(400);
/// Time to write: a peer that does not read is given up on.
const WRITE_TIME: Duration = Duration::from_secs(2);

/// A connection.
pub trait Stream: Read + Write + Send {
    /// How long a read waits. Never zero.
    fn set_read_timeout(&self, time: Duration) -> io::Result<()>;

    /// The certificate that the peer showed (DER), where it showed one.
    fn certificate(&self) -> Option<Vec<u8>> {
        None
    }
}

impl Stream for TcpStream {
    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(time))
    }
}

impl Stream for UnixStream {
    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        UnixStream::set_read_timeout(self, Some(time))
    }
}

/// Connects by TCP, from a source address if one is given.
pub fn connect(run: &Run, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(connect_tcp(run, to, from)?))
}

/// As [`connect`], the socket itself.
pub fn connect_tcp(run: &Run, to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), run.awaiting(CONNECT_TIME))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(run.within(WRITE_TIME)))?;
    Ok(stream)
}

/// Connects to a UNIX stream socket: a path, or `@name` for an abstract one.
pub fn connect_unix(path: &str) -> io::Result<UnixStream> {
    // Non-blocking while connecting: a full backlog must not hold the case up.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = match path.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => path.to_owned(),
    };
    socket.connect(&SockAddr::unix(address)?)?;
    socket.set_nonblocking(false)?;
    let stream = UnixStream::from(OwnedFd::from(socket));
    stream.set_write_timeout(Some(WRITE_TIME))?;
    Ok(stream)
}

/// Whether an error says that nothing came in time (as opposed to a refusal or an end).
pub fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Waits until there is something to receive, and fails as a receive that timed out does. A time-out of the socket's own does not
/// end a receive where the machine's stack carries the datagrams (smolvm 1.32.2, TSI).
pub fn await_datagram(socket: &impl AsFd, time: Duration) -> io::Result<()> {
    let mut events = [PollFd::new(socket, PollFlags::IN)];
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match retry_on_intr(|| poll(&mut events, Some(&time)))? {
        0 => Err(Errno::AGAIN.into()),
        _ => Ok(()),
    }
}

/// Reads what comes within `time` (longer where the machine is slower), at most `limit` bytes. An error only when it came before any
/// byte.
pub fn read_for(run: &Run, stream: &mut dyn Stream, time: Duration, limit: usize) -> io::Result<Vec<u8>> {
    read_until(run, stream, time, limit, |_| false)
}

/// The same, but no longer than until `is_enough`.
pub fn read_until(
    run: &Run,
    stream: &mut dyn Stream,
    time: Duration,
    limit: usize,
    is_enough: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let end = std::time::Instant::now() + run.awaiting(time);
    let mut got = Vec::new();
    let mut piece = [0u8; 4096];
    while got.len() < limit && !is_enough(&got) {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(left.max(Duration::from_millis(1)))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&piece[..length.min(limit - got.len())]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if got.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(got)
}

/// The beginning of what was read, printable.
pub fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(160)];
    format!("{} bytes \"{}\"", bytes.len(), shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_datagram_is_awaited_and_no_longer() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let error = await_datagram(&socket, Duration::from_millis(1)).expect_err("nothing came");
        assert!(is_silence(&error), "{error}");
        socket
            .send_to(b"x", socket.local_addr().expect("has an address"))
            .expect("sends");
        await_datagram(&socket, Duration::from_secs(10)).expect("something came");
    }
}
