//! Egress in front of real origins on loopback.

mod stage;

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bottle_policy::{Auth, DecisionVerdict, Route, Stage as Place};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use stage::{Body, HOP, Leaf, Origin, Roots, Stage, TOKEN, config, full, hop};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

const CHUNK: usize = 64 * 1024;

/// What origins answer.
async fn answer(path: &str, mut request: Request<Incoming>) -> Response<Body> {
    match path {
        "/ws" => {
            let key = request.headers()["sec-websocket-key"].clone();
            let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrade.await.unwrap());
                let role = tungstenite::protocol::Role::Server;
                let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
            Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", accept)
                .body(full(""))
                .unwrap()
        }
        "/switch" => Response::builder()
            .status(101)
            .header("upgrade", "other")
            .body(full(""))
            .unwrap(),
        "/big" => Response::new(blocks(800)),
        "/length" => {
            let mut length = 0;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                length += frame.unwrap().data_ref().map_or(0, Bytes::len);
            }
            Response::new(full(length.to_string()))
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"data"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            Response::builder()
                .header("content-type", "application/grpc")
                .header("trailer", "grpc-status")
                .body(body)
                .unwrap()
        }
        "/silent" => std::future::pending().await,
        "/redirect" => Response::builder()
            .status(302)
            .header("location", "https://evil.test/")
            .body(full(""))
            .unwrap(),
        "/forged" => Response::builder()
            .header("x-bottle-refusal", "forged")
            .body(full(""))
            .unwrap(),
        _ => Response::new(full("hello")),
    }
}

fn blocks(count: usize) -> Body {
    let blocks = (0..count).map(|n| Ok(Frame::data(Bytes::from(vec![n as u8; CHUNK]))));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(blocks)))
}

fn bearer(port: u16) -> Route {
    Route {
        host: "api.test".into(),
        port,
        auth: Auth::Bearer,
        token: "T".into(),
    }
}

async fn secured(alpn: &[&[u8]]) -> (Origin, Stage) {
    let roots = Roots::new();
    let origin = Origin::start(Some(roots.server_config(Leaf::Good, alpn))).await;
    let stage = Stage::start(&config(&roots, vec![bearer(origin.address.port())])).await;
    (origin, stage)
}

#[tokio::test]
async fn the_token_goes_to_its_route_only() {
    let roots = Roots::new();
    let origin = Origin::start(Some(roots.server_config(Leaf::Good, &[]))).await;
    let plain = Origin::start(None).await;
    let other = Origin::start(Some(roots.server_config(Leaf::Good, &[]))).await;
    let stage = Stage::start(&config(&roots, vec![bearer(origin.address.port())])).await;
    let guest = [("authorization", "Bearer of-the-guest"), ("x-bottle-nonce", "n1")];

    let uri = format!("https://api.test:{}/x?q=1", origin.address.port());
    assert_eq!(stage.get(&uri, &origin, &guest).await.0, StatusCode::OK);
    let seen = origin.last();
    assert_eq!(
        seen.headers.get_all("authorization").iter().collect::<Vec<_>>(),
        [&format!("Bearer {TOKEN}")]
    );
    assert_eq!(seen.headers["host"], format!("api.test:{}", origin.address.port()));
    assert_eq!(seen.uri, "/x?q=1");
    assert_eq!(seen.headers["x-bottle-nonce"], "n1");
    assert!(
        seen.headers
            .keys()
            .all(|name| !name.as_str().starts_with("x-bottle-") || name == "x-bottle-nonce")
    );

    for (uri, origin) in [
        (format!("https://plain.test:{}/", origin.address.port()), &origin),
        (format!("https://api.test:{}/", other.address.port()), &other),
        (format!("http://api.test:{}/", plain.address.port()), &plain),
        (format!("https://127.0.0.1:{}/", origin.address.port()), &origin),
    ] {
        assert_eq!(stage.get(&uri, origin, &guest).await.0, StatusCode::OK, "{uri}");
        assert_eq!(origin.last().headers["authorization"], "Bearer of-the-guest", "{uri}");
        assert!(!format!("{:?}", origin.last()).contains(TOKEN), "{uri}");
    }
}

