//! Actions `Tcp`, `Udp` and `Icmp`: the plain ways out.
//!
//! A connect that is refused, unreachable or lost, and a socket that the guest may not even create, are attempts: the guest
//! did what an escaping program would do. The trace has the errno.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use probe_spec::ADVERTISED;
use socket2::{Domain, Protocol, Socket, Type};

use crate::notes::{Done, NotIssued, Run, errno};
use crate::{resolve, wire};

/// How long an answer is waited for, and how much of it is read.
const TCP_ANSWER: Duration = Duration::from_millis(500);
const DATAGRAM_ANSWER: Duration = Duration::from_millis(200);
const ANSWER_BYTES: usize = 4 << 10;
/// How long an address is waited for that a router advertises: the kernel tries its own address of the link for up to two seconds,
/// asks for a router within another, and tries what it was advertised for up to two (RFC 4861, 10; RFC 4862, 5.1).
const ADVERTISED_WITHIN: Duration = Duration::from_secs(6);
/// Pause between the two sendings of a datagram.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(20);
/// Largest datagram (65,535 less the IPv4 and UDP headers).
const DATAGRAM_BYTES: usize = 65_507;

/// Action `Tcp`.
pub fn tcp(run: &Run, to: &str, send: &str, from: Option<&str>) -> Done {
    let bytes = run.words.bytes(send)?;
    let from = match from {
        Some(ADVERTISED) => match advertised(run) {
            Some(address) => Some(address),
            None => return Ok(()),
        },
        from => from.map(|from| source(run, from)).transpose()?,
    };
    for address in resolve::addresses(run, &run.words.text(to)?)? {
        match wire::connect(run, address, from) {
            Err(error) => run.trace(format!("connect {address}: {}", errno(&error))),
            Ok(mut stream) => {
                match stream.write_all(&bytes).and_then(|()| stream.flush()) {
                    Err(error) => run.trace(format!("connect {address}: done; send: {}", errno(&error))),
                    Ok(()) => {
                        run.trace(format!("connect {address}: done; sent {} bytes", bytes.len()));
                        let answer = wire::read_for(run, &mut *stream, TCP_ANSWER, ANSWER_BYTES);
                        run.trace(outcome("read", answer.map(|answer| wire::excerpt(&answer))));
                    }
                }
                break;
            }
        }
    }
    Ok(())
}

fn source(run: &Run, from: &str) -> Result<IpAddr, NotIssued> {
    let from = run.words.text(from)?;
    from.parse()
        .map_err(|_| NotIssued::Unfit(format!("expected a source address, found `{from}`")))
}

