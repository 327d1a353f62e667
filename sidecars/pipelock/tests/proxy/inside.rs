//! What happens inside CONNECT.

use std::time::Duration;

use crate::stage::{Dribble, Stage, reply, rest};
use bottle_policy::{DecisionVerdict, Stage as At};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: allowed.test\r\n\r\n";

#[tokio::test]
async fn requests_are_intercepted() {
    let mut stage = Stage::new().await;
    let mut tls = stage
        .tls("allowed.test:443", "allowed.test", &["http/1.1"])
        .await
        .unwrap();
    for _ in 0..2 {
        tls.write_all(GET).await.unwrap();
        let answer = reply(&mut tls).await;
        assert!(
            answer.contains("GET https://allowed.test:443/x HTTP/1.1\r\nhost: allowed.test\r\n"),
            "{answer}"
        );
    }
    tls.write_all(b"GET / HTTP/1.1\r\nHost: denied.test\r\nX-Bottle-Nonce: n1\r\n\r\n")
        .await
        .unwrap();
    let answer = reply(&mut tls).await;
    assert!(answer.contains("x-bottle-refusal: authority-mismatch"), "{answer}");
    assert_eq!(stage.rule("authority-mismatch").await.nonce.as_deref(), Some("n1"));
    assert_eq!(stage.seen().len(), 2);
}

#[rstest]
#[case("GET / HTTP/1.1\r\nHost: allowed.test:80\r\n\r\n", "authority-mismatch")]
#[case("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n", "framing")]
#[case("GET / HTTP/1.1\r\nHost: a@allowed.test\r\n\r\n", "name-malformed")]
#[case("GET / HTTP/1.1\r\n\r\n", "host-missing")]
#[case(
    "GET https://denied.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    "authority-mismatch"
)]
#[case("GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "scheme")]
#[case("CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test:443\r\n\r\n", "method")]
#[case("CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "method")]
#[case("TRACE / HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "method")]
#[case("GET x HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "target")]
#[case("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version")]
#[tokio::test]
async fn refused_inside(#[case] text: &str, #[case] rule: &str) {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest().await;
    guest
        .write_all(b"CONNECT allowed.test:443 HTTP/1.1\r\nX-Bottle-Nonce: outer\r\n\r\n")
        .await
        .unwrap();
    crate::stage::head(&mut guest).await;
    let mut tls = stage.handshake(guest, "allowed.test", &[]).await.unwrap();
    tls.write_all(text.as_bytes()).await.unwrap();
    let answer = reply(&mut tls).await;
    assert!(answer.contains(&format!("x-bottle-refusal: {rule}\r\n")), "{answer}");
    // The nonce of CONNECT stands for what has none of its own.
    assert_eq!(stage.rule(rule).await.nonce.as_deref(), Some("outer"));
    assert!(stage.seen().is_empty());
}

#[rstest]
#[case("denied.test", "sni-mismatch")]
#[case("sub.allowed.test", "sni-mismatch")]
#[case("198.51.100.9", "sni-missing")]
#[tokio::test]
async fn the_handshake_must_name_the_host(#[case] sni: &str, #[case] rule: &str) {
    let mut stage = Stage::new().await;
    let error = stage.tls("allowed.test:443", sni, &[]).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    let record = stage.rule(rule).await;
    assert_eq!((record.stage, record.verdict), (At::Tls, DecisionVerdict::Deny));
}

#[tokio::test]
async fn a_listed_literal_has_no_sni() {
    let stage = Stage::new().await;
    let mut tls = stage.tls("198.51.100.9:443", "198.51.100.9", &[]).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: 198.51.100.9\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut tls).await.contains("x-bottle-address: 198.51.100.9\r\n"));
}

#[rstest]
#[case(b"SSH-2.0-OpenSSH_9\r\n", "not-tls")]
#[case(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "not-tls")]
#[case(b"\x16", "tls-handshake")]
#[case(b"\x16\x03\x01\x00\x05hello", "tls-handshake")]
#[case(b"\x16\x03\x01\xff\xff", "tls-handshake")]
#[case(b"\x16GET / HTTP/1.1\r\n\r\n", "tls-handshake")]
#[tokio::test]
async fn anything_but_tls_ends_the_connection(#[case] bytes: &[u8], #[case] rule: &str) {
    let mut stage = Stage::new().await;
    let mut guest = stage.connect("allowed.test:443").await;
    guest.write_all(bytes).await.unwrap();
    let answer = rest(&mut guest).await;
    // At most an alert.
    assert!(answer.len() <= 7, "{answer:?}");
    let record = stage.rule(rule).await;
    assert_eq!((record.stage, record.host.as_deref()), (At::Tls, Some("allowed.test")));
    assert!(stage.seen().is_empty());
}

