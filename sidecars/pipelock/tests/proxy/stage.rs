//! What the tests play on: pipelock between a guest made of bytes and stand-ins for egress and the name server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bottle_pipelock::{HopSecret, PipelockSetup};
use bottle_policy::{
    AllowRule, BundleConfig, BundleEvent, CONFIG_VERSION, Controls, Daemon, DecisionRecord, Listen, Policy, Resolver,
    WireLimits,
};
use bottle_wire::{Authority, Recorder, tls_provider};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const SECRET: &str = "hop-secret";

pub struct Stage {
    pub proxy: SocketAddr,
    pub authority: Arc<Authority>,
    pub events: mpsc::Receiver<BundleEvent>,
    pub looked_up: Arc<Mutex<Vec<String>>>,
    pub seen: Arc<Mutex<Vec<String>>>,
    _serving: tokio::task::JoinSet<()>,
}

impl Stage {
    pub async fn new() -> Self {
        Self::with(Controls::all(), |_| {}).await
    }

    pub async fn with(controls: Controls, change: impl FnOnce(&mut BundleConfig)) -> Self {
        let mut serving = tokio::task::JoinSet::new();
        let looked_up = Arc::new(Mutex::new(Vec::new()));
        let resolver = name_server(looked_up.clone(), &mut serving).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let egress = egress(seen.clone(), &mut serving).await;
        let mut config = config(resolver);
        change(&mut config);
        let bound = bottle_pipelock::bind(&config).unwrap();
        let proxy = bound.tcp_addresses()[0];
        let authority = Arc::new(Authority::mint("dev-1").unwrap());
        let (events, receiver) = Recorder::channel("dev-1", Daemon::Pipelock);
        let hop_secret = HopSecret::new(SECRET.into());
        let setup = PipelockSetup {
            config,
            hop_secret,
            egress,
            controls,
            events,
            authority: authority.clone(),
        };
        serving.spawn(async move { bottle_pipelock::serve(bound, setup).await.unwrap() });
        Self {
            proxy,
            authority,
            events: receiver,
            looked_up,
            seen,
            _serving: serving,
        }
    }

    pub async fn guest(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// Sends bytes on a new connection and gives everything that comes back until it is closed.
    pub async fn say(&self, bytes: &[u8]) -> String {
        let mut guest = self.guest().await;
        guest.write_all(bytes).await.unwrap();
        rest(&mut guest).await
    }

    /// Opens a CONNECT and gives the connection behind its answer.
    pub async fn connect(&self, authority: &str) -> TcpStream {
        let mut guest = self.guest().await;
        guest
            .write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let head = head(&mut guest).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        guest
    }

    pub async fn tls(&self, authority: &str, sni: &str, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.connect(authority).await;
        self.handshake(stream, sni, alpn).await
    }

    pub async fn handshake<S>(&self, stream: S, sni: &str, alpn: &[&str]) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes()).unwrap())
            .unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(tls_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The next decision that fits.
    pub async fn decision(&mut self, fits: impl Fn(&DecisionRecord) -> bool) -> DecisionRecord {
        let next = async {
            loop {
                match self.events.recv().await {
                    Some(BundleEvent::Decision(record)) if fits(&record) => return record,
                    Some(_) => {}
                    None => panic!("no more events"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), next)
            .await
            .expect("a decision")
    }

    pub async fn rule(&mut self, rule: &str) -> DecisionRecord {
        self.decision(|record| record.rule == rule).await
    }

    /// The heads that egress got.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn config(resolver: SocketAddr) -> BundleConfig {
    let rule = |host: &str, ports: &[u16]| AllowRule {
        host: host.into(),
        ports: ports.to_vec(),
    };
    BundleConfig {
        version: CONFIG_VERSION,
        bottle: "dev-1".into(),
        daemons: vec![Daemon::Pipelock],
        listen: vec![Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into())],
        publish: None,
        policy: Policy {
            allow: vec![
                rule("allowed.test", &[443, 80]),
                rule("private.test", &[443, 80]),
                rule("split.test", &[80]),
                rule("gone.test", &[80]),
                rule("two.test", &[80]),
                rule("refused.test", &[80]),
                rule("198.51.100.9", &[443]),
            ],
        },
        routes: Vec::new(),
        resolver: Resolver::Servers(vec![resolver]),
        upstream_roots: Vec::new(),
        public_roots: false,
        lease: false,
        relay: None,
        limits: WireLimits {
            head_ms: 700,
            head_bytes: 4096,
            head_fields: 20,
            ..WireLimits::default()
        },
        #[cfg(feature = "leaky")]
        removed: Vec::new(),
    }
}

async fn name_server(log: Arc<Mutex<Vec<String>>>, serving: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    serving.spawn(async move {
        let mut buffer = [0u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let query = asked.queries[0].clone();
            let name = query.name().to_ascii();
            log.lock().unwrap().push(name.clone());
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            let good = Ipv4Addr::new(198, 51, 100, 7);
            let found: &[Ipv4Addr] = match name.as_str() {
                "private.test." => &[Ipv4Addr::new(10, 0, 0, 1)],
                "split.test." => &[good, Ipv4Addr::LOCALHOST],
                "gone.test." => &[],
                "two.test." => &[Ipv4Addr::new(203, 0, 113, 66), good],
                _ => &[good],
            };
            if found.is_empty() {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            if query.query_type() == RecordType::A {
                for ip in found {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(*ip))));
                }
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

/// Answers each request with its own head as the body, after reading its body; `/echo` sends the body back in chunks.
async fn egress(seen: Arc<Mutex<Vec<String>>>, serving: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move { while answer(&mut stream, &seen).await.is_some() {} });
        }
    });
    address
}

