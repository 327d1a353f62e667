//! Questions to name servers: over UDP and TCP (RFC 1035, RFC 7766), TLS (RFC 7858) and HTTPS (RFC 8484).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use probe_spec::DnsTransport;

use crate::notes::{Done, NotIssued, Run, errno};
use crate::resolve::{self, ResolvConf};
use crate::tls::{self, Hello};
use crate::wire::{self, Stream};

/// How long one server is waited for.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// How long a whole look-up may take.
const LOOK_UP_TIME: Duration = Duration::from_secs(5);
/// Longest name on the wire (RFC 1035, 2.3.4).
const NAME_BYTES: usize = 255;

/// Action `Dns`.
pub fn ask(run: &Run, server: &str, transport: DnsTransport, name: &str, qtype: u16, answer_is_finding: bool) -> Done {
    let name = run.words.text(name)?;
    let query = question(query_id(), &name, qtype).ok_or_else(|| {
        NotIssued::Unfit(format!(
            "`{name}` is no name of RFC 1035: a label has more than 63 bytes, or all 255"
        ))
    })?;
    let servers = match server {
        "resolv.conf" => with_port(ResolvConf::read().servers, transport),
        other => resolve::addresses(run, &run.words.text(other)?)?,
    };
    for server in servers {
        let answer = match transport {
            DnsTransport::Udp => over_udp(run, server, &query),
            DnsTransport::Tcp => connect(run, server).and_then(|mut stream| over_stream(&mut *stream, &query)),
            DnsTransport::Tls => over_tls(run, server, &query)?,
            DnsTransport::Https => over_https(run, server, &query)?,
        };
        match answer {
            Ok(answer) => {
                run.trace(format!("{transport:?} {server}: {}", describe(&answer)));
                if answer_is_finding && answer.len() >= 12 && answer[6..8] != [0, 0] {
                    run.notes
                        .finding(format!("name server {server} answers: {}", describe(&answer)));
                }
            }
            Err(error) => run.trace(format!("{transport:?} {server}: {}", errno(&error))),
        }
    }
    Ok(())
}

