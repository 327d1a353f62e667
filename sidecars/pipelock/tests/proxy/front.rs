//! What a guest says to the proxy itself.

use crate::stage::{Dribble, Stage, reply};
use bottle_policy::{DecisionVerdict, Stage as At};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn an_allowed_request_goes_on() {
    let mut stage = Stage::new().await;
    let answer = stage
        .say(
            b"GET http://ALLOWED.test/a?b=c HTTP/1.1\r\nHost: allowed.test\r\nX-Bottle-Nonce: n1\r\nX-Bottle-Address: 127.0.0.1\r\n\
              X-BOTTLE-HOP: guess\r\nProxy-Authorization: x\r\nConnection: close, x-private\r\nX-Private: 1\r\nAccept: */*\r\n\r\n",
        )
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
    let (answer_head, seen) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!answer_head.contains("x-bottle-hop") && !answer_head.contains("keep-alive"));
    let expected = "GET http://allowed.test:80/a?b=c HTTP/1.1\r\nhost: allowed.test\r\nx-bottle-hop: hop-secret\r\n\
                    x-bottle-address: 198.51.100.7\r\nx-bottle-alpn: http/1.1\r\nX-Bottle-Nonce: n1\r\nAccept: */*\r\n\r\n";
    assert_eq!(seen, expected);
    let record = stage.rule("allow-name").await;
    assert_eq!(
        (record.stage, record.verdict, record.count),
        (At::Request, DecisionVerdict::Allow, 1)
    );
    assert_eq!(
        (record.nonce.as_deref(), record.host.as_deref()),
        (Some("n1"), Some("allowed.test"))
    );
    assert_eq!(record.address, Some("198.51.100.7".parse().unwrap()));
}