#[rstest::rstest]
#[case::expired(Leaf::Expired)]
#[case::wrong_name(Leaf::WrongName)]
#[case::self_signed(Leaf::SelfSigned)]
#[tokio::test]
async fn a_bad_certificate_is_refused(#[case] leaf: Leaf) {
    let roots = Roots::new();
    let origin = Origin::start(Some(roots.server_config(leaf, &[]))).await;
    let mut stage = Stage::start(&config(&roots, vec![bearer(origin.address.port())])).await;
    let uri = format!("https://api.test:{}/", origin.address.port());
    let (status, headers, body) = stage.get(&uri, &origin, &[("x-bottle-nonce", "n-7")]).await;
    assert_eq!(
        (status, &headers["x-bottle-refusal"]),
        (StatusCode::BAD_GATEWAY, &"upstream-certificate".parse().unwrap())
    );
    assert!(
        body.starts_with("the certificate of api.test is not accepted: "),
        "{body}"
    );
    assert_eq!(origin.count(), 0);
    let record = stage.denial();
    assert_eq!(
        (record.verdict, record.stage, record.rule.as_str()),
        (DecisionVerdict::Deny, Place::Upstream, "upstream-certificate")
    );
    assert_eq!(record.nonce.as_deref(), Some("n-7"));
    assert_eq!(record.told.as_deref(), Some(body.trim_end()));
    assert!(!format!("{record:?}{headers:?}{body}").contains(TOKEN));
}

