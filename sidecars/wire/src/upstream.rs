//! Connecting to an upstream: exactly the address that was checked, over verified TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bottle_policy::{Controls, WireLimits};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

mod idle;

pub use idle::IdleIo;

/// Why a connector cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// One of the configured authorities is not PEM.
    #[error("authority {index} of `upstream_roots` is not a PEM certificate: {reason}")]
    Pem {
        /// Its index in the list.
        index: usize,
        /// What the parser said.
        reason: String,
    },
    /// One of them is PEM but no certificate that can be an authority.
    #[error("authority {index} of `upstream_roots` cannot be trusted: {source}")]
    Unusable {
        /// Its index in the list.
        index: usize,
        /// Why.
        source: rustls::Error,
    },
    /// The TLS library refuses its own parameters.
    #[error("cannot configure TLS: {0}")]
    Tls(rustls::Error),
}

/// Why an upstream was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It answered with a reset.
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// Connecting and the handshake took too long.
    #[error("{address} was not connected within {within:?}")]
    TimedOut {
        /// Whom.
        address: SocketAddr,
        /// `WireLimits::connect_ms`.
        within: Duration,
    },
    /// Any other failure of connecting.
    #[error("{address} cannot be connected: {source}")]
    Failed {
        /// Whom.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Its certificate is not one for this name by a trusted authority.
    #[error("the certificate of {host} is not accepted: {reason}")]
    Certificate {
        /// The name that was expected.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The handshake failed otherwise.
    #[error("the TLS handshake with {host} failed: {reason}")]
    Tls {
        /// With whom.
        host: String,
        /// How.
        reason: String,
    },
}

impl ConnectError {
    /// Stable kebab-case name for decision records.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Refused(_) => "connect-refused",
            Self::TimedOut { .. } => "connect-timeout",
            Self::Failed { .. } => "connect-failed",
            Self::Certificate { .. } => "upstream-certificate",
            Self::Tls { .. } => "upstream-tls",
        }
    }
}

/// Whether and how a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS, with these protocols offered (RFC 7301).
    Tls {
        /// Whether HTTP/2 is offered before HTTP/1.1.
        http2: bool,
    },
}

/// Makes connections to upstreams.
pub struct Connector {
    http1: TlsConnector,
    http2: TlsConnector,
    connect: Duration,
    idle: Duration,
}

impl Connector {
    /// Trusts the public authorities (if `public_roots`) and those in `upstream_roots` (PEM); with neither, every TLS
    /// connection is refused.
    pub fn new(
        upstream_roots: &[String],
        public_roots: bool,
        limits: &WireLimits,
        controls: &Controls,
    ) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        if public_roots {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for (index, pem) in upstream_roots.iter().enumerate() {
            let mut found = false;
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| RootsError::Pem {
                    index,
                    reason: format!("{error:?}"),
                })?;
                roots
                    .add(certificate)
                    .map_err(|source| RootsError::Unusable { index, source })?;
                found = true;
            }
            if !found {
                return Err(RootsError::Pem {
                    index,
                    reason: "there is no certificate in it".into(),
                });
            }
        }
        let config = ClientConfig::builder_with_provider(crate::tls_provider())
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::with_config(config, limits, controls))
    }

    fn with_config(mut config: ClientConfig, limits: &WireLimits, controls: &Controls) -> Self {
        #[cfg(feature = "leaky")]
        if !controls.has(bottle_policy::Control::UpstreamVerify) {
            config.dangerous().set_certificate_verifier(Arc::new(leaky::AcceptAny));
        }
        let _ = controls;
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            http1: Arc::new(config).into(),
            http2: Arc::new(http2).into(),
            connect: Duration::from_millis(limits.connect_ms),
            idle: Duration::from_millis(limits.idle_ms),
        }
    }

    /// Connects to `address` and to nothing else; over TLS, as `host` (a name or an address, without brackets).
    pub async fn connect(&self, host: &str, address: SocketAddr, security: Security) -> Result<Upstream, ConnectError> {
        tokio::time::timeout(self.connect, self.connect_untimed(host, address, security))
            .await
            .unwrap_or(Err(ConnectError::TimedOut {
                address,
                within: self.connect,
            }))
    }

    async fn connect_untimed(
        &self,
        host: &str,
        address: SocketAddr,
        security: Security,
    ) -> Result<Upstream, ConnectError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused(address),
            io::ErrorKind::TimedOut => ConnectError::TimedOut {
                address,
                within: self.connect,
            },
            _ => ConnectError::Failed { address, source },
        };
        let tcp = TcpStream::connect(address).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let Security::Tls { http2 } = security else {
            return Ok(Upstream {
                io: IdleIo::new(UpstreamIo::Plain(tcp), self.idle),
                is_http2: false,
            });
        };
        let tls_failed = |reason: String| ConnectError::Tls {
            host: host.to_owned(),
            reason,
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| tls_failed("this is neither a name nor an address that a certificate could have".into()))?;
        let connector = if http2 { &self.http2 } else { &self.http1 };
        let tls = connector
            .connect(name, tcp)
            .await
            .map_err(|error| match rustls_error(&error) {
                Some(rustls::Error::InvalidCertificate(reason)) => ConnectError::Certificate {
                    host: host.to_owned(),
                    reason: reason.to_string(),
                },
                Some(other) => tls_failed(other.to_string()),
                None => tls_failed(error.to_string()),
            })?;
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Upstream {
            io: IdleIo::new(UpstreamIo::Tls(Box::new(tls)), self.idle),
            is_http2,
        })
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A connected upstream.
pub struct Upstream {
    /// The connection.
    pub io: IdleIo<UpstreamIo>,
    /// Whether HTTP/2 was agreed on.
    pub is_http2: bool,
}

/// The bytes of an upstream.
pub enum UpstreamIo {
    /// As they come.
    Plain(TcpStream),
    /// Decrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(context, buf),
            Self::Tls(io) => Pin::new(io).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(context, buf),
            Self::Tls(io) => Pin::new(io).poll_write(context, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(context, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(context, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(context),
            Self::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(context),
            Self::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

/// What K-PX-NOVERIFY has in place of verification.
#[cfg(feature = "leaky")]
mod leaky {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub struct AcceptAny;

    impl ServerCertVerifier for AcceptAny {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            crate::tls_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
