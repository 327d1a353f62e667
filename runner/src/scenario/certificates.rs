//! TX-05: what a bottle's certificates may be good for (RFC 5280).

use probe_spec::AuthorityCheck;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long an authority may be valid, in days: longer than any bottle lives, and not for ever.
const AUTHORITY_DAYS: i64 = 100;
/// How long a leaf may be valid, in days.
const LEAF_DAYS: i64 = 10;
const DAY: i64 = 86_400;

/// What a guest was shown.
pub struct Shown<'a> {
    /// What it is given to trust (PEM).
    pub trusted: &'a str,
    /// The leaf that interception showed it (DER).
    pub leaf: &'a [u8],
    /// The host that it had asked for.
    pub host: &'a str,
    /// Its bottle.
    pub slug: &'a str,
    /// Seconds since 1970.
    pub now: i64,
}

/// What is wrong with it.
///
/// # Errors
/// What cannot be read as certificates.
pub fn problems(check: AuthorityCheck, shown: &Shown<'_>) -> Result<Vec<String>, String> {
    let blocks = Pem::iter_from_buffer(shown.trusted.as_bytes()).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.map_err(|error| format!("what the guest trusts is not PEM: {error}"))?;
    let first = blocks.first().ok_or("the guest is given no certificate")?;
    let authority = first.parse_x509().map_err(|error| format!("the authority: {error}"))?;
    let (_, leaf) = X509Certificate::from_der(shown.leaf).map_err(|error| format!("the leaf: {error}"))?;
    Ok(match check {
        AuthorityCheck::DifferentPerBottle => Vec::new(),
        AuthorityCheck::SignsLeavesOnly => signs_leaves_only(&authority),
        AuthorityCheck::OnlyOwnTrusted => only_own(&blocks, &authority, &leaf, shown.slug),
        AuthorityCheck::LeafIsNoAuthority => is_no_authority(&leaf),
        AuthorityCheck::LeafName => names(&leaf, shown.host),
        AuthorityCheck::LeafValidity => validity(&authority, &leaf, shown.now),
        AuthorityCheck::LeafUsage => usage(&leaf),
    })
}

/// Who a leaf says has signed it.
///
/// # Errors
/// What cannot be read as a certificate.
pub fn issuer(leaf: &[u8]) -> Result<String, String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| format!("the leaf: {error}"))?;
    Ok(leaf.issuer().to_string())
}

/// The complaints that apply.
fn complaints<const N: usize>(all: [(bool, &str); N]) -> Vec<String> {
    let applying = all.into_iter().filter(|(applies, _)| *applies);
    applying.map(|(_, what)| what.to_owned()).collect()
}

fn signs_leaves_only(authority: &X509Certificate<'_>) -> Vec<String> {
    let basic = authority.basic_constraints().ok().flatten();
    let usage = authority.key_usage().ok().flatten();
    complaints([
        (
            !basic
                .as_ref()
                .is_some_and(|is| is.critical && is.value.ca && is.value.path_len_constraint == Some(0)),
            "the authority's basic constraints are not a critical `cA, pathlen 0`: it can make further authorities",
        ),
        (
            // keyCertSign is bit 5, cRLSign bit 6.
            !usage.is_some_and(|is| is.value.key_cert_sign() && is.value.flags & !0b110_0000 == 0),
            "the authority's key is for more than signing certificates and revocation lists",
        ),
    ])
}

fn only_own(blocks: &[Pem], authority: &X509Certificate<'_>, leaf: &X509Certificate<'_>, slug: &str) -> Vec<String> {
    let name = authority.subject().iter_common_name().next();
    let name = name.and_then(|name| name.as_str().ok());
    complaints([
        (
            blocks.len() != 1,
            "the guest is given more than one certificate to trust",
        ),
        (
            name != Some(format!("bottle {slug}").as_str()),
            "the authority does not bear the bottle's name",
        ),
        (
            authority.verify_signature(None).is_err(),
            "the authority is not signed by itself",
        ),
        (
            leaf.verify_signature(Some(authority.public_key())).is_err(),
            "the leaf that the guest was shown is not signed by the bottle's own authority",
        ),
    ])
}