#[rstest]
#[case(
    "denied.test",
    "denied.test",
    "host-not-allowed",
    "egress.allow: [\"denied.test:80\"]"
)]
#[case(
    "allowed.test:81",
    "allowed.test:81",
    "port-not-allowed",
    "egress.allow: [\"allowed.test:81\"]"
)]
#[case("allowed.test", "denied.test", "authority-mismatch", "another host")]
#[case("denied.test", "allowed.test", "authority-mismatch", "another host")]
#[case("198.51.100.7", "198.51.100.7", "address-literal", "198.51.100.7")]
#[case("0x7f.1", "0x7f.1", "address-spelling", "spelling")]
#[case("allowed.test@denied.test", "allowed.test", "name-malformed", "host name")]
#[case("private.test", "private.test", "resolved-address", "private address")]
#[case("split.test", "split.test", "resolved-address", "loopback address")]
#[case("gone.test", "gone.test", "name-unresolved", "no address")]
#[tokio::test]
async fn refused_requests(#[case] target: &str, #[case] host: &str, #[case] rule: &str, #[case] words: &str) {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest().await;
    let request = format!("GET http://{target}/ HTTP/1.1\r\nHost: {host}\r\nX-Bottle-Nonce: n1\r\n\r\n");
    guest.write_all(request.as_bytes()).await.unwrap();
    let answer = reply(&mut guest).await;
    assert!(
        answer.contains(&format!("x-bottle-refusal: {rule}\r\n")) && answer.contains(words),
        "{answer}"
    );
    let record = stage.rule(rule).await;
    assert_eq!(
        (record.verdict, record.nonce.as_deref()),
        (DecisionVerdict::Deny, Some("n1"))
    );
    assert!(answer.contains(&record.told.unwrap()));
    assert!(stage.seen().is_empty());
    let is_resolved = matches!(rule, "resolved-address" | "name-unresolved");
    assert_eq!(
        !stage.looked_up.lock().unwrap().is_empty(),
        is_resolved,
        "nothing is looked up for a refused name"
    );
    // The connection still serves.
    guest
        .write_all(b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
}

#[rstest]
#[case("denied.test:443", "host-not-allowed")]
#[case("allowed.test:22", "port-not-allowed")]
#[case("allowed.test", "port-malformed")]
#[case("allowed.test:0443", "port-malformed")]
#[case("198.51.100.7:443", "address-literal")]
#[case("127.1:443", "address-spelling")]
#[case("[::ffff:198.51.100.9]:443", "address-spelling")]
#[case("private.test:443", "resolved-address")]
#[case("denied.test\0.allowed.test:443", "name-malformed")]
#[case("denied.test .allowed.test:443", "name-malformed")]
#[case("denied.test#.allowed.test:443", "name-malformed")]
#[case("b\u{fc}cher.test:443", "name-malformed")]
#[case("allowed\u{3002}test:443", "name-malformed")]
#[case("\u{ff11}\u{ff12}\u{ff17}.0.0.1:443", "address-spelling")]
#[tokio::test]
async fn refused_connects(#[case] authority: &str, #[case] rule: &str) {
    let mut stage = Stage::new().await;
    let answer = stage
        .say(format!("CONNECT {authority} HTTP/1.1\r\nX-Bottle-Nonce: n2\r\n\r\n").as_bytes())
        .await;
    assert!(answer.contains(&format!("x-bottle-refusal: {rule}\r\n")), "{answer}");
    assert_eq!(stage.rule(rule).await.nonce.as_deref(), Some("n2"));
}

#[rstest]
#[case(
    "GET http://allowed.test/ HTTP/1.1\nHost: allowed.test\nX-Bottle-Nonce: n3\n\n",
    "framing"
)]
#[case(
    "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nHost: denied.test\r\nX-Bottle-Nonce: n3\r\n\r\n",
    "framing"
)]
#[case(
    "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n folded\r\nX-Bottle-Nonce: n3\r\n\r\n",
    "framing"
)]
#[case(
    "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nX-Bottle-Nonce: n3\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "framing"
)]
#[case(
    "CONNECT allowed.test:443 HTTP/1.1\r\nContent-Length: 1\r\nX-Bottle-Nonce: n3\r\n\r\nx",
    "framing"
)]
#[case("PRI * HTTP/2.0\r\nX-Bottle-Nonce: n3\r\n\r\nSM\r\n\r\n", "version")]
#[case("GET / HTTP/1.1\r\nHost: allowed.test\r\nX-Bottle-Nonce: n3\r\n\r\n", "target")]
#[case(
    "GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nX-Bottle-Nonce: n3\r\n\r\n",
    "scheme"
)]
#[case("GET http://allowed.test/ HTTP/1.1\r\nX-Bottle-Nonce: n3\r\n\r\n", "host-missing")]
#[case(
    "TRACE http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nX-Bottle-Nonce: n3\r\n\r\n",
    "method"
)]
#[tokio::test]
async fn what_is_no_clean_request(#[case] text: &str, #[case] rule: &str) {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest().await;
    guest.write_all(text.as_bytes()).await.unwrap();
    let answer = reply(&mut guest).await;
    assert!(answer.contains(&format!("x-bottle-refusal: {rule}\r\n")), "{answer}");
    assert_eq!(stage.rule(rule).await.nonce.as_deref(), Some("n3"));
    assert!(stage.seen().is_empty());
}

