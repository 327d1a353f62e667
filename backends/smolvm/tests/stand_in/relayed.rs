//! Machines that cannot be handed their bundle's sockets: what the launcher does in their stead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_backend::{Backend, Role};
use bottle_docker::Docker;
use bottle_launch::{Bottle, LaunchError};
use bottle_plan::Topology;
use bottle_policy::relay::{PREFACE, RELAY_SECRET, asked};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::FOREVER;
use crate::fixture::Site;

/// A request that the proxy refuses.
const HEAD: &[u8] = b"GET http://denied.test/ HTTP/1.1\r\nhost: denied.test\r\nconnection: close\r\n\r\n";

/// Where the first routed bottle's bundle publishes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 16);

/// Stands in for the bundle's published port: hands out the preface of each connection, then says what it is told.
struct Port {
    address: SocketAddr,
    prefaces: mpsc::UnboundedReceiver<[u8; PREFACE]>,
}

impl Port {
    async fn open(at: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, prefaces) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut preface = [0; PREFACE];
                    stream.read_exact(&mut preface).await.unwrap();
                    sender.send(preface).unwrap();
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self { address, prefaces }
    }

    /// Which service was asked for, with which secret.
    async fn asked(&mut self) -> (String, [u8; RELAY_SECRET]) {
        let preface = self.prefaces.recv().await.unwrap();
        let secret: [u8; RELAY_SECRET] = preface[PREFACE - 1 - RELAY_SECRET..][..RELAY_SECRET]
            .try_into()
            .unwrap();
        (asked(&preface, &secret).unwrap().to_owned(), secret)
    }
}

/// A bottle whose engine is on another kernel, as the in-memory one says that it is.
async fn launch(site: &Site, topology: Topology) -> Result<Bottle, LaunchError> {
    let backend = site.open().await.unwrap();
    let engine = backend.facts().await.unwrap();
    assert!(engine.relay.is_some());
    site.launch_on(backend, site.plan_on(engine, FOREVER, topology)).await
}

fn digits(secret: &[u8]) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether this has the secret in it, as it is or in hexadecimal digits.
fn has(content: &[u8], secret: &[u8]) -> bool {
    let digits = digits(secret);
    let mut forms = [secret, digits.as_bytes()].into_iter();
    forms.any(|form| content.windows(form.len()).any(|part| part == form))
}

