//! The bottle's own certificate authority: minted at start, its key in memory only.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottle_policy::Host;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::tls_provider;

/// Certificates begin this long before now: guests' clocks may be behind.
const BACK_DATED: time::Duration = time::Duration::hours(25);

/// How long the authority is valid.
const AUTHORITY_VALID: time::Duration = time::Duration::days(90);

/// How long a leaf is valid.
const LEAF_VALID: time::Duration = time::Duration::days(7);

/// After this time a leaf is minted anew.
const LEAF_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Most leaves kept; a wildcard rule lets a guest name as many hosts as it likes.
const LEAVES: usize = 1024;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityFault {
    /// While minting.
    #[error("cannot mint a certificate: {0}")]
    Mint(#[from] rcgen::Error),
    /// While making the TLS configuration of a leaf.
    #[error("cannot use a minted certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// No random serial number.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A certificate authority of one bottle. All its leaves share one key, made at the same time.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn SigningKey>,
    until: OffsetDateTime,
    leaves: Mutex<HashMap<Host, Leaf>>,
    #[cfg(feature = "leaky")]
    is_wide: bool,
}

struct Leaf {
    config: Arc<ServerConfig>,
    minted: Instant,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Mints an authority for a bottle: P-256, path length 0, signing certificates only.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn mint(bottle: &str) -> Result<Self, AuthorityFault> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(bottle)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Self::assemble(params, key, certificate_pem)
    }

    /// The authority of [`Authority::mint`] again, from [`Authority::to_secret_pem`] of another process of the same bundle:
    /// a restarted daemon must not change what the guest trusts.
    ///
    /// # Errors
    /// When the text does not begin with a P-256 key.
    pub fn from_secret_pem(bottle: &str, pem: &str) -> Result<Self, AuthorityFault> {
        let at = pem.find("-----BEGIN CERTIFICATE-----").unwrap_or(pem.len());
        let (key, certificate) = pem.split_at(at);
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)?;
        Self::assemble(authority_params(bottle)?, key, certificate.to_owned())
    }

    fn assemble(params: CertificateParams, key: KeyPair, certificate_pem: String) -> Result<Self, AuthorityFault> {
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let leaf_signer = tls_provider().key_provider.load_private_key(der)?;
        let until = params.not_after;
        let issuer = Issuer::new(params, key);
        Ok(Self {
            issuer,
            certificate_pem,
            leaf_key,
            leaf_signer,
            until,
            leaves: Mutex::default(),
            #[cfg(feature = "leaky")]
            is_wide: false,
        })
    }

    /// K-CAWIDE: an authority that may sign everything, for years.
    ///
    /// # Errors
    /// When the system has no random numbers.
    #[cfg(feature = "leaky")]
    pub fn mint_wide(bottle: &str) -> Result<Self, AuthorityFault> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = authority_params(bottle)?;
        widen(&mut params);
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self::assemble(params, key, certificate_pem)?.widened())
    }

    /// K-CAWIDE: its leaves may sign, stand for every host, and outlive it.
    #[cfg(feature = "leaky")]
    #[must_use]
    pub fn widened(mut self) -> Self {
        self.is_wide = true;
        self
    }

    /// The certificate that the guest is to trust (PEM).
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, then the certificate (PEM), for handing both to another process of the same bundle over a pipe. It
    /// is never to reach a file, an environment or a log; the caller wipes it.
    pub fn to_secret_pem(&self) -> String {
        let mut pem = self.issuer.key().serialize_pem();
        pem.push_str(&self.certificate_pem);
        pem
    }

    /// The TLS configuration that stands in for a host: a leaf with the host as its only subject alternative name,
    /// HTTP/2 and HTTP/1.1 offered. Minted once a day and host.
    ///
    /// # Errors
    /// When minting fails.
    pub fn server_config(&self, host: &Host) -> Result<Arc<ServerConfig>, AuthorityFault> {
        if let Some(leaf) = self.leaves().get(host).filter(|leaf| leaf.minted.elapsed() < LEAF_KEPT) {
            return Ok(leaf.config.clone());
        }
        let config = Arc::new(self.mint_leaf(host)?);
        let mut leaves = self.leaves();
        if leaves.len() >= LEAVES {
            // Any one of them: a guest that walks through names must not make us search for the oldest each time.
            if let Some(victim) = leaves.keys().next().cloned() {
                leaves.remove(&victim);
            }
        }
        leaves.insert(
            host.clone(),
            Leaf {
                config: config.clone(),
                minted: Instant::now(),
            },
        );
        Ok(config)
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, HashMap<Host, Leaf>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mint_leaf(&self, host: &Host) -> Result<ServerConfig, AuthorityFault> {
        let params = leaf_params(host, self.until)?;
        #[cfg(feature = "leaky")]
        let params = if self.is_wide { wide(params)? } else { params };
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = Arc::new(CertifiedKey::new(chain, self.leaf_signer.clone()));
        let mut config = ServerConfig::builder_with_provider(tls_provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OneLeaf(key)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Gives the one leaf whatever the handshake asks for; whether it may ask for that was decided before.
#[derive(Debug)]
struct OneLeaf(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for OneLeaf {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn authority_params(bottle: &str) -> Result<CertificateParams, AuthorityFault> {
    let mut name = DistinguishedName::new();
    // X.520 bounds a common name at 64 characters.
    let label: String = format!("bottle {bottle}")
        .chars()
        .filter(char::is_ascii)
        .take(64)
        .collect();
    name.push(DnType::CommonName, label);
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - BACK_DATED;
    params.not_after = now + AUTHORITY_VALID;
    params.serial_number = Some(serial()?);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(host: &Host, until: OffsetDateTime) -> Result<CertificateParams, AuthorityFault> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "bottle");
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - BACK_DATED;
    params.not_after = until.min(now + LEAF_VALID);
    params.serial_number = Some(serial()?);
    params.distinguished_name = name;
    params.subject_alt_names = vec![subject(host)?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// How long wide certificates are valid.
#[cfg(feature = "leaky")]
const WIDE_VALID: time::Duration = time::Duration::days(3650);

#[cfg(feature = "leaky")]
fn widen(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.not_after += WIDE_VALID;
}

/// A leaf that is for more than its host. It begins as late and ends later than its authority.
#[cfg(feature = "leaky")]
fn wide(mut params: CertificateParams) -> Result<CertificateParams, AuthorityFault> {
    widen(&mut params);
    params.not_after += WIDE_VALID;
    params.subject_alt_names.push(SanType::DnsName("*.test".try_into()?));
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    Ok(params)
}

/// Names go into a dNSName, addresses into an iPAddress (RFC 5280 4.2.1.6).
fn subject(host: &Host) -> Result<SanType, AuthorityFault> {
    Ok(match host {
        Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
        Host::Addr(address) => SanType::IpAddress(IpAddr::clone(address)),
    })
}

/// 16 random bytes, positive (RFC 5280 4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityFault> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(AuthorityFault::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{ServerName, UnixTime};

    fn verify(authority: &Authority, config_host: &str, asked: &str) -> bool {
        let host = Host::from_wire(config_host.as_bytes()).unwrap();
        let config = authority.server_config(&host).unwrap();
        assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        let leaf = authority.mint_leaf(&host).unwrap();
        drop(leaf);
        let certificate = leaf_params(&host, authority.until)
            .unwrap()
            .signed_by(&authority.leaf_key, &authority.issuer)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
            .unwrap();
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), tls_provider());
        let name = ServerName::try_from(asked.to_owned()).unwrap();
        verifier
            .build()
            .unwrap()
            .verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn leaves_stand_for_their_host_only() {
        let authority = Authority::mint("dev-1").unwrap();
        assert!(verify(&authority, "a.test", "a.test"));
        assert!(!verify(&authority, "a.test", "b.test"));
        assert!(verify(&authority, "198.51.100.7", "198.51.100.7"));
        assert!(!verify(&authority, "198.51.100.7", "198.51.100.8"));
        assert!(verify(&authority, "[2001:db8::7]", "2001:db8::7"));
        assert!(verify(&authority, "under_score.test", "under_score.test"));
    }

    #[test]
    fn a_restored_authority_signs_what_the_first_one_promised() {
        let first = Authority::mint("dev-1").unwrap();
        let second = Authority::from_secret_pem("dev-1", &first.to_secret_pem()).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert!(verify(&second, "a.test", "a.test"));
    }

    #[test]
    fn leaves_are_kept_and_bounded() {
        let authority = Authority::mint("dev-1").unwrap();
        let host = Host::from_wire(b"a.test").unwrap();
        let first = authority.server_config(&host).unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server_config(&host).unwrap()));
        for i in 0..LEAVES + 8 {
            authority
                .server_config(&Host::from_wire(format!("h{i}.test").as_bytes()).unwrap())
                .unwrap();
        }
        assert!(authority.leaves().len() <= LEAVES);
    }
}