#[tokio::test]
async fn heads_are_limited_in_size_count_and_time() {
    let mut stage = Stage::new().await;
    let long = format!("GET http://allowed.test/{} HTTP/1.1\r\n", "x".repeat(5000));
    assert!(stage.say(long.as_bytes()).await.contains("head-too-large"));
    let many = format!("GET http://allowed.test/ HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(21));
    assert!(stage.say(many.as_bytes()).await.contains("head-too-large"));
    assert!(stage.say(b"GET http://allowed.test/ HT").await.contains("head-timeout"));
    assert!(stage.say(b"").await.is_empty());
    stage.rule("head-timeout").await;
}

#[tokio::test]
async fn pipelined_requests_are_decided_one_by_one() {
    let mut stage = Stage::new().await;
    let one = |host: &str| {
        format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nX-Bottle-Nonce: {}\r\n\r\n",
            host.replace('.', "-")
        )
    };
    let mut guest = stage.guest().await;
    let all = [one("allowed.test"), one("denied.test"), one("allowed.test")].concat();
    guest.write_all(all.as_bytes()).await.unwrap();
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 403 "));
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(stage.seen().len(), 2);
    assert_eq!(
        stage.rule("host-not-allowed").await.nonce.as_deref(),
        Some("denied-test")
    );
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let stage = Stage::new().await;
    let mut guest = Dribble(stage.guest().await);
    let text = "POST http://allowed.test/echo HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n\
                GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n";
    guest.write_all(text.as_bytes()).await.unwrap();
    let answer = crate::stage::rest(&mut guest).await;
    assert!(
        answer.contains("abc") && answer.contains("defg") && answer.contains("\r\n0\r\n\r\nHTTP/1.1 200 OK"),
        "{answer}"
    );
}

#[tokio::test]
async fn bodies_and_their_ends() {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest().await;
    guest
        .write_all(b"POST http://allowed.test/echo HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    assert!(crate::stage::head(&mut guest).await.starts_with("HTTP/1.1 100 "));
    guest.write_all(b"hello").await.unwrap();
    assert!(
        crate::stage::head(&mut guest)
            .await
            .contains("transfer-encoding: chunked")
    );
    drop(guest);
    let answer = stage
        .say(b"HEAD http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.ends_with("content-length: 10000\r\nconnection: close\r\n\r\n"),
        "{answer}"
    );
    let answer = stage
        .say(b"GET http://allowed.test/close HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.ends_with("\r\nd\r\nuntil the end\r\n0\r\n\r\n"), "{answer}");
    let answer = stage.say(b"GET http://allowed.test/close HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with("connection: close\r\n\r\nuntil the end"), "{answer}");
    let answer = stage
        .say(b"POST http://allowed.test/echo HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\nX-Bottle-Nonce: n4\r\n\r\n3;x\r\nabc\r\n")
        .await;
    assert_eq!(answer, "");
    assert_eq!(stage.rule("framing").await.nonce.as_deref(), Some("n4"));
}

#[tokio::test]
async fn what_egress_refuses_is_told_and_recorded() {
    let mut stage = Stage::new().await;
    let answer = stage
        .say(b"GET http://refused.test/ HTTP/1.1\r\nHost: refused.test\r\nX-Bottle-Nonce: n5\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("not trusted"),
        "{answer}"
    );
    let record = stage.rule("upstream-certificate").await;
    assert_eq!((record.stage, record.nonce.as_deref()), (At::Upstream, Some("n5")));
    assert_eq!(
        record.told.as_deref(),
        Some("the certificate of refused.test is not trusted")
    );
}

#[tokio::test]
async fn requests_without_a_nonce_are_counted() {
    let mut stage = Stage::new().await;
    let mut guest = stage.guest().await;
    for _ in 0..3 {
        guest
            .write_all(b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
            .await
            .unwrap();
        reply(&mut guest).await;
    }
    let mut count = 0;
    while count < 3 {
        count += stage.rule("allow-name").await.count;
    }
    assert_eq!(count, 3);
    // One connection of the hop served them all, and no look-up was repeated.
    assert_eq!(stage.looked_up.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn the_next_address_is_tried_for_a_request_without_a_body() {
    let mut stage = Stage::new().await;
    let answer = stage
        .say(b"GET http://two.test/ HTTP/1.1\r\nHost: two.test\r\nX-Bottle-Nonce: n6\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let record = stage.rule("allow-name").await;
    assert_eq!(record.address, Some("198.51.100.7".parse().unwrap()));
    let answer = stage
        .say(b"POST http://two.test/ HTTP/1.1\r\nHost: two.test\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
