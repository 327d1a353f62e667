//! Loopback origins and an egress in front of them.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use bottle_egress::Egress;
use bottle_policy::{BundleConfig, BundleEvent, Daemon, DecisionRecord, Policy, Resolver, Route, Tokens, WireLimits};
use bottle_wire::{Recorder, tls_provider};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;

pub const HOP: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "SENTINEL-7f3a-token-value";

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

/// An authority for origins.
pub struct Roots(CertifiedIssuer<'static, KeyPair>);

/// How an origin's certificate is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    Good,
    Expired,
    WrongName,
    SelfSigned,
}

impl Roots {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn server_config(&self, leaf: Leaf, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let names = match leaf {
            Leaf::WrongName => vec!["other.test".to_owned()],
            _ => vec!["api.test".to_owned(), "plain.test".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(names).unwrap();
        if leaf == Leaf::Expired {
            params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(20);
            params.not_after = time::OffsetDateTime::now_utc() - time::Duration::days(10);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match leaf {
            Leaf::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.0).unwrap(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(tls_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

/// What an origin saw of a request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: http::Version,
    pub uri: String,
    pub headers: HeaderMap,
}

/// An origin on loopback.
pub struct Origin {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<std::sync::atomic::AtomicUsize>,
}

impl Origin {
    /// Answers every request by what `/...` asks for; over TLS when `tls` is given.
    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (Arc::clone(&origin.seen), Arc::clone(&origin.connections));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let (tls, seen) = (tls.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        return serve(TokioIo::new(tcp), false, seen).await;
                    };
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await else {
                        return;
                    };
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(TokioIo::new(stream), http2, seen).await;
                });
            }
        });
        origin
    }

    pub fn last(&self) -> Seen {
        self.seen
            .lock()
            .unwrap()
            .last()
            .expect("the origin saw a request")
            .clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn serve<I>(io: TokioIo<I>, http2: bool, seen: Arc<Mutex<Vec<Seen>>>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, _) = request
            .uri()
            .path()
            .split_once('?')
            .unwrap_or((request.uri().path(), ""));
        let path = parts.to_owned();
        seen.lock().unwrap().push(Seen {
            version: request.version(),
            uri: request.uri().to_string(),
            headers: request.headers().clone(),
        });
        async move { Ok::<_, Infallible>(super::answer(&path, request).await) }
    });
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
}

/// An egress, and what it recorded.
pub struct Stage {
    pub address: SocketAddr,
    pub records: Receiver<BundleEvent>,
}

pub fn config(roots: &Roots, routes: Vec<Route>) -> BundleConfig {
    BundleConfig {
        version: 1,
        bottle: "t-1".into(),
        daemons: Vec::new(),
        listen: Vec::new(),
        publish: None,
        policy: Policy::default(),
        routes,
        resolver: Resolver::Servers(Vec::new()),
        upstream_roots: vec![roots.pem()],
        public_roots: false,
        lease: false,
        relay: None,
        limits: WireLimits {
            idle_ms: 2000,
            connect_ms: 1000,
            ..WireLimits::default()
        },
        #[cfg(feature = "leaky")]
        removed: Vec::new(),
    }
}

impl Stage {
    pub async fn start(config: &BundleConfig) -> Self {
        let (recorder, records) = Recorder::channel("t-1", Daemon::Egress);
        let tokens = Tokens {
            tokens: [("T".to_owned(), TOKEN.to_owned())].into(),
            relay: None,
        };
        let egress = Egress::new(config, tokens, HOP.to_owned().into(), recorder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(bottle_egress::serve(listener, Arc::new(egress)));
        Self { address, records }
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    pub async fn get(&self, uri: &str, origin: &Origin, fields: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let response = self
            .send(hop(uri, origin.address, fields).body(full("")).unwrap())
            .await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    pub fn denial(&mut self) -> DecisionRecord {
        match self.records.try_recv().expect("a record") {
            BundleEvent::Decision(record) => record,
            other => panic!("expected a decision, found {other:?}"),
        }
    }
}

/// A request as pipelock makes it; a field with an empty value is left out.
pub fn hop(uri: &str, address: SocketAddr, fields: &[(&str, &str)]) -> http::request::Builder {
    let address = address.ip().to_string();
    let defaults = [
        ("x-bottle-hop", HOP),
        ("x-bottle-address", address.as_str()),
        ("x-bottle-alpn", "http/1.1"),
    ];
    let mut builder = Request::builder().uri(uri);
    for (name, value) in defaults
        .iter()
        .filter(|(name, _)| !fields.iter().any(|(other, _)| other == name))
    {
        builder = builder.header(*name, *value);
    }
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.header(*name, *value);
    }
    builder
}