/// An address that a router advertised, once there is one. Where none comes there is nothing to send from: that was the attempt.
fn advertised(run: &Run) -> Option<IpAddr> {
    let end = Instant::now() + run.within(ADVERTISED_WITHIN);
    loop {
        let interfaces = std::fs::read_to_string("/proc/net/if_inet6");
        let found = interfaces
            .as_deref()
            .unwrap_or_default()
            .lines()
            .find_map(advertised_in);
        if let Some(address) = found {
            run.trace(format!("a router advertised {address}"));
            return Some(address.into());
        }
        // Who has no address of a link can take none that is advertised there.
        let is_alone = has_only_loopback(interfaces.as_deref().unwrap_or_default());
        if is_alone || Instant::now() >= end {
            let addresses = outcome("addresses", interfaces.map(|text| text.trim().to_owned()));
            run.trace(format!("no router advertised an address; {addresses}"));
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The address in a line of `/proc/net/if_inet6` (address, index, prefix length, scope, flags, name), when it is of global
/// scope, was not set by hand (`IFA_F_PERMANENT`), and nobody else on the link has it (`IFA_F_TENTATIVE`).
fn advertised_in(line: &str) -> Option<std::net::Ipv6Addr> {
    let mut fields = line.split_ascii_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let number = |field: &str| u8::from_str_radix(field, 16).ok();
    let (scope, flags) = (number(fields.nth(2)?)?, number(fields.next()?)?);
    (scope == 0 && flags & (0x80 | 0x40) == 0).then(|| address.into())
}

/// Whether `/proc/net/if_inet6` lists no interface that leads anywhere.
fn has_only_loopback(text: &str) -> bool {
    let mut names = text.lines().filter_map(|line| line.split_ascii_whitespace().last());
    names.all(|name| name == "lo")
}

/// Action `Udp`.
pub fn udp(run: &Run, to: &str, send: &str, pad_to: Option<usize>) -> Done {
    let mut bytes = run.words.bytes(send)?;
    if let Some(length) = pad_to {
        bytes.resize(length.clamp(bytes.len(), DATAGRAM_BYTES), b'.');
    }
    for address in resolve::addresses(run, &run.words.text(to)?)? {
        let socket = match Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)) {
            Ok(socket) => socket,
            Err(error) => {
                run.trace(format!("udp socket for {address}: {}", errno(&error)));
                continue;
            }
        };
        if address.is_ipv4() {
            // Refusing this leaves sending to fail with EACCES, which the trace then shows.
            run.trace(outcome("SO_BROADCAST", socket.set_broadcast(true)));
        }
        exchange(run, &socket, address, &bytes, 2);
    }
    Ok(())
}

/// Action `Icmp`.
pub fn icmp(run: &Run, to: &str, raw: bool, send: &str, answer_is_finding: bool) -> Done {
    let to = run.words.text(to)?;
    // A port is only needed by the parser of targets.
    let target = if to.contains(':') && !to.starts_with('[') {
        format!("[{to}]:0")
    } else {
        format!("{to}:0")
    };
    let payload = run.words.bytes(send)?;
    for address in resolve::addresses(run, &target)? {
        let protocol = if address.is_ipv4() {
            Protocol::ICMPV4
        } else {
            Protocol::ICMPV6
        };
        let kind = if raw { Type::RAW } else { Type::DGRAM };
        match Socket::new(Domain::for_address(address), kind, Some(protocol)) {
            Err(error) => run.trace(format!("icmp socket ({kind:?}) for {address}: {}", errno(&error))),
            Ok(socket) => {
                let answers = exchange(run, &socket, address, &echo_request(address.ip(), &payload), 1);
                if answer_is_finding
                    && answers
                        .iter()
                        .any(|answer| is_echo_reply(answer, raw, address.ip(), &payload))
                {
                    run.notes.finding(format!("{} answers an echo request", address.ip()));
                }
            }
        }
    }
    Ok(())
}

/// Echo request (RFC 792, RFC 4443). The kernel computes ICMPv6's checksum, which covers addresses.
fn echo_request(to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0, 0x62, 0x70, 0, 1];
    message.extend_from_slice(payload);
    if to.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether a received message is the reply to our request. Raw IPv4 sockets give the IP header too, and on loopback they
/// also give the request itself.
fn is_echo_reply(message: &[u8], raw: bool, from: IpAddr, payload: &[u8]) -> bool {
    let header = if raw && from.is_ipv4() {
        message.first().map_or(0, |first| usize::from(first & 15) * 4)
    } else {
        0
    };
    let reply = if from.is_ipv4() { 0 } else { 129 };
    message.get(header) == Some(&reply) && message.ends_with(payload)
}

/// Sends a datagram some times and collects what comes back.
fn exchange(run: &Run, socket: &Socket, to: SocketAddr, bytes: &[u8], times: u32) -> Vec<Vec<u8>> {
    for round in 0..times {
        if round > 0 {
            run.pause(DATAGRAM_PAUSE);
        }
        run.trace(outcome(&format!("send to {to}"), socket.send_to(bytes, &to.into())));
    }
    let end = Instant::now() + run.within(DATAGRAM_ANSWER);
    let mut answers = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || answers.len() == 8 {
            return answers;
        }
        let mut answer = [0; ANSWER_BYTES];
        let ready = wire::await_datagram(socket, left).and_then(|()| socket.set_read_timeout(Some(left)));
        match ready.and_then(|()| (&*socket).read(&mut answer)) {
            Ok(length) => {
                run.trace(format!("received {length} bytes"));
                answers.push(answer[..length].to_vec());
            }
            Err(error) => {
                run.trace(format!("receive: {}", errno(&error)));
                return answers;
            }
        }
    }
}

