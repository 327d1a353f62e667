//! Action `Listen`, and `bottle-probe listen`: a peer's guest as a witness of nonces that arrive by TCP, UDP or ICMP.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use probe_spec::{Nonce, Sighting, Vantage};
use socket2::{Domain, Protocol, Socket, Type};

use crate::list;
use crate::notes::{Done, NotIssued, Run, errno};

/// What is read of one TCP connection, and for how long.
const CONNECTION_BYTES: usize = 64 << 10;
const CONNECTION_TIME: Duration = Duration::from_secs(5);
/// TCP connections at a time; more are closed unread.
const CONNECTIONS: usize = 256;
/// Longest pause of a listener that looks whether the case is over.
const TICK: Duration = Duration::from_millis(200);

/// `bottle-probe listen --ports .. [--addresses ..]`.
pub fn main(args: &[String]) -> ExitCode {
    let (mut ports, mut addresses) = (Vec::new(), Vec::new());
    let mut words = args.iter();
    while let Some(flag) = words.next() {
        let value = words.next().map(String::as_str).unwrap_or_default();
        let parts = value.split(',').filter(|part| !part.is_empty());
        match flag.as_str() {
            "--ports" => match parts.map(str::parse).collect::<Result<Vec<u16>, _>>() {
                Ok(more) => ports.extend(more),
                Err(_) => return usage(),
            },
            "--addresses" => addresses.extend(parts.map(str::to_owned)),
            _ => return usage(),
        }
    }
    let Some((sockets, notes)) = parse(&addresses).map(|addresses| open(&ports, &addresses)) else {
        return usage();
    };
    notes.iter().for_each(|note| eprintln!("bottle-probe: {note}"));
    if ports.is_empty() || sockets.is_empty() {
        return usage();
    }
    serve(sockets, None);
    crate::wait::main()
}

fn usage() -> ExitCode {
    eprintln!(
        "bottle-probe: expected `listen --ports PORT[,PORT..] [--addresses ADDRESS[,ADDRESS..]]`, and a port that is free"
    );
    ExitCode::from(64)
}

/// Listens until just before the case is cut off.
pub fn listen(run: &Run, ports: &[u16], addresses: &[String]) -> Done {
    let addresses = addresses
        .iter()
        .map(|address| run.words.text(address))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses = parse(&addresses).ok_or_else(|| NotIssued::Unfit("expected addresses to listen on".to_owned()))?;
    let (sockets, notes) = open(ports, &addresses);
    notes.iter().for_each(|note| run.trace(note));
    if sockets.is_empty() {
        return Err(NotIssued::Agent("nothing to listen on".to_owned()));
    }
    let end = run.deadline - TICK.min(run.within(Duration::MAX) / 2);
    serve(sockets, Some(end));
    thread::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

fn parse(addresses: &[String]) -> Option<Vec<IpAddr>> {
    match addresses {
        [] => Some(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]),
        some => some.iter().map(|address| address.parse().ok()).collect(),
    }
}

enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Icmp(Socket, bool),
}

/// Opens what can be opened, and says what cannot.
fn open(ports: &[u16], addresses: &[IpAddr]) -> (Vec<Listening>, Vec<String>) {
    let (mut sockets, mut notes) = (Vec::new(), Vec::new());
    let mut keep = |what: String, opened: io::Result<Listening>| match opened {
        Ok(socket) => sockets.push(socket),
        Err(error) => notes.push(format!("{what}: {}", errno(&error))),
    };
    for address in addresses {
        for port in ports {
            let at = SocketAddr::new(*address, *port);
            let tcp =
                bound(at, Type::STREAM).and_then(|socket| socket.listen(128).map(|()| Listening::Tcp(socket.into())));
            keep(format!("tcp {at}"), tcp);
            keep(
                format!("udp {at}"),
                bound(at, Type::DGRAM).map(|socket| Listening::Udp(socket.into())),
            );
        }
    }
    // Echo requests arrive at raw sockets only, for which most guests lack the capability.
    for (domain, protocol, v4) in [
        (Domain::IPV4, Protocol::ICMPV4, true),
        (Domain::IPV6, Protocol::ICMPV6, false),
    ] {
        keep(
            format!("icmp {domain:?}"),
            Socket::new(domain, Type::RAW, Some(protocol)).map(|s| Listening::Icmp(s, v4)),
        );
    }
    (sockets, notes)
}