/// Files below a directory that have it.
fn files_with(directory: &Path, secret: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), secret));
        } else if kind.is_file() && std::fs::read(entry.path()).is_ok_and(|content| has(&content, secret)) {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn a_sealed_machines_sockets_are_led_to_the_published_port() {
    let site = Site::new();
    let mut port = Port::open(Ipv4Addr::LOCALHOST).await;
    site.engine
        .publishes("9470/tcp", &[(port.address.ip(), port.address.port())]);
    let bottle = launch(&site, Topology::Sealed).await.unwrap();
    let shared = site.settings.shared(&bottle.plan().volumes[0].name);
    let mut secrets = Vec::new();
    for service in ["proxy.sock", "lease.sock"] {
        let mut stream = UnixStream::connect(shared.join(service)).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"hello");
        let (asked, secret) = port.asked().await;
        assert_eq!(asked, service);
        secrets.push(secret);
    }
    assert_eq!(secrets[0], secrets[1]);
    assert_ne!(secrets[0], [0; RELAY_SECRET]);
    // It is in no file, argument, environment or log; the stand-in writes down what it is called with.
    assert!(site.calls().contains("--mount-socket"));
    assert_eq!(files_with(&site.path(""), &secrets[0]), Vec::<PathBuf>::new());
    for name in ["environ", "cmdline"] {
        assert!(
            !has(&std::fs::read(format!("/proc/self/{name}")).unwrap(), &secrets[0]),
            "{name}"
        );
    }
    // The search finds what is there.
    std::fs::write(site.path("planted"), [b"x", &secrets[0][..]].concat()).unwrap();
    assert_eq!(files_with(&site.path(""), &secrets[0]), [site.path("planted")]);

    let mut held = UnixStream::connect(shared.join("lease.sock")).await.unwrap();
    held.write_all(b"x").await.unwrap();
    held.read_u8().await.unwrap();
    port.asked().await;
    assert!(bottle.close().await.is_clean());
    assert_eq!(held.read(&mut [0]).await.unwrap_or(0), 0, "it ends with the bottle");
    assert_eq!(site.left().await, Vec::<String>::new());
    // Each bottle has a secret of its own.
    let bottle = launch(&site, Topology::Sealed).await.unwrap();
    let shared = site.settings.shared(&bottle.plan().volumes[0].name);
    let _stream = UnixStream::connect(shared.join("proxy.sock")).await.unwrap();
    assert_ne!(port.asked().await.1, secrets[0]);
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn a_port_that_others_can_reach_fails_the_launch() {
    for places in [&[(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 40_000)][..], &[]] {
        let site = Site::new();
        site.engine.publishes("9470/tcp", places);
        let error = launch(&site, Topology::Sealed).await.err().unwrap();
        assert!(
            error
                .to_string()
                .contains("bundle.published.9470/tcp: planned one port of 127.0.0.1, observed ["),
            "{error}"
        );
        assert!(!site.calls().contains("machine start"), "{}", site.calls());
        assert_eq!(site.left().await, Vec::<String>::new());
    }
}

/// The machine's proxy has an address that smolvm cannot reach, so the connection of its question is led to the bundle.
#[tokio::test]
async fn a_routed_machines_connections_to_its_proxy_are_led_to_the_published_port() {
    let site = Site::new();
    let mut port = Port::open(FIRST).await;
    site.engine
        .publishes("9470/tcp", &[(port.address.ip(), port.address.port())]);
    let bottle = launch(&site, Topology::Routed).await.unwrap();
    let (listener, token) = site.interceptor();
    let proxy: SocketAddrV4 = bottle.plan().guest.env["HTTP_PROXY"][7..].parse().unwrap();
    let mut led = TcpStream::connect(listener).await.unwrap();
    led.write_all(&Site::question(&token, proxy, b"first ")).await.unwrap();
    assert_eq!(led.read_u8().await.unwrap(), 2);
    led.write_all(b"more").await.unwrap();
    led.shutdown().await.unwrap();
    let mut all = Vec::new();
    led.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"first more");
    assert_eq!(port.asked().await.0, "proxy.sock");
    for other in [
        SocketAddrV4::new(*proxy.ip(), 9470),
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.address.port()),
    ] {
        let mut asking = TcpStream::connect(listener).await.unwrap();
        asking.write_all(&Site::question(&token, other, b"")).await.unwrap();
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [1], "{other}");
    }
    assert!(port.prefaces.try_recv().is_err(), "nothing else was led");
    assert!(bottle.close().await.is_clean());
    assert!(TcpStream::connect(listener).await.is_err());
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// A bundle that is gone is a refusal, not a connection to nowhere.
#[tokio::test]
async fn a_connection_that_cannot_be_led_is_refused() {
    let site = Site::new();
    let gone = TcpListener::bind((FIRST, 0)).await.unwrap().local_addr().unwrap();
    site.engine.publishes("9470/tcp", &[(gone.ip(), gone.port())]);
    let bottle = launch(&site, Topology::Routed).await.unwrap();
    let (listener, token) = site.interceptor();
    let proxy = bottle.plan().guest.env["HTTP_PROXY"][7..].parse().unwrap();
    let mut asking = TcpStream::connect(listener).await.unwrap();
    asking
        .write_all(&Site::question(&token, proxy, b"first"))
        .await
        .unwrap();
    let mut answer = Vec::new();
    asking.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [1]);
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn a_smolvm_that_does_not_hand_over_connections_is_refused() {
    let mut site = Site::new();
    site.settings.firewall = true;
    site.tell("version.say", "smolvm 1.4.0");
    site.engine.publishes("9470/tcp", &[(FIRST.into(), 40_000)]);
    let error = launch(&site, Topology::Routed).await.err().unwrap();
    assert!(error.to_string().contains("1.32.2 or later hands them over"), "{error}");
    assert!(!site.calls().contains("machine start"), "{}", site.calls());
}