/// A call and its result.
fn outcome<T: std::fmt::Debug>(call: &str, result: io::Result<T>) -> String {
    match result {
        Ok(value) => format!("{call}: {value:?}"),
        Err(error) => format!("{call}: {}", errno(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

    #[test]
    fn tcp_delivers_and_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let serving = std::thread::spawn(move || {
            let (mut peer, from) = listener.accept().expect("accepts");
            let mut got = [0; 28];
            peer.read_exact(&mut got).expect("reads");
            peer.write_all(b"hello").expect("writes");
            (got, from.ip())
        });
        let run = run(5000);
        tcp(&run, &format!("127.0.0.1:{port}"), "{nonce}", Some("127.0.0.9")).expect("is issued");
        let (got, from) = serving.join().expect("serves");
        assert_eq!(got, run.words.nonce.as_str().as_bytes());
        assert_eq!(from.to_string(), "127.0.0.9");
        assert!(run.notes.content().trace.iter().any(|line| line.contains("hello")));
    }

    #[test]
    fn a_refused_connection_is_an_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let to = listener.local_addr().expect("has an address").to_string();
        drop(listener);
        let run = run(5000);
        tcp(&run, &to, "{nonce}", None).expect("is issued");
        assert!(run.notes.content().trace[0].ends_with("ECONNREFUSED"));
        assert!(tcp(&run, "nowhere", "{nonce}", None).is_err());
        assert!(tcp(&run, &to, "{b64:", None).is_err());
    }

    #[test]
    fn udp_sends_twice_and_pads() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
        peer.set_read_timeout(Some(Duration::from_secs(2))).expect("sets");
        let run = run(5000);
        udp(
            &run,
            &peer.local_addr().expect("has one").to_string(),
            "{nonce}",
            Some(3000),
        )
        .expect("is issued");
        let mut got = [0; 4096];
        for _ in 0..2 {
            assert_eq!(peer.recv(&mut got).expect("arrives"), 3000);
            assert!(got.starts_with(run.words.nonce.as_str().as_bytes()));
        }
    }

    #[test]
    fn echo_requests_have_a_valid_checksum() {
        let message = echo_request(Ipv4Addr::LOCALHOST.into(), b"odd");
        assert_eq!(checksum(&message), 0);
        assert_eq!(echo_request(Ipv6Addr::LOCALHOST.into(), b"x")[..4], [128, 0, 0, 0]);
        let run = run(2000);
        icmp(&run, "127.0.0.1", true, "{nonce}", false).expect("is issued");
        icmp(&run, "::1", false, "{nonce}", false).expect("is issued");
        assert!(run.notes.content().findings.is_empty());
        assert!(is_echo_reply(b"\0\0abc", false, Ipv4Addr::LOCALHOST.into(), b"abc"));
        assert!(!is_echo_reply(b"\x08\0abc", false, Ipv4Addr::LOCALHOST.into(), b"abc"));
    }

    #[rstest::rstest]
    #[case::advertised("20010db800ad00000000000000000007 02 40 00 20     eth0", Some("2001:db8:ad::7"))]
    #[case::set_by_hand("20010db800ad00000000000000000007 02 40 00 80     eth0", None)]
    #[case::not_tried_yet("20010db800ad00000000000000000007 02 40 00 60     eth0", None)]
    #[case::of_the_link_alone("fe800000000000000000000000000007 02 40 20 00     eth0", None)]
    #[case::loopback("00000000000000000000000000000001 01 80 10 80       lo", None)]
    #[case::cut_off("20010db800ad0000", None)]
    #[case::empty("", None)]
    fn an_advertised_address_is_told_from_others(#[case] line: &str, #[case] expected: Option<&str>) {
        let expected: Option<std::net::Ipv6Addr> = expected.map(|text| text.parse().expect("is an address"));
        assert_eq!(advertised_in(line), expected);
    }

    #[rstest::rstest]
    #[case("", true)]
    #[case("00000000000000000000000000000001 01 80 10 80       lo\n", true)]
    #[case(
        "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000000000000000000007 02 40 20 40     eth0\n",
        false
    )]
    fn interfaces_that_lead_somewhere_are_told(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(has_only_loopback(text), expected);
    }
}
