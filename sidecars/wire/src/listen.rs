//! Listeners: bound synchronously (as root if need be), served later by an unprivileged process.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::pin::Pin;
use std::task::{Context, Poll};

use bottle_policy::Listen;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listener could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {source}")]
pub struct BindError {
    place: String,
    source: io::Error,
}

/// A bound listener that no runtime knows yet.
#[derive(Debug)]
pub enum Bound {
    /// On a UNIX socket.
    Unix(std::os::unix::net::UnixListener),
    /// On a TCP port.
    Tcp(std::net::TcpListener),
}

/// Binds a listener. A UNIX socket gets mode 0666 (who reaches it is decided by who has its directory), and a stale
/// socket of an earlier run at the same path is replaced.
///
/// # Errors
/// Names the place and the system's reason.
pub fn bind(listen: &Listen) -> Result<Bound, BindError> {
    match listen {
        Listen::Unix(path) => bind_unix(path).map_err(|source| BindError {
            place: path.clone(),
            source,
        }),
        Listen::Tcp(address) => {
            let bound = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(Bound::Tcp(listener))
            });
            bound.map_err(|source| BindError {
                place: address.to_string(),
                source,
            })
        }
    }
}

fn bind_unix(path: &str) -> io::Result<Bound> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener))
}

impl Bound {
    /// Hands the listener to the current runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch the socket.
    pub fn serve(self) -> io::Result<Listener> {
        match self {
            Self::Unix(listener) => UnixListener::from_std(listener).map(Listener::Unix),
            Self::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
        }
    }

    /// The TCP address, where there is one.
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

/// A listener on a runtime.
#[derive(Debug)]
pub enum Listener {
    /// On a UNIX socket.
    Unix(UnixListener),
    /// On a TCP port.
    Tcp(TcpListener),
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// The system's; most are about one connection or a passing shortage, so a caller waits a little and goes on.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(socket, _)| Socket::Unix(socket)),
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// Over a UNIX socket.
    Unix(UnixStream),
    /// Over TCP, without delay.
    Tcp(TcpStream),
}

macro_rules! each {
    ($self:ident, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Unix($socket) => $call,
            Socket::Tcp($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_is_open_to_all_and_replaces_a_stale_one() {
        let dir = std::env::temp_dir().join(format!("bottle-listen-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("proxy.sock");
        let listen = Listen::Unix(path.to_str().unwrap().to_owned());
        drop(bind(&listen).unwrap());
        let _second = bind(&listen).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        fs::write(dir.join("file"), b"").unwrap();
        let taken = Listen::Unix(dir.join("file").to_str().unwrap().to_owned());
        assert!(bind(&taken).unwrap_err().to_string().contains("cannot listen on"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