/// Addresses of `name` by UDP; empty when no server knows any.
pub fn addresses(run: &Run, servers: &[SocketAddr], name: &str) -> Vec<IpAddr> {
    let start = Instant::now();
    let mut found = Vec::new();
    for server in servers {
        for qtype in [1, 28] {
            if run.is_over() || start.elapsed() > LOOK_UP_TIME {
                return found;
            }
            let Some(query) = question(query_id(), name, qtype) else {
                run.trace(format!("{name}: too long to ask for"));
                return found;
            };
            match over_udp(run, *server, &query) {
                Ok(answer) => {
                    run.trace(format!("{name} type {qtype} at {server}: {}", describe(&answer)));
                    found.extend(addresses_in(&answer));
                }
                Err(error) => run.trace(format!("{name} type {qtype} at {server}: {}", errno(&error))),
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    found
}

/// The servers at the transport's own port.
fn with_port(mut servers: Vec<SocketAddr>, transport: DnsTransport) -> Vec<SocketAddr> {
    let port = match transport {
        DnsTransport::Udp | DnsTransport::Tcp => 53,
        DnsTransport::Tls => 853,
        DnsTransport::Https => 443,
    };
    servers.iter_mut().for_each(|server| server.set_port(port));
    servers
}

/// A message with one question, recursion desired. None when the name does not fit RFC 1035.
pub fn question(id: u16, name: &str, qtype: u16) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(300);
    message.extend(id.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let start = message.len();
    for label in name
        .trim_end_matches('.')
        .split('.')
        .filter(|_| name != "." && !name.is_empty())
    {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    if message.len() - start > NAME_BYTES {
        return None;
    }
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    Some(message)
}

/// Query ids only tell answers apart here: nothing is trusted because of them.
fn query_id() -> u16 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.subsec_nanos() as u16)
}

fn over_udp(run: &Run, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    if server.ip().is_loopback() {
        // Connecting makes the refusal of a port at which nobody answers visible.
        socket.connect(server)?;
    }
    // Else not: a machine's stack may carry datagrams of unconnected sockets alone (smolvm 1.32.2, TSI).
    socket.send_to(query, server)?;
    let end = Instant::now() + run.within(ANSWER_TIME);
    loop {
        let left = run.within(end.saturating_duration_since(Instant::now()));
        wire::await_datagram(&socket, left)?;
        socket.set_read_timeout(Some(left))?;
        let mut answer = vec![0; 4096];
        let (length, from) = socket.recv_from(&mut answer)?;
        if from == server {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

fn connect(run: &Run, server: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = wire::connect(run, server, None)?;
    stream.set_read_timeout(run.within(Duration::from_secs(1)))?;
    Ok(stream)
}

/// One question and its answer, each after its length (RFC 1035, 4.2.2).
fn over_stream(stream: &mut dyn Stream, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed)?;
    stream.flush()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn over_tls(run: &Run, server: SocketAddr, query: &[u8]) -> Result<io::Result<Vec<u8>>, NotIssued> {
    let stream = match connect(run, server) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    Ok(
        match tls::start(
            run,
            stream,
            &Hello {
                sni: None,
                alpn: &[],
                split: None,
            },
        )? {
            Ok(mut stream) => over_stream(&mut *stream, query),
            Err(error) => Err(error),
        },
    )
}

fn over_https(run: &Run, server: SocketAddr, query: &[u8]) -> Result<io::Result<Vec<u8>>, NotIssued> {
    let stream = match connect(run, server) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    let mut stream = match tls::start(
        run,
        stream,
        &Hello {
            sni: None,
            alpn: &["http/1.1".to_owned()],
            split: None,
        },
    )? {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/dns-message\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        query.len()
    );
    Ok((|| {
        stream.write_all(&[head.as_bytes(), query].concat())?;
        stream.flush()?;
        let mut reply = Vec::new();
        match (&mut *stream).take(64 << 10).read_to_end(&mut reply) {
            Err(error) if reply.is_empty() => return Err(error),
            _ => {}
        }
        let body = reply
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map_or(0, |at| at + 4);
        Ok(reply.split_off(body))
    })())
}

/// Response code and number of answers, for the trace.
fn describe(answer: &[u8]) -> String {
    match answer {
        [_, _, _, flags, _, _, high, low, ..] if answer.len() >= 12 => {
            format!("rcode {}, {} answers", flags & 15, u16::from_be_bytes([*high, *low]))
        }
        _ => format!("{} bytes that are no DNS message", answer.len()),
    }
}

/// Addresses in the answer section.
fn addresses_in(message: &[u8]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let count = |at: usize| {
        message
            .get(at..at + 2)
            .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let mut at = 12;
    for _ in 0..count(4) {
        match after_name(message, at) {
            Some(end) => at = end + 4,
            None => return found,
        }
    }
    for _ in 0..count(6) {
        let Some(end) = after_name(message, at) else {
            return found;
        };
        let length = usize::from(count(end + 8));
        match (count(end), message.get(end + 10..end + 10 + length)) {
            (1, Some(&[a, b, c, d])) => found.push(Ipv4Addr::new(a, b, c, d).into()),
            (28, Some(bytes)) => {
                found.extend(<[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes))))
            }
            _ => {}
        }
        at = end + 10 + length;
    }
    found
}

/// Where a name ends that begins at `at`.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_those_of_rfc_1035() {
        let message = question(0x1234, "Ab.test.", 16).expect("fits");
        assert_eq!(
            message,
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02Ab\x04test\x00\x00\x10\x00\x01"
        );
        assert_eq!(question(0, ".", 2).expect("fits").len(), 12 + 1 + 4);
        assert!(question(0, &"a".repeat(64), 1).is_none());
        assert!(question(0, "a..b", 1).is_none());
        assert!(question(0, &["a"; 128].join("."), 1).is_none());
        assert!(question(0, &["a"; 127].join("."), 1).is_some());
    }

    #[test]
    fn a_look_up_takes_both_families_from_a_server() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let address = server.local_addr().expect("has an address");
        let serving = std::thread::spawn(move || {
            for _ in 0..2 {
                let mut query = [0; 512];
                let (length, from) = server.recv_from(&mut query).expect("is asked");
                let mut answer = query[..length].to_vec();
                answer[2] = 0x81;
                answer[7] = 1;
                let qtype = answer[length - 3];
                answer.extend([0xc0, 12, 0, qtype, 0, 1, 0, 0, 0, 0]);
                if qtype == 1 {
                    answer.extend([0, 4, 198, 51, 100, 7]);
                } else {
                    answer.extend([0, 16]);
                    answer.extend("2001:db8::7".parse::<Ipv6Addr>().expect("parses").octets());
                }
                server.send_to(&answer, from).expect("answers");
            }
        });
        let found = addresses(&crate::notes::tests::run(5000), &[address], "x.test");
        serving.join().expect("serves");
        assert_eq!(
            found,
            [
                "198.51.100.7".parse::<IpAddr>().expect("v4"),
                "2001:db8::7".parse().expect("v6")
            ]
        );
    }

    #[test]
    fn hostile_answers_are_harmless() {
        for length in 0..64 {
            let _ = addresses_in(&vec![0xff; length]);
            let _ = describe(&vec![0xff; length]);
        }
    }
}
