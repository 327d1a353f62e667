//! Witnesses on the host itself: listeners on loopback and wildcard addresses, TCP and UDP, IPv4 and IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_backend::patient;
use probe_spec::Vantage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use tokio::task::JoinHandle;

use crate::sightings::Sightings;

/// Most bytes that are read of one connection.
const READ_LIMIT: usize = 64 * 1024;
/// How long a connection may take to say something more.
const READ_TIME: Duration = Duration::from_secs(2);

/// Ports at which engines serve their API by TCP, without and with TLS.
const ENGINE_PORTS: [u16; 2] = [2375, 2376];
/// What the stand-in for an engine answers to whatever it is asked.
const ENGINE_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/stand-in\r\nContent-Length: 2\r\n\r\nOK";

/// The listeners of this process. They end when this is dropped.
pub struct HostWitnesses {
    sightings: Arc<Sightings>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// TCP on 127.0.0.1.
    pub loopback4: u16,
    /// A port below 1024 on 127.0.0.1, where one could be bound; else as `loopback4`.
    pub loopback4_low: u16,
    /// TCP on `::1` (0 on a host without IPv6).
    pub loopback6: u16,
    /// TCP on 0.0.0.0 and `::`.
    pub wildcard: u16,
    /// UDP on 127.0.0.1.
    pub loopback4_udp: u16,
    /// UDP on 0.0.0.0 and `::`.
    pub wildcard_udp: u16,
}

impl HostWitnesses {
    /// Opens all of them on ports that the system chooses.
    pub async fn open(sightings: Arc<Sightings>) -> io::Result<Self> {
        let mut witnesses = Self {
            sightings,
            tasks: Mutex::default(),
            loopback4: 0,
            loopback4_low: 0,
            loopback6: 0,
            wildcard: 0,
            loopback4_udp: 0,
            wildcard_udp: 0,
        };
        witnesses.loopback4 = witnesses.tcp(Ipv4Addr::LOCALHOST.into(), 0, Vantage::HostLoopback4)?;
        let low = (900..1000).rev().find_map(|port| {
            witnesses
                .tcp(Ipv4Addr::LOCALHOST.into(), port, Vantage::HostLoopback4)
                .ok()
        });
        witnesses.loopback4_low = low.unwrap_or(witnesses.loopback4);
        witnesses.loopback6 = witnesses
            .tcp(Ipv6Addr::LOCALHOST.into(), 0, Vantage::HostLoopback6)
            .unwrap_or(0);
        witnesses.wildcard = witnesses
            .tcp(Ipv6Addr::UNSPECIFIED.into(), 0, Vantage::HostWildcard)
            .or_else(|_| {
                // A host without IPv6.
                witnesses.tcp(Ipv4Addr::UNSPECIFIED.into(), 0, Vantage::HostWildcard)
            })?;
        witnesses.loopback4_udp = witnesses.udp(Ipv4Addr::LOCALHOST.into())?;
        witnesses.wildcard_udp = witnesses
            .udp(Ipv6Addr::UNSPECIFIED.into())
            .or_else(|_| witnesses.udp(Ipv4Addr::UNSPECIFIED.into()))?;
        witnesses.stand_in_for_engine();
        Ok(witnesses)
    }

    /// Stands in for an engine that serves its API on every address of the host. A port that is taken is left to whoever has
    /// it: a real engine there is found by what it answers, and so is the stand-in of another run.
    fn stand_in_for_engine(&self) {
        for port in ENGINE_PORTS {
            let any = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
            let opened = any
                .into_iter()
                .find_map(|address: IpAddr| self.listen(address, port, Vantage::HostWildcard, ENGINE_ANSWER).ok());
            if opened.is_none() {
                tracing::debug!(port, "taken: no stand-in for an engine there");
            }
        }
    }

    /// One more TCP listener; its port. `::` also takes IPv4.
    pub fn tcp(&self, address: IpAddr, port: u16, at: Vantage) -> io::Result<u16> {
        self.listen(address, port, at, b"")
    }

