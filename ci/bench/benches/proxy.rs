//! The bundle (pipelock and egress, both hops) against mitmproxy and against no proxy at all: keep-alive HTTPS, 1 KiB.
//!
//! Everything runs in a network namespace of its own, in which the origin has a documentation address on loopback: nothing
//! can leave it, and the bundle's address rules are in force.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bottle_bench::{Samples, milliseconds, print, resident};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where the origin is.
const ORIGIN: &str = "198.51.100.10:443";
const ORIGIN_ADDRESS: &str = "198.51.100.10";
const BUNDLE: &str = "127.0.0.1:18888";
const MITMPROXY: &str = "127.0.0.1:18080";
const RUN: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Set in the copy of this program that runs inside the namespace.
const INSIDE: &str = "BOTTLE_BENCH_INSIDE";

fn main() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    setup()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

/// Runs this program again in a network namespace of its own.
fn enter() -> anyhow::Result<()> {
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe()?)
        .env(INSIDE, "1")
        .status()
        .context("could not start `unshare` (package util-linux; needs root)")?;
    ensure!(status.success(), "the benchmark in its namespace ended with {status}");
    Ok(())
}

fn setup() -> anyhow::Result<()> {
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &["addr", "add", "198.51.100.10/32", "dev", "lo"],
    ] {
        let status = Command::new("ip")
            .args(arguments)
            .status()
            .context("could not start `ip` (package iproute2)")?;
        ensure!(status.success(), "ip {arguments:?} ended with {status}");
    }
    Ok(())
}

/// A child that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Our own child; a failure means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new()?;
    origin(&authority).await?;
    let (bundle, ready) = start_bundle(&authority.pem)?;
    let mitmproxy = start_mitmproxy(directory.path(), &authority.pem).await?;

    let mut rows = Vec::new();
    for connections in [1, 16] {
        let paths = [
            ("direct", None),
            ("bundle", Some(BUNDLE)),
            ("mitmproxy", Some(MITMPROXY)),
        ];
        let mut results: Vec<(f64, Samples)> = paths.iter().map(|_| (0.0, Samples::default())).collect();
        for _ in 0..ROUNDS {
            for ((_, proxy), result) in paths.iter().zip(&mut results) {
                let samples = load(*proxy, connections).await?;
                result.0 += samples.len() as f64 / RUN.as_secs_f64() / ROUNDS as f64;
                result.1.extend(samples);
            }
        }
        let reference = results.last().map_or(1.0, |(rate, _)| *rate);
        for ((name, _), (rate, samples)) in paths.iter().zip(&mut results) {
            rows.push(vec![
                connections.to_string(),
                (*name).to_owned(),
                format!("{rate:.0}"),
                format!("{:.1} x", *rate / reference),
                milliseconds(samples.median()),
                milliseconds(samples.quantile(0.99)),
            ]);
        }
    }
    print(
        "HTTPS through the bundle (both hops), 1 KiB keep-alive GET",
        &["connections", "path", "requests/s", "of mitmproxy", "p50", "p99"],
        &rows,
    );
    let children = tree(bundle.0.id());
    let memory: u64 = children.iter().filter_map(|pid| resident(*pid)).sum();
    println!(
        "\nbundle: ready {ready} ms after start; resident after load {:.1} MiB in {} processes (mitmproxy {:.1} MiB)",
        memory as f64 / 1048576.0,
        children.len(),
        tree(mitmproxy.0.id())
            .iter()
            .filter_map(|pid| resident(*pid))
            .sum::<u64>() as f64
            / 1048576.0
    );
    Ok(())
}

/// A process and its descendants.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        at += 1;
    }
    all
}

/// The authority that signs the origin's certificate.
struct Authority {
    pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        // A name of its own: OpenSSL takes a leaf whose issuer has the leaf's own name for self-signed.
        ca.distinguished_name.push(DnType::CommonName, "benchmark authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![ORIGIN_ADDRESS.to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self {
            pem: ca_cert.pem(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
        })
    }
}

/// Serves 1 KiB to every request.
async fn origin(authority: &Authority) -> anyhow::Result<()> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(authority.key.clone()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(authority.chain.clone(), key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(ORIGIN).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that goes away in the middle is the benchmark's own doing.
                let _ = stream.set_nodelay(true);
                if let Ok(stream) = acceptor.accept(stream).await {
                    let service = service_fn(|_| async {
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 1024]))))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            });
        }
    });
    Ok(())
}