fn bound(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// A thread for each socket, until `end`.
fn serve(sockets: Vec<Listening>, end: Option<Instant>) {
    let start = Instant::now();
    let connections = Arc::new(AtomicUsize::new(0));
    for socket in sockets {
        let connections = connections.clone();
        // Without a thread a socket stays deaf; its liveness proof will be missing then.
        let _ = thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || match socket {
                Listening::Tcp(listener) => accept(&listener, start, end, &connections),
                Listening::Udp(socket) => datagrams(&socket, start, end),
                Listening::Icmp(socket, v4) => echoes(&socket, v4, start, end),
            });
    }
}

fn is_over(end: Option<Instant>) -> bool {
    end.is_some_and(|end| Instant::now() >= end)
}

fn accept(listener: &TcpListener, start: Instant, end: Option<Instant>, connections: &Arc<AtomicUsize>) {
    if listener.set_nonblocking(end.is_some()).is_err() {
        return;
    }
    while !is_over(end) {
        match listener.accept() {
            Ok((stream, from)) => {
                if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                    connections.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let counted = connections.clone();
                let spawned = thread::Builder::new().stack_size(256 << 10).spawn(move || {
                    connection(stream, from, start);
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
                if spawned.is_err() {
                    connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn connection(mut stream: TcpStream, from: SocketAddr, start: Instant) {
    let to = stream.local_addr().map(|to| to.to_string()).unwrap_or_default();
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(CONNECTION_TIME)).is_err() {
        return;
    }
    let (mut got, mut piece) = (Vec::new(), [0; 4096]);
    let mut told = 0;
    while got.len() < CONNECTION_BYTES {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(length) => got.extend_from_slice(&piece[..length]),
        }
        let nonces = Nonce::find_all(&got);
        if nonces.len() > told {
            told = nonces.len();
            tell(&got, &from.to_string(), &to, "tcp", start);
        }
        // Whoever asks shall see that somebody is there.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
}

fn datagrams(socket: &UdpSocket, start: Instant, end: Option<Instant>) {
    let to = socket.local_addr().map(|to| to.to_string()).unwrap_or_default();
    if socket.set_read_timeout(end.map(|_| TICK)).is_err() {
        return;
    }
    let mut got = vec![0; 65_535];
    while !is_over(end) {
        if let Ok((length, from)) = socket.recv_from(&mut got) {
            tell(&got[..length], &from.to_string(), &to, "udp", start);
        }
    }
}

fn echoes(mut socket: &Socket, v4: bool, start: Instant, end: Option<Instant>) {
    if socket.set_read_timeout(end.map(|_| TICK)).is_err() {
        return;
    }
    let mut got = vec![0; 65_535];
    while !is_over(end) {
        let Ok(length) = socket.read(&mut got) else { continue };
        let message = &got[..length];
        // The address of an IPv4 sender is in the header; raw IPv6 sockets give none with a plain read.
        let (kind, from) = match message {
            [first, ..] if v4 && length >= 20 => {
                let from = Ipv4Addr::new(message[12], message[13], message[14], message[15]);
                (message.get(usize::from(first & 15) * 4), from.to_string())
            }
            _ => (message.first(), "an IPv6 address".to_owned()),
        };
        if kind == Some(&if v4 { 8 } else { 128 }) {
            tell(message, &from, "this guest", "icmp echo request", start);
        }
    }
}

/// Prints a sighting if there is a nonce. Without a reader there is nobody to tell: the runner sees the listener's end.
fn tell(bytes: &[u8], from: &str, to: &str, what: &str, start: Instant) {
    let nonces = Nonce::find_all(bytes);
    if !nonces.is_empty() {
        let at_ms = start.elapsed().as_millis() as u64;
        let sighting = Sighting {
            at: Vantage::PeerGuest,
            nonces,
            from: from.to_owned(),
            to: to.to_owned(),
            what: what.to_owned(),
            at_ms,
        };
        if list::write_line(&sighting).is_err() {
            std::process::exit(74);
        }
    }
}
