//! Connections to the relay's port as the launcher makes them, and as others do.

use std::net::SocketAddr;

use bottle_policy::relay::preface;
use bottle_policy::{BundleEvent, Daemon};
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::*;

const SECRET: [u8; RELAY_SECRET] = *b"SENTINEL-relay-secret-0123456789";

struct Site {
    directory: tempfile::TempDir,
    address: SocketAddr,
    events: mpsc::Receiver<BundleEvent>,
}

impl Site {
    /// A relay with the services `proxy.sock`, which is there, and `gone.sock`, which is not.
    fn new(within_ms: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let service = UnixListener::bind(directory.path().join("proxy.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = service.accept().await {
                tokio::spawn(greet_and_echo(stream));
            }
        });
        let plan = RelayPlan {
            port: 0,
            directory: directory.path().display().to_string(),
            services: ["proxy.sock", "gone.sock"].map(str::to_owned).to_vec(),
        };
        let limits = WireLimits {
            head_ms: within_ms,
            ..WireLimits::default()
        };
        let (recorder, events) = Recorder::channel("t-1", Daemon::Relay);
        let relay = Relay::new(&plan, &hex::encode(SECRET), &limits, recorder).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(relay)));
        Self {
            directory,
            address,
            events,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The rule of the next record.
    async fn refusal(&mut self) -> String {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
        match event.expect("a record in time") {
            Some(BundleEvent::Decision(record)) => {
                assert_eq!((record.daemon, record.stage), (Daemon::Relay, Stage::Relay));
                assert_eq!(record.verdict, DecisionVerdict::Deny);
                record.rule
            }
            other => panic!("expected a decision, found {other:?}"),
        }
    }
}

/// Speaks first, so that a connection that was led too early would show.
async fn greet_and_echo(mut stream: UnixStream) {
    stream.write_all(b"hello ").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(&all).await.unwrap();
}

fn ours(service: &str) -> Vec<u8> {
    preface(service, &SECRET).unwrap().to_vec()
}

/// What comes back until the end; a reset is an end too.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all));
    let _ = read.await.expect("it ends in time");
    all
}

#[tokio::test]
async fn who_knows_the_secret_is_led_to_the_service_and_half_an_end_is_passed_on() {
    let site = Site::new(5_000);
    let mut stream = site.connect().await;
    stream
        .write_all(&[ours("proxy.sock"), b"one".to_vec()].concat())
        .await
        .unwrap();
    stream.write_all(b" two").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"hello one two");
}

#[tokio::test]
async fn a_preface_may_come_byte_by_byte() {
    let site = Site::new(5_000);
    let mut stream = site.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in [ours("proxy.sock"), b"slow".to_vec()].concat() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"hello slow");
}

fn changed(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = ours("proxy.sock");
    bytes[at] = byte;
    bytes
}

#[rstest]
#[case::absent(Vec::new(), "relay-broken-off")]
#[case::cut(ours("proxy.sock")[..PREFACE - 1].to_vec(), "relay-broken-off")]
#[case::wrong(changed(PREFACE - 2, 0), "relay-secret")]
#[case::zero(preface("proxy.sock", &[0; RELAY_SECRET]).unwrap().to_vec(), "relay-secret")]
#[case::too_long(changed(PREFACE - 1, b'x'), "relay-length")]
#[case::another_version(changed(7, b'2'), "relay-version")]
#[case::http([b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), vec![b'x'; PREFACE]].concat(), "relay-version")]
#[case::unknown(ours("other.sock"), "relay-service")]
#[case::outside(ours("../proxy.sock"), "relay-service")]
#[case::not_there(ours("gone.sock"), "relay-unreachable")]
#[tokio::test]
async fn anything_else_is_given_nothing_and_named(#[case] bytes: Vec<u8>, #[case] expected: &str) {
    let mut site = Site::new(5_000);
    let mut stream = site.connect().await;
    stream.write_all(&bytes).await.unwrap();
    let _ = stream.shutdown().await;
    assert_eq!(rest(&mut stream).await, b"");
    assert_eq!(site.refusal().await, expected);
    // And the next one is served.
    let mut stream = site.connect().await;
    stream.write_all(&ours("proxy.sock")).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"hello ");
}

#[tokio::test]
async fn a_preface_that_does_not_come_to_its_end_is_not_waited_for() {
    let mut site = Site::new(200);
    for given in [0, 1, PREFACE - 1] {
        let mut stream = site.connect().await;
        stream.write_all(&ours("proxy.sock")[..given]).await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{given}");
        assert_eq!(site.refusal().await, "relay-late", "{given}");
    }
}

/// Who is led has all the time that there is.
#[tokio::test]
async fn the_limit_is_for_the_preface_alone() {
    let site = Site::new(200);
    let mut stream = site.connect().await;
    stream.write_all(&ours("proxy.sock")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"hello late");
}

#[tokio::test]
async fn few_wait_at_a_time_and_they_do_not_wait_for_ever() {
    let mut site = Site::new(1_000);
    let mut silent = Vec::new();
    for _ in 0..WAITING {
        silent.push(site.connect().await);
    }
    let mut stream = site.connect().await;
    stream.write_all(&ours("proxy.sock")).await.unwrap();
    stream.shutdown().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(early.is_err(), "all places were taken");
    assert_eq!(rest(&mut stream).await, b"hello ");
    for _ in 0..WAITING {
        assert_eq!(site.refusal().await, "relay-late");
    }
}

#[test]
fn a_secret_of_another_form_is_not_shown() {
    let (recorder, _events) = Recorder::channel("t-1", Daemon::Relay);
    let plan = RelayPlan {
        port: 0,
        directory: "/nonexistent".to_owned(),
        services: Vec::new(),
    };
    for odd in ["", "SENTINEL", &"0".repeat(63), &"0".repeat(66), &"x".repeat(64)] {
        let error = Relay::new(&plan, odd, &WireLimits::default(), recorder.clone())
            .err()
            .unwrap();
        assert!(!error.to_string().contains("SENTINEL"), "{error}");
    }
}

/// Nothing of the directory is a service by being there.
#[tokio::test]
async fn only_what_the_configuration_names_is_a_service() {
    let mut site = Site::new(5_000);
    std::fs::hard_link(
        site.directory.path().join("proxy.sock"),
        site.directory.path().join("else.sock"),
    )
    .unwrap();
    let mut stream = site.connect().await;
    stream.write_all(&ours("else.sock")).await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    assert_eq!(site.refusal().await, "relay-service");
}
