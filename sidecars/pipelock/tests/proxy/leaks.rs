//! Each removed control opens exactly what the catalogue says, as seen by egress (or by the guest).

use bottle_policy::{Control, Controls};
use rstest::rstest;
use tokio::io::AsyncWriteExt;

use crate::stage::{Stage, head, reply};

async fn without(control: Control) -> Stage {
    Stage::with(Controls::without(vec![control]), |_| {}).await
}

#[rstest]
#[case(
    Control::AllowList,
    "GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n",
    "//127.0.0.1:9/"
)]
#[case(
    Control::AllowList,
    "GET http://private.test/ HTTP/1.1\r\nHost: private.test\r\n\r\n",
    "x-bottle-address: 10.0.0.1"
)]
#[case(
    Control::ResolvedAddress,
    "GET http://private.test/ HTTP/1.1\r\nHost: private.test\r\n\r\n",
    "x-bottle-address: 10.0.0.1"
)]
#[case(
    Control::StrictName,
    "GET http://evil-allowed.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "//evil-allowed.test:80/"
)]
#[case(
    Control::StrictAddress,
    "GET http://0x7f.1:81/ HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n",
    "x-bottle-address: 127.0.0.1"
)]
#[case(
    Control::Ports,
    "GET http://allowed.test:22/ HTTP/1.1\r\nHost: allowed.test:22\r\n\r\n",
    "//allowed.test:22/"
)]
#[case(
    Control::AbsoluteForm,
    "GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n",
    "//denied.test:80/"
)]
#[case(
    Control::Binding,
    "GET http://allowed.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n",
    "//denied.test:80/"
)]
#[case(
    Control::NoFollow,
    "GET http://allowed.test/redirect HTTP/1.1\r\nHost: allowed.test\r\nAuthorization: a\r\n\r\n",
    "//denied.test:80/landed"
)]
#[tokio::test]
async fn absolute_requests(#[case] control: Control, #[case] request: &str, #[case] seen: &str) {
    for (controls, is_open) in [(Controls::without(vec![control]), true), (Controls::all(), false)] {
        let stage = Stage::with(controls, |_| {}).await;
        let mut guest = stage.guest().await;
        guest.write_all(request.as_bytes()).await.unwrap();
        let answer = reply(&mut guest).await;
        let found = stage.seen().iter().any(|head| head.contains(seen));
        assert_eq!(found, is_open, "{answer}");
    }
}

#[tokio::test]
async fn fronted_requests_reach_the_fronted_origin() {
    let stage = without(Control::Binding).await;
    let mut tls = stage
        .tls("allowed.test:443", "denied.test", &["http/1.1"])
        .await
        .unwrap();
    tls.write_all(b"GET /f HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut tls).await.contains("GET https://denied.test:443/f "));
}

#[tokio::test]
async fn names_are_cut_at_nul() {
    let stage = without(Control::StrictName).await;
    let tls = stage
        .tls("denied.test\0.allowed.test:443", "denied.test", &["http/1.1"])
        .await;
    let mut tls = tls.unwrap();
    tls.write_all(b"GET /c HTTP/1.1\r\nHost: denied.test\0.allowed.test\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut tls).await.contains("GET https://denied.test:443/c "));
}

#[rstest]
#[tokio::test]
async fn stray_bytes_are_passed_over(#[values(" ", "\t", "\0")] byte: &str) {
    for (controls, is_open) in [
        (Controls::without(vec![Control::StrictName]), true),
        (Controls::all(), false),
    ] {
        for (request, seen) in [
            (
                format!("GET http://denied.test{byte}.allowed.test/ HTTP/1.1\r\nHost: x\r\n\r\n"),
                "GET http://denied.test:80/",
            ),
            (
                format!("GET http://allowed.test/ HTTP/1.1\r\nHost: denied.test{byte}.allowed.test\r\n\r\n"),
                "GET http://allowed.test:80/",
            ),
            (
                format!("GET http://allowed.test/ HTTP/1.1\r\nHost{byte}: allowed.test\r\n\r\n"),
                "GET http://allowed.test:80/",
            ),
        ] {
            let stage = Stage::with(controls.clone(), |_| {}).await;
            let mut guest = stage.guest().await;
            guest.write_all(request.as_bytes()).await.unwrap();
            let answer = reply(&mut guest).await;
            let found = stage.seen().iter().any(|head| head.contains(seen));
            assert_eq!(found, is_open, "{request:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn only_the_first_request_is_decided() {
    let stage = without(Control::EveryRequest).await;
    let mut guest = stage.guest().await;
    let one = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
    guest.write_all(one("denied.test").as_bytes()).await.unwrap();
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 403 "));
    let mut guest = stage.guest().await;
    guest
        .write_all((one("allowed.test") + &one("denied.test")).as_bytes())
        .await
        .unwrap();
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
    // And CONNECT inside CONNECT.
    let mut outer = stage
        .tls("allowed.test:443", "allowed.test", &["http/1.1"])
        .await
        .unwrap();
    outer
        .write_all(b"CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut outer).await.starts_with("HTTP/1.1 200 "));
    let mut inner = stage.handshake(outer, "denied.test", &["http/1.1"]).await.unwrap();
    inner
        .write_all(b"GET /deep HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        .await
        .unwrap();
    inner.flush().await.unwrap();
    assert!(reply(&mut inner).await.contains("GET https://denied.test:443/deep "));
}

#[tokio::test]
async fn denied_names_are_looked_up() {
    let stage = without(Control::DecideFirst).await;
    stage.say(b"CONNECT secret.denied.test:443 HTTP/1.1\r\n\r\n").await;
    assert!(
        stage
            .looked_up
            .lock()
            .unwrap()
            .contains(&"secret.denied.test.".to_owned())
    );
}

#[tokio::test]
async fn control_routes_answer() {
    let mut stage = without(Control::NoAdmin).await;
    let mut guest = stage.guest().await;
    guest
        .write_all(b"GET /__admin/ping?nonce=n7 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut guest).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(stage.rule("admin").await.nonce.as_deref(), Some("n7"));
    guest
        .write_all(b"GET /__admin/ca HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut guest).await.contains("BEGIN CERTIFICATE"));
    let stage = Stage::new().await;
    let mut guest = stage.guest().await;
    guest
        .write_all(b"GET /__admin/ping HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(reply(&mut guest).await.contains("x-bottle-refusal: target"));
}

#[tokio::test]
async fn the_relay_dials_anything() {
    let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    let dir = std::env::temp_dir().join(format!("bottle-relay-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let proxy = dir.join("proxy.sock").to_str().unwrap().to_owned();
    let _stage = Stage::with(Controls::without(vec![Control::NoRelay]), |config| {
        config.removed = vec![Control::NoRelay];
        config.listen.push(bottle_policy::Listen::Unix(proxy));
    })
    .await;
    let mut guest = tokio::net::UnixStream::connect(dir.join("git.sock")).await.unwrap();
    guest
        .write_all(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert!(head(&mut guest).await.starts_with("HTTP/1.1 200 "));
    let (mut upstream, _) = origin.accept().await.unwrap();
    upstream.write_all(b"banner\r\n\r\n").await.unwrap();
    assert_eq!(head(&mut guest).await, "banner\r\n\r\n");
    std::fs::remove_dir_all(&dir).unwrap();
}
