//! TX-05: certificate authorities, as seen from outside.

use std::io::Read as _;

use base64::Engine as _;
use bottle_backend::Role;
use probe_spec::{Action, AuthorityCheck, CERTIFICATE_LINE, Nonce, Step, Vantage, world};

use super::certificates::{Shown, issuer, problems};
use super::secrets::archive;
use super::{Observation, attempt_in, launch_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::selection::CaseCell;

/// Where a guest finds the certificate.
const CERTIFICATE: &str = "/run/bottle/ca.pem";

/// Performs one check.
pub async fn perform(
    target: &Target<'_>,
    cell: &CaseCell,
    check: AuthorityCheck,
    nonce: &Nonce,
) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let own = match certificate(target.fixture).await {
        Ok(own) => own,
        Err(problem) => return Ok(Observation::not_issued(problem)),
    };
    if check == AuthorityCheck::DifferentPerBottle {
        let other = launch_like(target, cell).await?;
        compare([target.fixture, &other], &own, nonce, &mut observed).await;
        for left in other.close(target.lab).await {
            observed.note(left);
        }
    } else {
        judge(target, check, nonce, &own, &mut observed).await;
    }
    if observed.issued {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
    Ok(observed)
}

/// Whether two bottles have one authority: the one that their guests are given, or the one that signs what they are shown.
/// `given` is the first one's.
async fn compare(both: [&Fixture; 2], given: &str, nonce: &Nonce, observed: &mut Observation) {
    match certificate(both[1]).await {
        Ok(theirs) if theirs == given => observed
            .findings
            .push("two bottles are given the same authority".to_owned()),
        Ok(_) => observed.note("two bottles are given different authorities"),
        Err(problem) => observed.fails(problem),
    }
    let mut signers = Vec::new();
    for fixture in both {
        match shown(fixture, nonce, observed).await.and_then(|leaf| issuer(&leaf)) {
            Ok(signer) => signers.push(signer),
            Err(problem) => observed.fails(problem),
        }
    }
    if let [first, second] = &signers[..] {
        if first == second {
            observed
                .findings
                .push(format!("two bottles are shown leaves of one authority: {first}"));
        } else {
            observed.note(format!("two bottles are shown leaves of {first} and {second}"));
        }
    }
}

/// Has the guest be shown a leaf, and looks at it and at the authority.
async fn judge(target: &Target<'_>, check: AuthorityCheck, nonce: &Nonce, trusted: &str, observed: &mut Observation) {
    let leaf = shown(target.fixture, nonce, observed).await;
    let found = leaf.and_then(|leaf| {
        problems(
            check,
            &Shown {
                trusted,
                leaf: &leaf,
                host: world::ALLOWED,
                slug: target.fixture.bottle.slug(),
                now: time::OffsetDateTime::now_utc().unix_timestamp(),
            },
        )
    });
    match found {
        Ok(found) => observed.findings.extend(found),
        Err(problem) => observed.fails(problem),
    }
}

/// The leaf that a guest is shown for an allowed host.
async fn shown(fixture: &Fixture, nonce: &Nonce, observed: &mut Observation) -> Result<Vec<u8>, String> {
    let answer = attempt_in(fixture, nonce, handshake()).await;
    let leaf = answer.attempt.as_ref().and_then(|attempt| leaf(&attempt.trace));
    observed.take(answer);
    leaf.ok_or_else(|| "the guest was shown no certificate".to_owned())
}

/// A handshake with an allowed host, whose nonce goes nowhere but into the proxy's record.
fn handshake() -> Action {
    let host = world::ALLOWED;
    let text = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
    Action::Talk {
        to: "proxy".to_owned(),
        steps: vec![
            Step::Send { text },
            Step::Success,
            Step::Tls {
                sni: Some(host.to_owned()),
                alpn: Vec::new(),
                split: None,
            },
            Step::Certificate,
        ],
    }
}

/// The certificate that an agent's trace tells of.
fn leaf(trace: &[String]) -> Option<Vec<u8>> {
    let pieces = trace.iter().filter_map(|line| line.strip_prefix(CERTIFICATE_LINE));
    let text: String = pieces.collect();
    let der = base64::engine::general_purpose::STANDARD.decode(text).ok();
    der.filter(|der| !der.is_empty())
}

/// The certificate that the guest is given.
async fn certificate(fixture: &Fixture) -> Result<String, String> {
    let packed = archive(&fixture.bottle, Role::Guest, CERTIFICATE).await?;
    only_file(&packed).map_err(|problem| format!("{CERTIFICATE}: {problem}"))
}

/// The text of the one file in an archive.
fn only_file(archive: &[u8]) -> Result<String, String> {
    let mut archive = tar::Archive::new(archive);
    let said = |error: std::io::Error| error.to_string();
    let mut entries = archive.entries().map_err(said)?;
    let mut entry = entries.next().ok_or("no file came")?.map_err(said)?;
    let mut text = String::new();
    entry.read_to_string(&mut text).map_err(said)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_of_a_file_is_its_text() {
        let mut packed = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        packed.append_data(&mut header, "file/ca.pem", &b"pem"[..]).unwrap();
        assert_eq!(only_file(&packed.into_inner().unwrap()).unwrap(), "pem");
        assert_eq!(only_file(&[0; 1024]).unwrap_err(), "no file came");
    }

    #[test]
    fn a_certificate_is_put_together_from_its_lines() {
        let lines = |pieces: &[&str]| -> Vec<String> {
            let said = pieces.iter().map(|piece| format!("{CERTIFICATE_LINE}{piece}"));
            std::iter::once("connect: done".to_owned()).chain(said).collect()
        };
        assert_eq!(leaf(&lines(&["AAEC", "AwQ="])), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(leaf(&lines(&[])), None);
        assert_eq!(leaf(&lines(&["not base64"])), None);
    }
}