/// A site and a real engine, which machines are to reach by a relay.
async fn in_an_engine(leaves_out: &str) -> Option<(Site, Arc<Docker>)> {
    let engine = match Docker::connect().await {
        Ok(engine) => Arc::new(engine),
        Err(error) if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() => {
            println!("left out, no engine ({error}): {leaves_out}");
            return None;
        }
        Err(error) => panic!("{error}. To leave out the tests that need an engine, set BOTTLE_TEST_NO_ENGINE=1"),
    };
    let mut site = Site::new();
    site.settings.always_relay = true;
    Some((site, engine))
}

/// The shipped bundle's image.
async fn bundle_in(engine: &Docker) -> String {
    let image = crate::bundle_image::built();
    if engine.find_image(&image.reference).await.unwrap().is_none() {
        engine.load_image(&image.reference, image.archive).await.unwrap();
    }
    image.reference
}

/// A bottle with the shipped bundle in that engine.
async fn launch_in(site: &Site, engine: &Arc<Docker>, topology: Topology) -> Bottle {
    let image = bundle_in(engine).await;
    let backend = site.open_in(engine.clone()).await;
    let mut plan = site.plan_on(backend.facts().await.unwrap(), FOREVER, topology);
    plan.bundle.image = image;
    site.launch_on(backend, plan).await.unwrap()
}

/// The one place where a bottle's bundle publishes.
fn published(bottle: &Bottle) -> (IpAddr, u16) {
    let published = &bottle.bundle().published;
    let [place] = published["9470/tcp"][..] else {
        panic!("{published:?}")
    };
    assert_eq!(published.len(), 1, "{published:?}");
    place
}

