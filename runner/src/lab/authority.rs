//! The authority of the good origins.

use probe_spec::WitnessConfig;

use crate::error::SuiteError;

/// An authority for the good origins of this run, whose key exists in this process and in the witness only.
pub fn authority() -> Result<(WitnessConfig, String), SuiteError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "bottle-conform stand-in internet");
    let certificate = params.self_signed(&key)?;
    let config = WitnessConfig {
        ca_pem: certificate.pem(),
        ca_key_pem: key.serialize_pem(),
    };
    Ok((config, certificate.pem()))
}
