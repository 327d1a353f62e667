//! TLS as a client that believes every certificate: the agent wants to know what it talks to, not to trust it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};

use crate::notes::{NotIssued, Run};
use crate::wire::Stream;

/// Time for a handshake. Interception mints certificates on the way.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Pause between the pieces of a split first flight.
const PIECE_PAUSE: Duration = Duration::from_millis(30);

/// How a handshake begins.
pub struct Hello<'a> {
    /// Server name; none and addresses send none.
    pub sni: Option<&'a str>,
    /// ALPN protocols.
    pub alpn: &'a [String],
    /// Bytes a piece of the first flight.
    pub split: Option<usize>,
}

/// Starts TLS over `stream`. The outer error is the agent's own (nothing was sent), the inner one the peer's.
pub fn start(run: &Run, stream: Box<dyn Stream>, hello: &Hello<'_>) -> Result<io::Result<Box<dyn Stream>>, NotIssued> {
    let mut client = client(hello)?;
    let mut first = Vec::new();
    while client.wants_write() {
        client
            .write_tls(&mut first)
            .map_err(|error| NotIssued::Tls(error.to_string()))?;
    }
    Ok(handshake(run, client, stream, &first, hello.split))
}

fn client(hello: &Hello<'_>) -> Result<ClientConnection, NotIssued> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| NotIssued::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelieveAll(provider)))
        .with_no_client_auth();
    config.enable_sni = hello.sni.is_some();
    config.alpn_protocols = hello
        .alpn
        .iter()
        .map(|protocol| protocol.clone().into_bytes())
        .collect();
    let name = match hello.sni {
        // Never sent: only a key for sessions, which are not resumed.
        None => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([192, 0, 2, 1]))),
        Some(name) => ServerName::try_from(name.to_owned())
            .map_err(|_| NotIssued::Tls(format!("`{name}` cannot be sent as a server name (RFC 6066)")))?,
    };
    ClientConnection::new(Arc::new(config), name).map_err(|error| NotIssued::Tls(error.to_string()))
}

fn handshake(
    run: &Run,
    mut client: ClientConnection,
    mut stream: Box<dyn Stream>,
    first: &[u8],
    split: Option<usize>,
) -> io::Result<Box<dyn Stream>> {
    match split {
        None => stream.write_all(first)?,
        Some(piece) => {
            for piece in first.chunks(piece.max(1)) {
                stream.write_all(piece)?;
                stream.flush()?;
                run.pause(PIECE_PAUSE);
            }
        }
    }
    stream.flush()?;
    while client.is_handshaking() {
        stream.set_read_timeout(run.awaiting(HANDSHAKE_TIME))?;
        client.complete_io(&mut stream)?;
    }
    if let Some(certificate) = client.peer_certificates().and_then(<[_]>::first) {
        run.trace(format!(
            "tls {:?}: {}",
            client.protocol_version(),
            certificate_summary(certificate)
        ));
    }
    if let Some(protocol) = client.alpn_protocol() {
        run.trace(format!("alpn {}", protocol.escape_ascii()));
    }
    Ok(Box::new(TlsStream(StreamOwned::new(client, stream))))
}

/// TLS over any stream, so also over TLS.
struct TlsStream(StreamOwned<ClientConnection, Box<dyn Stream>>);

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            // Peers that close without close_notify are common; for the agent that is an end like another.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for TlsStream {
    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        self.0.sock.set_read_timeout(time)
    }

    fn certificate(&self) -> Option<Vec<u8>> {
        let shown = self.0.conn.peer_certificates()?;
        shown.first().map(|leaf| leaf.to_vec())
    }
}

impl Stream for Box<dyn Stream> {
    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        (**self).set_read_timeout(time)
    }

    fn certificate(&self) -> Option<Vec<u8>> {
        (**self).certificate()
    }
}

/// Issuer's common name and DNS names, found by their object identifiers: enough for a trace, no parser of certificates.
fn certificate_summary(certificate: &[u8]) -> String {
    /// id-at-commonName and id-ce-subjectAltName (RFC 5280).
    const COMMON_NAME: &[u8] = &[6, 3, 0x55, 4, 3];
    const ALTERNATIVE_NAMES: &[u8] = &[6, 3, 0x55, 0x1d, 0x11];
    let find = |oid: &[u8]| {
        certificate
            .windows(oid.len())
            .position(|window| window == oid)
            .map(|at| at + oid.len())
    };
    let text = |at: usize| {
        let length = usize::from(*certificate.get(at + 1)?);
        certificate.get(at + 2..at + 2 + length)
    };
    let issuer = find(COMMON_NAME).and_then(text).unwrap_or_default();
    let mut names = Vec::new();
    if let Some(at) = find(ALTERNATIVE_NAMES) {
        let end = certificate.len().min(at + 256);
        let mut at = at;
        while at + 1 < end && names.len() < 4 {
            // [2] dNSName.
            match (certificate[at], text(at)) {
                (0x82, Some(name)) => {
                    names.push(name.escape_ascii().to_string());
                    at += 2 + name.len();
                }
                _ if !names.is_empty() => break,
                _ => at += 1,
            }
        }
    }
    format!("issuer \"{}\" names {names:?}", issuer.escape_ascii())
}

/// Believes every certificate and every signature: whom the agent talks to is for the witnesses to say, and a peer must not
/// escape the attempt by showing a certificate that cannot be parsed.
#[derive(Debug)]
struct BelieveAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