fn is_no_authority(leaf: &X509Certificate<'_>) -> Vec<String> {
    let may_sign = leaf
        .key_usage()
        .ok()
        .flatten()
        .is_some_and(|is| is.value.key_cert_sign());
    complaints([
        (leaf.is_ca(), "the leaf is an authority"),
        (may_sign, "the leaf's key may sign certificates"),
    ])
}

fn names(leaf: &X509Certificate<'_>, host: &str) -> Vec<String> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let is_exact = names.is_some_and(|names| names.value.general_names == [GeneralName::DNSName(host)]);
    let has_common_name = leaf.subject().iter_common_name().next().is_some();
    complaints([
        (!is_exact, "the leaf is not for exactly the one name that was asked for"),
        (
            has_common_name,
            "the leaf has a common name, which old programs take for one more host",
        ),
    ])
}

fn validity(authority: &X509Certificate<'_>, leaf: &X509Certificate<'_>, now: i64) -> Vec<String> {
    let span = |certificate: &X509Certificate<'_>| {
        let validity = certificate.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    };
    let (authority, leaf) = (span(authority), span(leaf));
    let is_now = |(from, until): (i64, i64)| from <= now && now <= until;
    complaints([
        (
            !is_now(authority) || !is_now(leaf),
            "the authority or the leaf is not valid at this time",
        ),
        (leaf.1 > authority.1, "the leaf is valid for longer than its authority"),
        (
            authority.1 - authority.0 > AUTHORITY_DAYS * DAY,
            "the authority is valid for longer than 100 days",
        ),
        (
            leaf.1 - leaf.0 > LEAF_DAYS * DAY,
            "the leaf is valid for longer than 10 days",
        ),
    ])
}