async fn answer(stream: &mut TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let head = try_head(stream).await?;
    seen.lock().unwrap().push(head.clone());
    let lower = head.to_ascii_lowercase();
    let value = |name: &str| {
        let line = lower.lines().find(|line| line.starts_with(&format!("{name}: ")))?;
        line.split_once(": ").map(|(_, value)| value.to_owned())
    };
    let mut body = Vec::new();
    if let Some(length) = value("content-length") {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if value("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            body.push(stream.read_u8().await.ok()?);
        }
    }
    let reply = if value("upgrade").is_some() {
        stream
            .write_all(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\nx-a: b\r\n\r\n")
            .await
            .ok()?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok()?;
        return None;
    } else if head.contains("//refused.test:") {
        let told = "the certificate of refused.test is not trusted";
        format!(
            "HTTP/1.1 502 Bad\r\nx-bottle-refusal: upstream-certificate\r\ncontent-length: {}\r\n\r\n{told}",
            told.len()
        )
    } else if head.contains("x-bottle-address: 203.0.113.66") {
        "HTTP/1.1 502 Bad\r\nx-bottle-refusal: connect-refused\r\ncontent-length: 2\r\n\r\nno".to_owned()
    } else if head.contains("/echo") {
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\nx-trailer: t\r\n\r\n",
            body.len(),
            String::from_utf8_lossy(&body)
        )
    } else if head.contains("/close") {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end")
            .await
            .ok()?;
        return None;
    } else if head.starts_with("HEAD ") {
        "HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n".to_owned()
    } else if head.contains("/redirect") {
        "HTTP/1.1 302 Found\r\nlocation: http://denied.test/landed\r\ncontent-length: 0\r\n\r\n".to_owned()
    } else {
        format!(
            "HTTP/1.1 200 OK\r\nx-bottle-hop: no\r\nkeep-alive: x\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        )
    };
    stream.write_all(reply.as_bytes()).await.ok()
}

async fn try_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

pub async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, try_head(stream))
        .await
        .expect("an answer")
        .expect("a whole head")
}

/// One answer with its body of a told length.
pub async fn reply<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut text = head(stream).await;
    let lower = text.to_ascii_lowercase();
    let length = lower
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    text.push_str(&String::from_utf8(body).unwrap());
    text
}

pub async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes))
        .await
        .expect("the end");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes one byte at a time.
pub struct Dribble<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Dribble<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Dribble<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