#[rstest::rstest]
#[case::missing("")]
#[case::wrong("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeF")]
#[case::short("0")]
#[tokio::test]
async fn only_pipelock_is_served(#[case] secret: &str) {
    let (origin, mut stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/", origin.address.port());
    let (status, headers, _) = stage.get(&uri, &origin, &[("x-bottle-hop", secret)]).await;
    assert_eq!(status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
    assert_eq!(headers["connection"], "close");
    assert_eq!(stage.denial().rule, "not-pipelock");
    assert_eq!(origin.connections.load(Ordering::SeqCst), 0, "nothing is dialled");
}

#[tokio::test]
async fn two_secrets_are_none() {
    let (origin, mut stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/", origin.address.port());
    let request = hop(&uri, origin.address, &[])
        .header("x-bottle-hop", HOP)
        .body(full(""))
        .unwrap();
    assert_eq!(
        stage.send(request).await.status(),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED
    );
    assert_eq!(stage.denial().rule, "not-pipelock");
}

#[tokio::test]
async fn what_is_not_the_hop_is_refused() {
    let (origin, mut stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/", origin.address.port());
    for fields in [
        [("x-bottle-address", "")],
        [("x-bottle-address", "localhost")],
        [("x-bottle-alpn", "h3")],
    ] {
        let (status, headers, _) = stage.get(&uri, &origin, &fields).await;
        assert_eq!(
            (status, &headers["x-bottle-refusal"]),
            (StatusCode::BAD_REQUEST, &"hop-malformed".parse().unwrap())
        );
        assert_eq!(stage.denial().rule, "hop-malformed");
    }
    assert_eq!(origin.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn failures_have_names() {
    let roots = Roots::new();
    let plain = Origin::start(None).await;
    let stage = Stage::start(&config(&roots, Vec::new())).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let closed = Origin {
        address: closed,
        seen: Default::default(),
        connections: Default::default(),
    };
    for (uri, origin, status, rule) in [
        (
            format!("http://a.test:{}/", closed.address.port()),
            &closed,
            502,
            "connect-refused",
        ),
        (
            format!("https://a.test:{}/", plain.address.port()),
            &plain,
            502,
            "upstream-tls",
        ),
        (
            format!("http://a.test:{}/silent", plain.address.port()),
            &plain,
            504,
            "upstream-timeout",
        ),
        (
            format!("http://a.test:{}/switch", plain.address.port()),
            &plain,
            502,
            "upstream-protocol",
        ),
    ] {
        let (found, headers, body) = stage.get(&uri, origin, &[]).await;
        assert_eq!(
            (found.as_u16(), headers["x-bottle-refusal"].to_str().unwrap()),
            (status, rule),
            "{uri}: {body}"
        );
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_the_handshake_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mute = Origin {
        address,
        seen: Default::default(),
        connections: Default::default(),
    };
    let stage = Stage::start(&config(&Roots::new(), Vec::new())).await;
    let start = Instant::now();
    let (status, headers, _) = stage
        .get(&format!("https://a.test:{}/", address.port()), &mute, &[])
        .await;
    assert_eq!(
        (status.as_u16(), headers["x-bottle-refusal"].to_str().unwrap()),
        (504, "connect-timeout")
    );
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn redirects_and_forged_refusals_are_the_clients_business() {
    let (origin, stage) = secured(&[]).await;
    let base = format!("https://api.test:{}", origin.address.port());
    let (status, headers, _) = stage.get(&format!("{base}/redirect"), &origin, &[]).await;
    assert_eq!(
        (status, &headers["location"]),
        (StatusCode::FOUND, &"https://evil.test/".parse().unwrap())
    );
    let (_, headers, _) = stage.get(&format!("{base}/forged"), &origin, &[]).await;
    assert!(!headers.contains_key("x-bottle-refusal"));
    assert_eq!(origin.count(), 2);
}

#[rstest::rstest]
#[case::http1(&[b"http/1.1".as_slice()], Version::HTTP_11)]
#[case::http2(&[b"h2".as_slice()], Version::HTTP_2)]
#[tokio::test]
async fn connections_are_kept(#[case] alpn: &[&[u8]], #[case] version: Version) {
    let (origin, stage) = secured(alpn).await;
    let uri = format!("https://api.test:{}/a", origin.address.port());
    for _ in 0..20 {
        let (status, _, body) = stage.get(&uri, &origin, &[("x-bottle-alpn", "h2")]).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "hello"));
    }
    assert_eq!(origin.last().version, version);
    assert_eq!(origin.last().headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(origin.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http2_is_offered_only_when_asked_for() {
    let (origin, stage) = secured(&[b"h2", b"http/1.1"]).await;
    let uri = format!("https://api.test:{}/a", origin.address.port());
    stage.get(&uri, &origin, &[]).await;
    assert_eq!(origin.last().version, Version::HTTP_11);
}

#[rstest::rstest]
#[case::http1("http/1.1")]
#[case::http2("h2")]
#[tokio::test]
async fn trailers_pass(#[case] alpn: &str) {
    let (origin, stage) = secured(&[alpn.as_bytes()]).await;
    let uri = format!("https://api.test:{}/trailers", origin.address.port());
    let fields = [("x-bottle-alpn", alpn), ("te", "trailers")];
    let response = stage
        .send(hop(&uri, origin.address, &fields).body(full("")).unwrap())
        .await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn fifty_megabytes_stream_down() {
    let (origin, stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/big", origin.address.port());
    let mut body = stage
        .send(hop(&uri, origin.address, &[]).body(full("")).unwrap())
        .await
        .into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        for byte in frame.unwrap().data_ref().unwrap().iter() {
            assert_eq!(*byte, (length / CHUNK) as u8);
            length += 1;
        }
    }
    assert_eq!(length, 800 * CHUNK);
}

#[tokio::test]
async fn fifty_megabytes_stream_up() {
    let (origin, stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/length", origin.address.port());
    let request = hop(&uri, origin.address, &[]).method("POST").body(blocks(800)).unwrap();
    let body = stage
        .send(request)
        .await
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, (800 * CHUNK).to_string());
}

/// A body that gives one block and is then broken off.
struct Broken(bool);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let first = !std::mem::replace(&mut self.0, true);
        Poll::Ready(Some(if first {
            Ok(Frame::data(Bytes::from_static(b"part")))
        } else {
            Err(std::io::ErrorKind::Other.into())
        }))
    }
}

#[tokio::test]
async fn a_broken_upload_never_looks_whole() {
    let (origin, stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/a", origin.address.port());
    let io = TokioIo::new(TcpStream::connect(stage.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = hop(&uri, origin.address, &[])
        .method("POST")
        .uri(uri.replace("/a", "/length"))
        .body(Broken(false))
        .unwrap();
    assert!(sender.send_request(request).await.is_err());
    // And the next one is served by a connection that holds nothing of it.
    assert_eq!(stage.get(&uri, &origin, &[]).await.2, "hello");
}

#[tokio::test]
async fn websockets_pass() {
    let (origin, stage) = secured(&[b"h2", b"http/1.1"]).await;
    let uri = format!("https://api.test:{}/ws", origin.address.port());
    let fields = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("x-bottle-alpn", "h2"),
    ];
    let mut response = stage
        .send(hop(&uri, origin.address, &fields).body(full("")).unwrap())
        .await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(
        response.headers()["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(origin.last().headers["authorization"], format!("Bearer {TOKEN}"));
    let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let role = tungstenite::protocol::Role::Client;
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await;
    for text in ["one", "two"] {
        socket.send(tungstenite::Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
    }
}

#[tokio::test]
async fn other_protocols_are_not_switched_to() {
    let (origin, stage) = secured(&[]).await;
    let uri = format!("https://api.test:{}/a", origin.address.port());
    let fields = [
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAA"),
    ];
    assert_eq!(stage.get(&uri, &origin, &fields).await.0, StatusCode::OK);
    let seen = origin.last().headers;
    assert!(!seen.contains_key("upgrade") && !seen.contains_key("http2-settings") && !seen.contains_key("connection"));
}

#[tokio::test]
async fn the_framing_of_the_guest_is_written_anew() {
    let (origin, stage) = secured(&[]).await;
    let port = origin.address.port();
    // Both lengths at once: hyper reads the chunks (RFC 9112 6.1), and only one of the two may reach the upstream.
    let head = format!(
        "POST https://api.test:{port}/length HTTP/1.1\r\nhost: other.test\r\nx-bottle-hop: {HOP}\r\nx-bottle-address: \
         127.0.0.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.trim_end().ends_with('3'),
        "{text}"
    );
    assert_eq!(origin.last().headers["host"], format!("api.test:{port}"));
}

#[cfg(not(feature = "leaky"))]
#[tokio::test]
async fn no_rendering_holds_a_token() {
    let roots = Roots::new();
    let mut routes = vec![bearer(443)];
    routes[0].auth = Auth::Header("content-length".into());
    let (recorder, _events) = bottle_wire::Recorder::channel("t-1", bottle_policy::Daemon::Egress);
    let tokens = bottle_policy::Tokens {
        tokens: [("T".to_owned(), TOKEN.to_owned())].into(),
        relay: None,
    };
    assert!(!format!("{tokens:?}").contains(TOKEN));
    let error = bottle_egress::Egress::new(&config(&roots, routes), tokens, HOP.to_owned().into(), recorder)
        .err()
        .unwrap();
    assert!(!format!("{error} {error:?}").contains(TOKEN));
}

/// What the known-leaky bottles leak, so that a probe has something to find.
#[cfg(feature = "leaky")]
mod leaky {
    use super::*;
    use bottle_policy::Control;

    async fn without(control: Control, leaf: Leaf) -> (Origin, Origin, Stage) {
        let roots = Roots::new();
        let origin = Origin::start(Some(roots.server_config(leaf, &[]))).await;
        let plain = Origin::start(None).await;
        let mut config = config(&roots, vec![bearer(origin.address.port())]);
        config.removed = vec![control];
        let stage = Stage::start(&config).await;
        (origin, plain, stage)
    }

    #[tokio::test]
    async fn any_certificate_is_taken() {
        let (origin, _, stage) = without(Control::UpstreamVerify, Leaf::SelfSigned).await;
        let uri = format!("https://api.test:{}/", origin.address.port());
        assert_eq!(stage.get(&uri, &origin, &[]).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn the_token_goes_everywhere() {
        let (_, plain, stage) = without(Control::RouteScope, Leaf::Good).await;
        let uri = format!("http://other.test:{}/", plain.address.port());
        assert_eq!(stage.get(&uri, &plain, &[]).await.0, StatusCode::OK);
        assert_eq!(plain.last().headers["authorization"], format!("Bearer {TOKEN}"));
    }

    #[tokio::test]
    async fn the_token_is_told() {
        let (origin, _, mut stage) = without(Control::Scrub, Leaf::Expired).await;
        let uri = format!("https://api.test:{}/", origin.address.port());
        let (status, _, body) = stage.get(&uri, &origin, &[]).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(body.contains(TOKEN));
        assert!(stage.denial().told.unwrap().contains(TOKEN));
    }
}
