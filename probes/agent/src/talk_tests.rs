use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::notes::tests::run;

/// Serves one connection; returns its address and what `serve` makes of it.
fn serving<T: Send + 'static>(
    serve: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("has an address").to_string();
    (
        address,
        std::thread::spawn(move || serve(listener.accept().expect("accepts").0)),
    )
}

fn head(stream: &mut impl io::Read) -> String {
    let mut head = String::new();
    let mut reader = BufReader::with_capacity(1, stream);
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("reads") > 0);
    }
    head
}

fn send(text: &str) -> Step {
    Step::Send { text: text.to_owned() }
}

#[test]
fn a_tunnel_with_tls_in_pieces_carries_the_nonce() {
    let (address, served) = serving(|mut stream| {
        let connect = head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("answers");
        let key = rcgen::generate_simple_self_signed(vec!["allowed.test".to_owned()]).expect("mints");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("has versions")
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .expect("takes the certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).expect("starts"), stream);
        let request = head(&mut tls);
        let sni = tls.conn.server_name().map(str::to_owned);
        tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("answers");
        tls.flush().expect("flushes");
        (connect, request, sni)
    });
    let run = run(20_000);
    let steps = [
        send("CONNECT allowed.test:443 HTTP/1.1\r\n\r\n"),
        Step::Success,
        Step::Tls {
            sni: Some("Allowed.test".to_owned()),
            alpn: vec!["http/1.1".to_owned()],
            split: Some(64),
        },
        send("GET /{nonce} HTTP/1.1\r\n\r\n"),
        Step::Success,
    ];
    talk(&run, &address, &steps).expect("is issued");
    let (connect, request, sni) = served.join().expect("serves");
    assert!(connect.starts_with("CONNECT allowed.test:443"));
    assert!(request.contains(run.words.nonce.as_str()));
    assert_eq!(
        sni.as_deref().map(str::to_ascii_lowercase).as_deref(),
        Some("allowed.test")
    );
    let trace = run.notes.content().trace.join("\n");
    assert!(
        trace.contains("204") && trace.contains("allowed.test") && trace.contains("alpn http/1.1"),
        "{trace}"
    );
}

#[test]
fn a_refusal_is_an_attempt_and_ends_the_conversation() {
    let (address, served) = serving(|mut stream| {
        head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            .expect("answers");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("ends");
        rest
    });
    let run = run(5000);
    let steps = [
        send("CONNECT denied.test:443 HTTP/1.1\r\n\r\n"),
        Step::Success,
        send("{nonce}"),
    ];
    talk(&run, &address, &steps).expect("is issued");
    assert!(served.join().expect("serves").is_empty());
}

#[test]
fn silence_before_the_nonce_is_no_attempt() {
    let (address, served) = serving(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("reads");
        all
    });
    let run = run(300);
    let steps = [
        send("CONNECT allowed.test:443 HTTP/1.1\r\n\r\n"),
        Step::Success,
        send("{nonce}"),
    ];
    assert!(talk(&run, &address, &steps).is_err());
    assert!(
        !String::from_utf8(served.join().expect("serves"))
            .expect("text")
            .contains("bn")
    );
}

#[test]
fn pieces_arrive_in_order() {
    let (address, served) = serving(|mut stream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("reads");
        all
    });
    let run = run(5000);
    let slowly = Step::SendSlowly {
        text: "{nonce}".to_owned(),
        piece: 5,
        pause_ms: 1,
    };
    talk(&run, &address, &[slowly, Step::Pause { ms: 1 }]).expect("is issued");
    assert_eq!(served.join().expect("serves"), run.words.nonce.as_str());
}

#[test]
fn web_socket_frames_are_masked_text() {
    let (address, served) = serving(|mut stream| {
        let request = head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            .expect("answers");
        let mut frame = [0; 6 + 28];
        stream.read_exact(&mut frame).expect("reads");
        (request, frame)
    });
    let run = run(5000);
    let step = Step::WebSocket {
        host: "allowed.test".to_owned(),
        path: "/ws".to_owned(),
        fields: vec![("X-A".to_owned(), "{ok}".to_owned())],
        text: "{nonce}".to_owned(),
    };
    talk(&run, &address, &[step]).expect("is issued");
    let (request, frame) = served.join().expect("serves");
    assert!(request.starts_with("GET /ws HTTP/1.1\r\nHost: allowed.test\r\n"));
    assert!(request.contains(&format!("X-A: {}\r\n", run.words.ok)));
    assert_eq!(frame[..2], [0x81, 0x80 | 28]);
    let text: Vec<u8> = frame[6..]
        .iter()
        .zip(frame[2..6].iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    assert_eq!(text, run.words.nonce.as_str().as_bytes());
    assert_eq!(web_socket_frame(&[b'x'; 300])[1..4], [0x80 | 126, 1, 44]);
}

#[test]
fn authorities_of_proxies() {
    assert_eq!(authority_of("http://user:pw@127.0.0.1:8888/x"), "127.0.0.1:8888");
    assert_eq!(authority_of("127.0.0.1:8888"), "127.0.0.1:8888");
}