/// What the engine's own program says, on both of its streams.
fn docker(words: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("docker").args(words).output().unwrap();
    assert!(
        output.status.success(),
        "docker {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    [output.stdout, output.stderr].concat()
}

/// Told a secret that the test knows, the bundle shows it nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_an_engine_is_in_no_inspect_log_file_argument_or_environment() {
    let Some((site, engine)) = in_an_engine("a relay's secret in an engine").await else {
        return;
    };
    let secret = *b"SENTINEL-relay-secret-in-engine-";
    let backend = site.open_in(engine.clone()).await;
    let plan = site.plan_on(backend.facts().await.unwrap(), FOREVER, Topology::Sealed);
    let labels = bottle_launch::labels(&plan.slug, "test-run", "bundle");
    let mut bundle = plan.bundle.clone();
    bundle.image = bundle_in(&engine).await;
    for network in &plan.networks {
        backend.create_network(network, &labels).await.unwrap();
    }
    backend.create_volume(&plan.volumes[0], &labels).await.unwrap();
    let none = Default::default();
    let id = backend.create(Role::Bundle, &bundle, &labels, &none).await.unwrap();
    let mut streams = backend.attach(Role::Bundle, &id, false).await.unwrap();
    backend.start(Role::Bundle, &id).await.unwrap();
    let tokens = serde_json::json!({ "tokens": {}, "relay": digits(&secret) });
    let lines = format!("{}\n{tokens}\n", serde_json::to_string(&plan.config).unwrap());
    streams.stdin.write_all(lines.as_bytes()).await.unwrap();
    streams.stdin.flush().await.unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(streams.stdout);
    output.read_line(&mut line).await.unwrap();
    assert!(line.contains("\"ready\""), "{line}");

    let seen = backend.observe(Role::Bundle, &id).await.unwrap();
    let mut stream = TcpStream::connect(seen.published["9470/tcp"][0]).await.unwrap();
    let preface = bottle_policy::relay::preface("proxy.sock", &secret).unwrap();
    stream.write_all(&[&preface[..], HEAD].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");

    for words in [
        &["inspect", &id][..],
        &["logs", &id],
        &["export", &id],
        &["top", &id, "-o", "pid,args"],
    ] {
        assert!(!has(&docker(words), &secret), "docker {words:?}");
    }
    let init = seen.pid.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let processes: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(processes.len(), 3, "{children}");
    for process in processes.into_iter().chain([&*init.to_string()]) {
        for name in ["cmdline", "environ"] {
            let shown = std::fs::read(format!("/proc/{process}/{name}")).unwrap();
            assert!(!has(&shown, &secret), "{name} of {process}");
        }
    }
    // Sockets, and a certificate and a program for the guest.
    assert_eq!(files_with(&site.path(""), &secret), Vec::<PathBuf>::new());
    drop(streams.stdin);
    let mut rest = String::new();
    output.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("\"ended\"") && !has(rest.as_bytes(), &secret), "{rest}");
    for resource in backend
        .inventory(bottle_plan::LABEL_SLUG, Some(&plan.slug))
        .await
        .unwrap()
    {
        backend.remove(&resource).await.unwrap();
    }
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// Two routed bottles: each publishes on an address of its own, and its machine's connections are led there.
#[tokio::test(flavor = "multi_thread")]
async fn routed_bottles_in_an_engine_publish_on_addresses_of_their_own() {
    let Some((site, engine)) = in_an_engine("two routed bottles behind relays").await else {
        return;
    };
    let first = launch_in(&site, &engine, Topology::Routed).await;
    let (listener, token) = site.interceptor();
    let second = launch_in(&site, &engine, Topology::Routed).await;
    let places = [&first, &second].map(|bottle| published(bottle).0);
    assert_ne!(places[0], places[1]);
    for place in places {
        let IpAddr::V4(place) = place else { panic!("{place}") };
        assert!(
            (16..=31).contains(&place.octets()[3]) && place.octets()[..3] == [127, 0, 0],
            "{place}"
        );
    }
    let proxy = first.plan().guest.env["HTTP_PROXY"][7..].parse().unwrap();
    let mut led = TcpStream::connect(listener).await.unwrap();
    led.write_all(&Site::question(&token, proxy, HEAD)).await.unwrap();
    assert_eq!(led.read_u8().await.unwrap(), 2);
    let mut answer = String::new();
    led.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    for bottle in [first, second] {
        assert!(bottle.close().await.is_clean());
    }
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// The shipped bundle in a real engine, as if that were on another kernel.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_in_an_engine_serves_through_the_relay_and_nobody_else() {
    let Some((site, engine)) = in_an_engine("a bundle behind a relay").await else {
        return;
    };
    let bottle = launch_in(&site, &engine, Topology::Sealed).await;
    let shared = site.settings.shared(&bottle.plan().volumes[0].name);

    let ask = async || {
        let mut stream = UnixStream::connect(shared.join("proxy.sock")).await.unwrap();
        stream.write_all(HEAD).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(ask().await.starts_with("HTTP/1.1 403 "));

    let (address, port) = published(&bottle);
    assert_eq!(address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let wrong = bottle_policy::relay::preface("proxy.sock", &[7; RELAY_SECRET]).unwrap();
    for (bytes, expected) in [
        (
            &b"GET http://denied.test/ HTTP/1.1\r\nhost: denied.test\r\n\r\n     "[..],
            "relay-version",
        ),
        (&wrong[..], "relay-secret"),
        (&wrong[..20], "relay-broken-off"),
    ] {
        let mut events = bottle.events();
        let mut stream = TcpStream::connect((address, port)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        // A reset is as good an end.
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut back))
            .await
            .unwrap();
        assert_eq!(back, b"");
        // That of the request before may come as late.
        let told = loop {
            let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
            let told = serde_json::to_value(event.unwrap().unwrap()).unwrap();
            if told["daemon"] == "relay" {
                break told;
            }
        };
        assert_eq!(told["rule"], expected, "{told}");
    }
    assert!(ask().await.starts_with("HTTP/1.1 403 "), "and the bottle goes on");

    let mut lease = UnixStream::connect(shared.join("lease.sock")).await.unwrap();
    let held = tokio::time::timeout(Duration::from_millis(300), lease.read_u8()).await;
    assert!(held.is_err(), "the lease is held: {held:?}");
    let id = bottle.id(Role::Bundle).to_owned();
    assert!(bottle.close().await.is_clean());
    assert_eq!(lease.read(&mut [0]).await.unwrap_or(0), 0, "and ends with the bundle");
    assert!(engine.observe(Role::Bundle, &id).await.is_err());
    assert_eq!(site.left().await, Vec::<String>::new());
}