/// Starts the shipped bundle; how many milliseconds it took to be ready.
fn start_bundle(root: &str) -> anyhow::Result<(Running, u64)> {
    let parts =
        std::env::var_os("BOTTLE_PARTS_DIR").context("run this by `cargo xtask bench`, which builds the parts")?;
    let mut child = Command::new(PathBuf::from(parts).join("bottle-bundle"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start bottle-bundle")?;
    let config = serde_json::json!({
        "version": 1, "bottle": "bench", "daemons": ["pipelock", "egress"], "listen": [{"tcp": BUNDLE}], "publish": null,
        "policy": {"allow": [{"host": ORIGIN_ADDRESS, "ports": [443]}]}, "routes": [], "resolver": "system",
        "upstream_roots": [root], "public_roots": false, "lease": false, "limits": {}
    });
    let stdin = child.stdin.as_mut().context("expected the bundle's input")?;
    writeln!(stdin, "{config}\n{{\"tokens\":{{}}}}")?;
    let mut lines = BufReader::new(child.stdout.take().context("expected the bundle's output")?).lines();
    let running = Running(child);
    for line in lines.by_ref() {
        let event: serde_json::Value = serde_json::from_str(&line?)?;
        match event["event"].as_str() {
            Some("ready") => {
                let after = event["after_ms"].as_u64().unwrap_or_default();
                // The decision log goes on; somebody has to read it.
                std::thread::spawn(move || lines.count());
                return Ok((running, after));
            }
            Some("failed") => bail!("the bundle failed: {}", event["reason"]),
            _ => {}
        }
    }
    bail!("the bundle ended before it was ready")
}

async fn start_mitmproxy(directory: &Path, root: &str) -> anyhow::Result<Running> {
    let program = std::env::var_os("BOTTLE_BENCH_MITMDUMP").context("run this by `cargo xtask bench`")?;
    let trusted = directory.join("origin-ca.pem");
    std::fs::write(&trusted, root)?;
    let (host, port) = MITMPROXY.split_once(':').context("expected host:port")?;
    let child = Command::new(program)
        .args(["--quiet", "--listen-host", host, "--listen-port", port])
        .arg("--set")
        .arg(format!("confdir={}", directory.join("mitmproxy").display()))
        .arg("--set")
        .arg(format!("ssl_verify_upstream_trusted_ca={}", trusted.display()))
        .stdin(Stdio::null())
        .spawn()
        .context("could not start mitmdump")?;
    let running = Running(child);
    let begun = Instant::now();
    while TcpStream::connect(MITMPROXY).await.is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "mitmdump did not listen within 30 s"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(running)
}

/// Loads one path with this many connections for [`RUN`].
async fn load(proxy: Option<&str>, connections: usize) -> anyhow::Result<Samples> {
    let until = Instant::now() + RUN;
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let proxy: Option<SocketAddr> = proxy.map(str::parse).transpose()?;
        tasks.push(tokio::spawn(connection(proxy, until)));
    }
    let mut all = Samples::default();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn connection(proxy: Option<SocketAddr>, until: Instant) -> anyhow::Result<Samples> {
    let target: SocketAddr = ORIGIN.parse()?;
    let mut stream = TcpStream::connect(proxy.unwrap_or(target)).await?;
    stream.set_nodelay(true)?;
    if proxy.is_some() {
        stream
            .write_all(format!("CONNECT {ORIGIN} HTTP/1.1\r\nHost: {ORIGIN}\r\n\r\n").as_bytes())
            .await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            ensure!(head.len() < 4096, "expected a short answer to CONNECT");
        }
        ensure!(
            head.starts_with(b"HTTP/1.1 200"),
            "CONNECT was answered {}",
            String::from_utf8_lossy(&head)
        );
    }
    let name = ServerName::try_from(ORIGIN_ADDRESS)?;
    let stream = TlsConnector::from(Arc::new(trusting()?)).connect(name, stream).await?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let mut samples = Samples::default();
    while Instant::now() < until {
        let request = Request::get("/")
            .header("host", ORIGIN_ADDRESS)
            .body(Empty::<Bytes>::new())?;
        let begun = Instant::now();
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status == 200,
            "expected 200 by {proxy:?}, got {status}: {}",
            String::from_utf8_lossy(&body)
        );
        ensure!(body.len() == 1024, "expected 1024 bytes, got {}", body.len());
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

/// A client configuration that takes any certificate: the benchmark measures proxies, each with an authority of its own.
fn trusting() -> anyhow::Result<rustls::ClientConfig> {
    Ok(
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth(),
    )
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
