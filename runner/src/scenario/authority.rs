//! TX-05: certificate authorities, as seen from outside.

use probe_spec::{AuthorityCheck, Vantage};

use super::search::contains;
use super::{Observation, launch_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::selection::CaseCell;

/// Where a guest finds the certificate.
const CERTIFICATE: &str = "run/bottle/ca.pem";

/// DER of the object identifier of basic constraints, 2.5.29.19 (RFC 5280 4.2.1.9).
const BASIC_CONSTRAINTS: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x13];
/// DER of `SEQUENCE { cA TRUE, pathLenConstraint 0 }`.
const AUTHORITY_OF_LEAVES: [u8; 8] = [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];

/// Performs one check.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, check: AuthorityCheck) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let own = match certificate(target.fixture) {
        Ok(own) => own,
        Err(problem) => return Ok(Observation::not_issued(problem)),
    };
    match check {
        AuthorityCheck::DifferentPerBottle => {
            let other = launch_like(target, cell).await?;
            match certificate(&other) {
                Ok(theirs) if theirs == own => {
                    observed.findings.push("two bottles have the same authority".to_owned());
                }
                Ok(_) => observed.note("two bottles have different authorities"),
                Err(problem) => observed = Observation::not_issued(problem),
            }
            for left in other.close(target.lab).await {
                observed.note(left);
            }
        }
        AuthorityCheck::LeafCannotSign => match der(&own) {
            Some(der) => {
                if !is_authority_of_leaves(&der) {
                    observed
                        .findings
                        .push("the authority's basic constraints are not `cA, pathlen 0`".to_owned());
                }
            }
            None => observed = Observation::not_issued("the guest's certificate is not PEM"),
        },
    }
    if observed.issued {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
    Ok(observed)
}

/// The certificate that the guest is given, read through the host's view of its file system.
fn certificate(fixture: &Fixture) -> Result<String, String> {
    let pid = fixture
        .bottle
        .guest()
        .pid
        .ok_or("the guest has no process id on this host")?;
    let path = format!("/proc/{pid}/root/{CERTIFICATE}");
    std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

fn der(pem: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let body = pem
        .split("-----BEGIN CERTIFICATE-----")
        .nth(1)?
        .split("-----END CERTIFICATE-----")
        .next()?;
    let body: String = body.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// Whether its basic constraints are those of an authority that can sign leaves only: verifiers refuse a chain through a leaf.
fn is_authority_of_leaves(der: &[u8]) -> bool {
    let at = der
        .windows(BASIC_CONSTRAINTS.len())
        .position(|window| window == BASIC_CONSTRAINTS);
    // The extension's value follows within a few bytes: a flag, the octet string's head, the sequence.
    at.is_some_and(|at| contains(&der[at..(at + 24).min(der.len())], &AUTHORITY_OF_LEAVES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(is_ca: rcgen::IsCa) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = is_ca;
        der(&params.self_signed(&key).unwrap().pem()).unwrap()
    }

    #[test]
    fn only_pathlen_zero_is_right() {
        use rcgen::{BasicConstraints, IsCa};
        assert!(is_authority_of_leaves(&made(IsCa::Ca(BasicConstraints::Constrained(
            0
        )))));
        assert!(!is_authority_of_leaves(&made(IsCa::Ca(
            BasicConstraints::Unconstrained
        ))));
        assert!(!is_authority_of_leaves(&made(IsCa::Ca(BasicConstraints::Constrained(
            1
        )))));
        assert!(!is_authority_of_leaves(&made(IsCa::ExplicitNoCa)));
    }
}
