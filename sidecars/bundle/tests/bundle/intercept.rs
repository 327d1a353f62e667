//! The whole way of one request through both daemons: CONNECT, interception, injection of the token, a verified upstream.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// The upstream's name; only the name server of the test knows it.
const NAME: &str = "api.test";

/// A documentation address, which the bundle's rules take for a public one; here it is on the namespace's loopback.
const ORIGIN: &str = "198.51.100.10";

/// The name server.
const NAMES: &str = "198.51.100.10:53";

/// Answers questions for the address of any name; other kinds of questions have no answer.
fn answer_names(socket: &UdpSocket) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        // A header of 12 bytes, then the name in labels, then type and class.
        let mut end = 12;
        while end < length && question[end] != 0 {
            end += usize::from(question[end]) + 1;
        }
        let end = (end + 5).min(length);
        let is_address = question[end - 4..end] == [0, 1, 0, 1];
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
        reply.extend(&question[12..end]);
        if is_address {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 10]);
        }
        socket.send_to(&reply, from).unwrap();
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An origin's TLS configuration, and the authority that signed it.
fn origin() -> (ServerConfig, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(DnType::CommonName, "upstream authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![NAME.to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (config, ca_cert.pem())
}

/// Reads a head up to its empty line.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "ended in {:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
        assert!(head.len() < 16 * 1024, "a head has an end");
    }
    String::from_utf8(head).unwrap()
}

/// Answers one request with the head that it had.
fn serve(listener: &TcpListener, config: ServerConfig) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
    let seen = head(&mut stream);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{seen}",
        seen.len()
    )
    .unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

/// A guest that trusts only the bundle's authority asks through the socket; the answer.
fn ask(socket: &Path, ca_pem: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "CONNECT {NAME}:443 HTTP/1.1\r\nhost: {NAME}:443\r\n\r\n").unwrap();
    let answer = head(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    write!(
        stream,
        "GET /asked HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let answer = head(&mut stream);
    let length = answer
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")
                .map(str::to_owned)
        })
        .unwrap_or_else(|| panic!("a length in {answer}"));
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    format!("{answer}{}", String::from_utf8(body).unwrap())
}

#[test]
fn a_request_is_intercepted_and_gets_its_token_on_the_way_out() {
    let (tls, root) = origin();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("proxy.sock");
    let more = json!({
        "listen": [{ "unix": socket }],
        "policy": { "allow": [{ "host": NAME, "ports": [443] }] },
        "resolver": { "servers": [format!("{NAMES}")] },
        "routes": [{ "host": NAME, "port": 443, "auth": "bearer", "token": "T" }],
        "upstream_roots": [root],
        "public_roots": false,
    });
    let mut bundle = Bundle::start(&config(&["pipelock", "egress"], more));
    let ready = bundle.expect("ready");
    let (listener, names) = bundle.inside(|| {
        let added = Command::new("ip")
            .args(["addr", "add", &format!("{ORIGIN}/32"), "dev", "lo"])
            .status()
            .unwrap();
        assert!(added.success(), "{added}");
        (
            TcpListener::bind((ORIGIN, 443)).unwrap(),
            UdpSocket::bind(NAMES).unwrap(),
        )
    });
    thread::spawn(move || answer_names(&names));
    let answer = thread::scope(|scope| {
        scope.spawn(|| serve(&listener, tls));
        ask(&socket, ready["ca_pem"].as_str().unwrap())
    });
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("GET /asked HTTP/1.1"), "{answer}");
    let injected = format!("authorization: bearer {TOKEN}").to_ascii_lowercase();
    assert!(answer.to_ascii_lowercase().contains(&injected), "{answer}");
    let (status, errors, events) = bundle.terminate();
    assert_eq!(status, 0);
    assert!(!format!("{errors}{events}").contains(TOKEN));
}
