use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, CNAME};
use tokio::net::TcpListener;

use super::*;

const GOOD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn host(text: &str) -> Name {
    match bottle_policy::Host::from_wire(text.as_bytes()).unwrap() {
        bottle_policy::Host::Name(name) => name,
        bottle_policy::Host::Addr(_) => panic!("a name"),
    }
}

/// What the stand-in server says to a question, given the blank answer.
fn answer(question: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
    let asked = Message::from_vec(question).unwrap();
    let name = asked.queries[0].name().clone();
    let mut blank = Message::response(asked.metadata.id, OpCode::Query);
    blank.add_query(asked.queries[0].clone());
    let is_a = asked.queries[0].query_type() == RecordType::A;
    let a = |name: &DnsName, ttl, ip| Record::from_rdata(name.clone(), ttl, RData::A(A(ip)));
    let label = name.to_ascii();
    let mut packets = Vec::new();
    match label.split('.').next().unwrap() {
        "plain" if is_a => drop(blank.add_answer(a(&name, 60, GOOD)).clone()),
        "zero" if is_a => drop(blank.add_answer(a(&name, 0, GOOD)).clone()),
        "alias" if is_a => {
            let end = DnsName::from_ascii("end.test.").unwrap();
            blank.add_answer(Record::from_rdata(name.clone(), 60, RData::CNAME(CNAME(end.clone()))));
            blank.add_answer(a(&end, 60, GOOD));
            blank.add_answer(a(&DnsName::from_ascii("other.test.").unwrap(), 60, Ipv4Addr::LOCALHOST));
        }
        "loop" if is_a => {
            blank.add_answer(Record::from_rdata(name.clone(), 60, RData::CNAME(CNAME(name.clone()))));
        }
        "forged" if is_a => {
            let mut forged = blank.clone();
            forged.metadata.id ^= 1;
            forged.add_answer(a(&name, 60, Ipv4Addr::LOCALHOST));
            packets.push(forged.to_vec().unwrap());
            packets.push(vec![1, 2, 3]);
            blank.add_answer(a(&name, 60, GOOD));
        }
        "long" if is_a && !over_tcp => blank.metadata.truncation = true,
        "long" if is_a => drop(blank.add_answer(a(&name, 60, GOOD)).clone()),
        "gone" => blank.metadata.response_code = ResponseCode::NXDomain,
        "broken" => blank.metadata.response_code = ResponseCode::ServFail,
        _ => {}
    }
    packets.push(blank.to_vec().unwrap());
    packets
}

/// Both protocols on one port: somebody may have the one that was free for the other.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("expected a port of 127.0.0.1 that is free for UDP and TCP, found none of a hundred")
}

async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = bind().await;
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0u8; 512];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            counter.fetch_add(1, Ordering::Relaxed);
            for packet in answer(&buffer[..length], false) {
                udp.send_to(&packet, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await.unwrap();
            for packet in answer(&question, true) {
                // One byte a write.
                for byte in (packet.len() as u16).to_be_bytes().into_iter().chain(packet) {
                    stream.write_all(&[byte]).await.unwrap();
                }
            }
        }
    });
    (address, asked)
}

async fn resolver() -> (Resolver, Arc<AtomicUsize>) {
    let (address, asked) = server().await;
    let config = bottle_policy::Resolver::Servers(vec![address]);
    (Resolver::new(&config, Duration::from_secs(8)).unwrap(), asked)
}

#[tokio::test]
async fn answers() {
    let (resolver, _) = resolver().await;
    for name in ["plain.test", "zero.test", "alias.test", "forged.test", "long.test"] {
        let answer = resolver
            .lookup(&host(name))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(*answer.addresses, [IpAddr::V4(GOOD)], "{name}");
    }
    for name in ["gone.test", "empty.test", "loop.test"] {
        assert_eq!(
            resolver.lookup(&host(name)).await,
            Err(ResolveError::NoAddress),
            "{name}"
        );
    }
    assert_eq!(resolver.lookup(&host("broken.test")).await, Err(ResolveError::NoAnswer));
}

#[tokio::test]
async fn a_ttl_of_zero_is_not_kept() {
    let (resolver, asked) = resolver().await;
    for (name, questions) in [("plain.test", 2), ("zero.test", 6)] {
        let before = asked.load(Ordering::Relaxed);
        for _ in 0..3 {
            resolver.lookup(&host(name)).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed) - before, questions, "{name}");
    }
}

#[tokio::test]
async fn a_deaf_server_costs_a_bounded_time() {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = bottle_policy::Resolver::Servers(vec![udp.local_addr().unwrap()]);
    let resolver = Resolver::new(&config, Duration::from_millis(200)).unwrap();
    let before = Instant::now();
    assert_eq!(resolver.lookup(&host("plain.test")).await, Err(ResolveError::NoAnswer));
    assert!(before.elapsed() < Duration::from_secs(2));
}

#[test]
fn resolv_conf() {
    let text =
        "# a\nsearch example.test\nnameserver 127.0.0.11\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\noptions x";
    let servers = name_servers(text);
    assert_eq!(
        servers,
        ["127.0.0.11:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]
    );
}