#[tokio::test]
async fn a_guest_that_waits_is_cut_off() {
    let mut stage = Stage::new().await;
    let mut guest = stage.connect("allowed.test:443").await;
    assert_eq!(rest(&mut guest).await, "");
    stage.rule("tls-handshake").await;
}

#[tokio::test]
async fn a_late_split_hello_is_intercepted() {
    let stage = Stage::new().await;
    let guest = stage.connect("allowed.test:443").await;
    guest.set_nodelay(true).unwrap();
    let mut tls = stage.handshake(Dribble(guest), "allowed.test", &[]).await.unwrap();
    tls.write_all(GET).await.unwrap();
    tls.flush().await.unwrap();
    assert!(reply(&mut tls).await.starts_with("HTTP/1.1 200 "));
    // The first byte alone, the rest later: by hand, since the client library would not wait.
    let mut guest = stage.connect("allowed.test:443").await;
    guest.write_all(&[0x16]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    guest.write_all(&[3, 1, 0, 1, 0]).await.unwrap();
    assert!(rest(&mut guest).await.len() <= 7);
}

#[tokio::test]
async fn http2_streams_are_decided_one_by_one() {
    let mut stage = Stage::new().await;
    let tls = stage.tls("allowed.test:443", "allowed.test", &["h2"]).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = |method: &str, uri: &str, host: Option<&str>, body: &str| {
        let mut builder = http::Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            builder = builder.header("host", host);
        }
        builder
            .header("x-bottle-nonce", "n9")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap()
    };
    let response = client
        .send_request(request("GET", "https://allowed.test/h2", None, ""))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(
        text.starts_with("GET https://allowed.test:443/h2 HTTP/1.1\r\nhost: allowed.test\r\n"),
        "{text}"
    );
    assert!(
        text.contains("x-bottle-alpn: h2\r\n") && text.contains("te: trailers\r\n"),
        "{text}"
    );
    let response = client
        .send_request(request("POST", "https://allowed.test/echo", None, "hello"))
        .await
        .unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap().get("x-trailer").unwrap(), "t");
    assert_eq!(collected.to_bytes(), "hello");
    for (uri, host, rule) in [
        ("https://denied.test/", None, "authority-mismatch"),
        ("https://allowed.test/", Some("denied.test"), "authority-mismatch"),
        ("https://allowed.test:80/", None, "authority-mismatch"),
        ("http://allowed.test/", None, "scheme"),
    ] {
        let response = client.send_request(request("GET", uri, host, "")).await.unwrap();
        assert_eq!(
            response.headers().get("x-bottle-refusal").unwrap(),
            rule,
            "{uri} {host:?}"
        );
        assert_eq!(stage.rule(rule).await.nonce.as_deref(), Some("n9"));
    }
    assert_eq!(stage.seen().len(), 2);
}

#[tokio::test]
async fn a_websocket_goes_to_its_origin_only() {
    let stage = Stage::new().await;
    let mut tls = stage
        .tls("allowed.test:443", "allowed.test", &["http/1.1"])
        .await
        .unwrap();
    tls.write_all(b"GET /ws HTTP/1.1\r\nHost: allowed.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly")
        .await
        .unwrap();
    let head = crate::stage::head(&mut tls).await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket") && head.contains("x-a: b"),
        "{head}"
    );
    let mut echoed = [0; 5];
    tls.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"early");
    tls.write_all(b"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        .await
        .unwrap();
    let mut echoed = [0; 37];
    tls.read_exact(&mut echoed).await.unwrap();
    assert!(echoed.starts_with(b"GET / HTTP/1.1\r\nHost: denied"));
    assert_eq!(stage.seen().len(), 1);
}

#[tokio::test]
async fn only_websockets_are_switched_to() {
    let stage = Stage::new().await;
    let mut tls = stage.tls("allowed.test:443", "allowed.test", &[]).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        .await
        .unwrap();
    let answer = reply(&mut tls).await.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 200 ") && !answer.contains("h2c") && !answer.contains("http2-settings"),
        "{answer}"
    );
}