fn usage(leaf: &X509Certificate<'_>) -> Vec<String> {
    let usage = leaf.key_usage().ok().flatten();
    let extended = leaf.extended_key_usage().ok().flatten();
    let is_server_only = extended.is_some_and(|is| {
        let is = is.value;
        let more = is.any || is.client_auth || is.code_signing || is.email_protection || is.time_stamping;
        is.server_auth && !more && !is.ocsp_signing && is.other.is_empty()
    });
    complaints([
        (
            // digitalSignature is bit 0.
            usage.is_none_or(|is| is.value.flags != 1),
            "the leaf's key is for more than signatures of a handshake",
        ),
        (!is_server_only, "the leaf is for more than a server"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SanType,
    };
    use rstest::rstest;
    use time::{Duration, OffsetDateTime};

    const CHECKS: [AuthorityCheck; 6] = [
        AuthorityCheck::SignsLeavesOnly,
        AuthorityCheck::OnlyOwnTrusted,
        AuthorityCheck::LeafIsNoAuthority,
        AuthorityCheck::LeafName,
        AuthorityCheck::LeafValidity,
        AuthorityCheck::LeafUsage,
    ];

    fn authority() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "bottle dev-1");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = params.not_before + Duration::days(90);
        params
    }

    fn leaf() -> CertificateParams {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = params.not_before + Duration::days(7);
        params
    }

    /// Which checks complain.
    fn complaining(
        change: impl FnOnce(&mut CertificateParams, &mut CertificateParams, &mut String),
    ) -> Vec<AuthorityCheck> {
        let (mut authority, mut leaf, mut more) = (authority(), leaf(), String::new());
        change(&mut authority, &mut leaf, &mut more);
        let (key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let trusted = authority.self_signed(&key).unwrap().pem() + &more;
        let signed = leaf.signed_by(&leaf_key, &Issuer::new(authority, key)).unwrap();
        let shown = Shown {
            trusted: &trusted,
            leaf: signed.der(),
            host: "a.test",
            slug: "dev-1",
            now: OffsetDateTime::now_utc().unix_timestamp(),
        };
        let complains = |check: &AuthorityCheck| !problems(*check, &shown).unwrap().is_empty();
        CHECKS.into_iter().filter(complains).collect()
    }

    #[test]
    fn what_a_bottle_makes_is_right() {
        assert_eq!(complaining(|_, _, _| {}), []);
    }

    #[rstest]
    #[case(BasicConstraints::Unconstrained)]
    #[case(BasicConstraints::Constrained(1))]
    fn only_pathlen_zero_is_right(#[case] constraints: BasicConstraints) {
        let found = complaining(|authority, _, _| authority.is_ca = IsCa::Ca(constraints));
        assert_eq!(found, [AuthorityCheck::SignsLeavesOnly]);
    }

    #[test]
    fn a_leaf_says_who_signed_it() {
        let key = KeyPair::generate().unwrap();
        let signed = leaf().signed_by(&key, &Issuer::new(authority(), &key)).unwrap();
        assert_eq!(issuer(signed.der()).unwrap(), "CN=bottle dev-1");
        assert!(issuer(b"no certificate").unwrap_err().contains("the leaf"));
    }

    #[test]
    fn each_check_sees_what_it_is_for() {
        use AuthorityCheck::{LeafIsNoAuthority, LeafName, LeafUsage, LeafValidity, OnlyOwnTrusted, SignsLeavesOnly};
        let sign = KeyUsagePurpose::DigitalSignature;
        assert_eq!(
            complaining(|authority, _, _| authority.key_usages.push(sign)),
            [SignsLeavesOnly]
        );
        let other = authority().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(complaining(|_, _, more| *more = other), [OnlyOwnTrusted]);
        let renamed = |authority: &mut CertificateParams| {
            authority.distinguished_name.push(DnType::CommonName, "bottle dev-2");
        };
        assert_eq!(complaining(|authority, _, _| renamed(authority)), [OnlyOwnTrusted]);
        let is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(complaining(|_, leaf, _| leaf.is_ca = is_ca), [LeafIsNoAuthority]);
        let wildcard = SanType::DnsName("*.test".try_into().unwrap());
        assert_eq!(
            complaining(|_, leaf, _| leaf.subject_alt_names.push(wildcard)),
            [LeafName]
        );
        let common = |leaf: &mut CertificateParams| leaf.distinguished_name.push(DnType::CommonName, "b.test");
        assert_eq!(complaining(|_, leaf, _| common(leaf)), [LeafName]);
        let long = |leaf: &mut CertificateParams| leaf.not_after += Duration::days(30);
        assert_eq!(complaining(|_, leaf, _| long(leaf)), [LeafValidity]);
        let over = |leaf: &mut CertificateParams| leaf.not_before -= Duration::days(20);
        let past = |leaf: &mut CertificateParams| leaf.not_after -= Duration::days(20);
        assert_eq!(complaining(|_, leaf, _| (over(leaf), past(leaf)).0), [LeafValidity]);
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        assert_eq!(
            complaining(|_, leaf, _| leaf.extended_key_usages.push(client)),
            [LeafUsage]
        );
        assert_eq!(complaining(|_, leaf, _| leaf.extended_key_usages.clear()), [LeafUsage]);
    }

    #[test]
    fn another_bottles_leaf_is_seen() {
        let (key, other, leaf_key) = (
            KeyPair::generate().unwrap(),
            KeyPair::generate().unwrap(),
            KeyPair::generate().unwrap(),
        );
        let trusted = authority().self_signed(&key).unwrap().pem();
        let signed = leaf().signed_by(&leaf_key, &Issuer::new(authority(), other)).unwrap();
        let shown = Shown {
            trusted: &trusted,
            leaf: signed.der(),
            host: "a.test",
            slug: "dev-1",
            now: 0,
        };
        assert_eq!(problems(AuthorityCheck::OnlyOwnTrusted, &shown).unwrap().len(), 1);
        assert!(problems(AuthorityCheck::LeafName, &Shown { trusted: "", ..shown }).is_err());
    }
}