    fn listen(&self, address: IpAddr, port: u16, at: Vantage, answer: &'static [u8]) -> io::Result<u16> {
        let socket = open(address, port, Type::STREAM, Protocol::TCP)?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.into())?;
        let port = listener.local_addr()?.port();
        let sightings = self.sightings.clone();
        self.keep(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        tokio::spawn(listen_to(stream, peer, at, sightings.clone(), answer));
                    }
                    // Too many open files, for one: wait for some to close.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }));
        Ok(port)
    }

    /// Leads whoever connects to this socket, which anybody may, to a listener of the host.
    pub fn hand_over(&self, socket: &Path, to: SocketAddr) -> io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
        self.keep(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((mut guest, _)) => {
                        tokio::spawn(async move {
                            let mut stream = TcpStream::connect(to).await?;
                            let copied = tokio::io::copy_bidirectional(&mut guest, &mut stream);
                            tokio::time::timeout(patient(READ_TIME), copied).await?.map(drop)
                        });
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }));
        Ok(())
    }

    fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    fn udp(&self, address: IpAddr) -> io::Result<u16> {
        let socket = UdpSocket::from_std(open(address, 0, Type::DGRAM, Protocol::UDP)?.into())?;
        let local = socket.local_addr()?;
        let sightings = self.sightings.clone();
        self.keep(tokio::spawn(async move {
            let mut datagram = vec![0; 65_536];
            loop {
                // An ICMP error of an earlier answer comes out here; it says nothing.
                if let Ok((length, peer)) = socket.recv_from(&mut datagram).await {
                    let bytes = &datagram[..length];
                    sightings.record_bytes(Vantage::HostUdp, bytes, peer.to_string(), local.to_string(), "udp");
                }
            }
        }));
        Ok(local.port())
    }
}

impl Drop for HostWitnesses {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}

fn open(address: IpAddr, port: u16, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(address, port)),
        kind,
        Some(protocol),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Reads for nonces; each part is reported as it comes, since the sender may never close.
async fn listen_to(
    mut stream: TcpStream,
    peer: SocketAddr,
    at: Vantage,
    sightings: Arc<Sightings>,
    answer: &'static [u8],
) {
    let to = stream.local_addr().map(|local| local.to_string()).unwrap_or_default();
    let mut said = Vec::new();
    let mut reported = 0;
    while said.len() < READ_LIMIT {
        let read = tokio::time::timeout(READ_TIME, stream.read_buf(&mut said)).await;
        let found = probe_spec::Nonce::find_all(&said).len();
        if found > reported {
            sightings.record_bytes(at, &said, peer.to_string(), to.clone(), "tcp");
            reported = found;
        }
        if !matches!(read, Ok(Ok(1..))) || stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sightings::fresh_nonce;

    #[tokio::test]
    async fn each_listener_reports_its_own_vantage() {
        let sightings = Arc::new(Sightings::default());
        let host = HostWitnesses::open(sightings.clone()).await.unwrap();
        for (to, at) in [
            (format!("127.0.0.1:{}", host.loopback4), Vantage::HostLoopback4),
            (format!("127.0.0.1:{}", host.wildcard), Vantage::HostWildcard),
        ] {
            let nonce = fresh_nonce();
            let mut stream = TcpStream::connect(&to).await.unwrap();
            // Split, and never closed.
            let (one, other) = nonce.as_str().split_at(9);
            stream.write_all(one.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            stream.write_all(other.as_bytes()).await.unwrap();
            assert!(sightings.wait(&nonce, at, Duration::from_secs(5)).await, "{to}");
        }
        let nonce = fresh_nonce();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(nonce.as_str().as_bytes(), ("127.0.0.1", host.loopback4_udp))
            .await
            .unwrap();
        assert!(sightings.wait(&nonce, Vantage::HostUdp, Duration::from_secs(5)).await);
    }
}
