//! What three known-leaky bottles open: ports of the bundle, and the authority's key beside its certificate.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};

use super::{Bundle, config, tokens};

const DNS: u16 = 53;
const ADMIN: u16 = 9901;
const SHARED: u16 = 8889;
/// Where the stand-in for the name server is, inside the namespace.
const NAME_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 5300);

/// A bundle with its proxy on a UNIX socket, less this control.
fn without(control: &str, directory: &std::path::Path) -> Bundle {
    let more = json!({
        "listen": [{ "unix": directory.join("proxy.sock") }],
        "policy": { "allow": [{ "host": "198.51.100.7", "ports": [80] }] },
        "resolver": { "servers": ["127.0.0.1:5300"] },
        "limits": { "connect_ms": 500 },
        "removed": [control],
    });
    let mut bundle = Bundle::start(&config(&["pipelock", "egress"], more));
    bundle.expect("ready");
    bundle
}

/// Connects from another loopback address than the usual one, as a stranger would.
fn connect(port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let stranger = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&stranger, &SocketAddr::from((Ipv4Addr::new(127, 9, 9, 9), 0)))?;
    connect(&stranger, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let stream = TcpStream::from(stranger);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// One answer of a server that closes behind it.
fn ask(port: u16, target: &str) -> String {
    let mut stream = connect(port).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: 198.51.100.7\r\nx-bottle-nonce: n-9\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    // The admin port keeps its connections; the guest has said all.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Which of the three ports of known-leaky bottles are open.
fn open(bundle: &Bundle) -> Vec<u16> {
    bundle.inside(|| {
        let ports = [DNS, ADMIN, SHARED];
        ports.into_iter().filter(|port| connect(*port).is_ok()).collect()
    })
}

#[rstest::rstest]
#[case::dns("no-dns", &[DNS])]
#[case::admin("no-admin", &[ADMIN])]
#[case::shared("own-bottle", &[SHARED])]
#[case::key("key-in-memory", &[])]
fn each_opens_its_own_port_only(#[case] control: &str, #[case] ports: &[u16]) {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(open(&without(control, directory.path())), ports);
}

#[test]
fn the_admin_port_answers_control_routes_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut bundle = without("no-admin", directory.path());
    bundle.inside(|| {
        assert!(ask(ADMIN, "/__admin/ping?nonce=n-9").ends_with("\r\n\r\npong nonce=n-9\n"));
        assert!(ask(ADMIN, "/__admin/ca").contains("-----BEGIN CERTIFICATE-----"));
        assert!(!ask(ADMIN, "/__admin/ca").contains("KEY"));
        for other in ["/__admin/nothing", "/", "http://198.51.100.7/"] {
            assert!(ask(ADMIN, other).starts_with("HTTP/1.1 404 "), "{other}");
        }
    });
    let record = bundle.expect("decision");
    assert_eq!(
        (&record["rule"], &record["nonce"]),
        (&json!("admin"), &json!("n-9")),
        "{record}"
    );
}

#[test]
fn the_shared_port_serves_strangers_by_the_first_bottles_policy() {
    let directory = tempfile::tempdir().unwrap();
    let mut bundle = without("own-bottle", directory.path());
    let (allowed, denied) = bundle.inside(|| (ask(SHARED, "http://198.51.100.7/"), ask(SHARED, "http://203.0.113.9/")));
    // Allowed, and nowhere to go: the namespace has no route.
    assert!(allowed.contains("x-bottle-refusal: connect-failed"), "{allowed}");
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
    let rules: Vec<Value> = (0..3).map(|_| bundle.expect("decision")["rule"].take()).collect();
    assert!(rules.contains(&json!("connect-failed")), "{rules:?}");
}

#[test]
fn the_forwarder_passes_questions_on() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = without("no-dns", directory.path());
    bundle.inside(|| {
        let udp = UdpSocket::bind(NAME_SERVER).unwrap();
        let tcp = TcpListener::bind(NAME_SERVER).unwrap();
        thread::spawn(move || {
            let mut question = [0; 64];
            let (length, from) = udp.recv_from(&mut question).unwrap();
            udp.send_to(&[b"udp ", &question[..length]].concat(), from).unwrap();
            let (mut stream, from) = tcp.accept().unwrap();
            assert_eq!(from.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST), "asked by the bundle itself");
            let length = stream.read(&mut question).unwrap();
            stream.write_all(&[b"tcp ", &question[..length]].concat()).unwrap();
        });
        let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        guest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        guest.send_to(b"question", (Ipv4Addr::LOCALHOST, DNS)).unwrap();
        let mut answer = [0; 64];
        let length = guest.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"udp question");
        let mut guest = connect(DNS).unwrap();
        guest.write_all(b"question").unwrap();
        let mut answer = String::new();
        guest.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "tcp question");
    });
}

#[test]
fn the_key_lies_beside_the_certificate() {
    for control in ["key-in-memory", "no-admin"] {
        let directory = tempfile::tempdir().unwrap();
        let publish = directory.path().join("shared");
        let more = json!({ "publish": publish, "removed": [control] });
        let mut bundle = Bundle::told(&[&config(&[], more).to_string(), &tokens().to_string()]);
        let event = bundle.event();
        if event["event"] == "failed" {
            // Built alone, without the guest's init.
            assert!(
                event["reason"].as_str().unwrap().contains("cargo xtask build"),
                "{event}"
            );
            return;
        }
        let key = fs::read_to_string(publish.join("ca.key")).ok();
        assert_eq!(key.is_some(), control == "key-in-memory");
        if let Some(key) = key {
            assert!(key.contains("-----BEGIN PRIVATE KEY-----"));
            // The key of this very certificate.
            let authority = bottle_wire::Authority::from_secret_pem("t-1", &key).unwrap();
            assert_eq!(authority.certificate_pem(), event["ca_pem"].as_str().unwrap());
        }
        assert_eq!(bundle.terminate().0, 0);
    }
}
