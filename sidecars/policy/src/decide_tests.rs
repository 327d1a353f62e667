use super::*;
use crate::{AllowRule, Auth};
use proptest::prelude::*;
use rstest::rstest;

fn rule(host: &str, ports: &[u16]) -> AllowRule {
    AllowRule {
        host: host.into(),
        ports: ports.to_vec(),
    }
}

fn rules() -> Rules {
    let allow = vec![
        rule("allowed.test", &[443, 80]),
        rule("*.wild.test", &[443]),
        rule("other.test", &[8443]),
        rule("198.51.100.7", &[443]),
        rule("2001:db8::7", &[443]),
        rule("127.0.0.1", &[443]),
        rule("10.1.2.3", &[443]),
    ];
    let route = Route {
        host: "api.test".into(),
        port: 443,
        auth: Auth::Bearer,
        token: "T".into(),
    };
    Rules::new(&Policy { allow }, &[route], Controls::all()).unwrap()
}

fn verdict(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow(allowed) => allowed.rule,
        Decision::Deny(reason) => reason.name(),
    }
}

#[rstest]
#[case("allowed.test:443", "allow-name")]
#[case("ALLOWED.test.:80", "allow-name")]
#[case("allowed.test:22", "port-not-allowed")]
#[case("allowed.test:8443", "port-not-allowed")]
#[case("allowed.test:0", "port-malformed")]
#[case("allowed.test:65536", "port-malformed")]
#[case("allowed.test", "port-malformed")]
#[case("allowed.test: 443", "port-malformed")]
#[case("api.test:443", "route")]
#[case("api.test:80", "port-not-allowed")]
#[case("a.wild.test:443", "allow-wildcard")]
#[case("a.b.c.wild.test:443", "allow-wildcard")]
#[case("wild.test:443", "host-not-allowed")]
#[case("awild.test:443", "host-not-allowed")]
#[case("a.wild.test:80", "port-not-allowed")]
#[case("allowed.test.evil.test:443", "host-not-allowed")]
#[case("evil-allowed.test:443", "host-not-allowed")]
#[case("sub.allowed.test:443", "host-not-allowed")]
#[case("allowed.testx:443", "host-not-allowed")]
#[case("test:443", "host-not-allowed")]
#[case("evil.test\0.allowed.test:443", "name-malformed")]
#[case("evil.test#.allowed.test:443", "name-malformed")]
#[case("user@allowed.test:443", "name-malformed")]
#[case("198.51.100.7:443", "allow-address")]
#[case("198.51.100.8:443", "address-literal")]
#[case("198.51.100.7:80", "port-not-allowed")]
#[case("[2001:db8::7]:443", "allow-address")]
#[case("[2001:db8:0:0:0:0:0:7]:443", "allow-address")]
#[case("[::ffff:198.51.100.7]:443", "address-spelling")]
#[case("0306.51.100.7:443", "address-spelling")]
#[case("3325256711:443", "address-spelling")]
#[case("localhost:443", "host-not-allowed")]
fn connect(#[case] authority: &str, #[case] expected: &str) {
    assert_eq!(verdict(rules().connect(authority.as_bytes(), None)), expected);
}

#[rstest]
#[case(Some("allowed.test"), Ok(()))]
#[case(Some("ALLOWED.TEST"), Ok(()))]
#[case(Some("api.test"), Err(DenyReason::SniMismatch))]
#[case(Some("evil.test"), Err(DenyReason::SniMismatch))]
#[case(None, Err(DenyReason::SniMissing))]
fn handshake_name(#[case] sni: Option<&str>, #[case] expected: Result<(), DenyReason>) {
    let rules = rules();
    let Decision::Allow(tunnel) = rules.connect(b"allowed.test:443", None) else {
        panic!()
    };
    assert_eq!(rules.tls(&tunnel, sni), expected);
}

#[test]
fn a_literal_takes_no_sni() {
    let rules = rules();
    let Decision::Allow(tunnel) = rules.connect(b"198.51.100.7:443", None) else {
        panic!()
    };
    assert_eq!(rules.tls(&tunnel, None), Ok(()));
    assert_eq!(rules.tls(&tunnel, Some("allowed.test")), Err(DenyReason::SniMismatch));
}

#[rstest]
#[case("allowed.test:443", &["allowed.test"], "allow-name")]
#[case("allowed.test:443", &["allowed.test:443", "ALLOWED.test."], "allow-name")]
#[case("allowed.test:443", &["allowed.test:80"], "authority-mismatch")]
#[case("allowed.test:80", &["allowed.test"], "authority-mismatch")]
#[case("other.test:8443", &["other.test:8443"], "allow-name")]
#[case("other.test:8443", &["other.test"], "authority-mismatch")]
#[case("allowed.test:443", &["allowed.test", "api.test"], "authority-mismatch")]
#[case("allowed.test:443", &["evil.test"], "authority-mismatch")]
#[case("allowed.test:443", &["allowed.test\0"], "name-malformed")]
#[case("allowed.test:443", &["a@allowed.test"], "name-malformed")]
#[case("allowed.test:443", &[], "host-missing")]
#[case("198.51.100.7:443", &["198.51.100.7"], "allow-address")]
#[case("198.51.100.7:443", &["allowed.test"], "authority-mismatch")]
fn inner(#[case] connect: &str, #[case] named: &[&str], #[case] expected: &str) {
    let rules = rules();
    let Decision::Allow(tunnel) = rules.connect(connect.as_bytes(), None) else {
        panic!()
    };
    let named: Vec<&[u8]> = named.iter().map(|text| text.as_bytes()).collect();
    assert_eq!(verdict(rules.inner(&tunnel, None, &named)), expected);
}

#[rstest]
#[case("http", "allowed.test", Some("allowed.test"), "allow-name")]
#[case("HTTP", "allowed.test:80", Some("allowed.test"), "allow-name")]
#[case("http", "allowed.test", None, "allow-name")]
#[case("https", "allowed.test", Some("allowed.test"), "scheme")]
#[case("ftp", "allowed.test", None, "scheme")]
#[case("http", "evil.test", Some("allowed.test"), "authority-mismatch")]
#[case("http", "allowed.test", Some("evil.test"), "authority-mismatch")]
#[case("http", "allowed.test", Some("allowed.test:81"), "authority-mismatch")]
#[case("http", "evil.test", Some("evil.test"), "host-not-allowed")]
#[case("http", "u:p@allowed.test", None, "port-malformed")]
#[case("http", "u@allowed.test", None, "name-malformed")]
#[case("http", "other.test", None, "port-not-allowed")]
#[case("http", "0x7f.1", None, "address-spelling")]
fn absolute(#[case] scheme: &str, #[case] authority: &str, #[case] host: Option<&str>, #[case] expected: &str) {
    let decision = rules().absolute(scheme.as_bytes(), authority.as_bytes(), host.map(str::as_bytes));
    assert_eq!(verdict(decision), expected);
}

#[test]
fn every_address_must_pass() {
    let rules = rules();
    let Decision::Allow(allowed) = rules.connect(b"allowed.test:443", None) else {
        panic!()
    };
    let addresses = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert!(
        rules
            .dialled(&allowed, &addresses(&["198.51.100.9", "2001:db8::9"]))
            .is_ok()
    );
    for texts in [
        &["198.51.100.9", "127.0.0.1"][..],
        &["::1"],
        &["198.51.100.9", "fd00::1"],
        &["169.254.169.254"],
    ] {
        let error = rules.dialled(&allowed, &addresses(texts)).unwrap_err();
        assert_eq!(error.name(), "resolved-address");
    }
    assert_eq!(rules.dialled(&allowed, &[]), Err(DenyReason::NameUnresolved));
}

#[test]
fn listed_literals_may_be_private_but_never_loopback() {
    let rules = rules();
    let Decision::Allow(private) = rules.connect(b"10.1.2.3:443", None) else {
        panic!()
    };
    assert!(rules.dialled(&private, &["10.1.2.3".parse().unwrap()]).is_ok());
    let Decision::Allow(home) = rules.connect(b"127.0.0.1:443", None) else {
        panic!()
    };
    assert!(rules.dialled(&home, &["127.0.0.1".parse().unwrap()]).is_err());
}

#[rstest]
#[case("Allowed.test", &[443], "normal form")]
#[case("allowed.test.", &[443], "normal form")]
#[case("allowed.test", &[], "no port")]
#[case("allowed.test", &[0], "port 0")]
#[case("*.10.0.0.1", &[443], "address")]
#[case("*", &[443], "letters")]
#[case("0x7f.1", &[443], "dotted quad")]
fn unusable_rules(#[case] host: &str, #[case] ports: &[u16], #[case] words: &str) {
    let error = Rules::new(
        &Policy {
            allow: vec![rule(host, ports)],
        },
        &[],
        Controls::all(),
    )
    .unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
}

#[rstest]
#[case(
    DenyReason::HostNotAllowed,
    "example.net",
    Some(8443),
    "egress.allow: [\"example.net:8443\"]"
)]
#[case(
    DenyReason::HostNotAllowed,
    "example.net",
    Some(443),
    "egress.allow: [\"example.net\"]"
)]
#[case(
    DenyReason::PortNotAllowed,
    "example.net",
    Some(80),
    "egress.allow: [\"example.net:80\"]"
)]
#[case(
    DenyReason::AddressLiteral,
    "198.51.100.7",
    Some(443),
    "egress.allow: [\"198.51.100.7\"]"
)]
#[case(DenyReason::AddressSpelling, "0x7f.1", Some(443), "unusual spelling")]
fn sentences(#[case] reason: DenyReason, #[case] host: &str, #[case] port: Option<u16>, #[case] part: &str) {
    let text = crate::sentence(reason, host, port);
    assert!(text.contains(part) && text.ends_with('.'), "{text}");
}

proptest! {
    #[test]
    fn nothing_is_allowed_by_default(bytes in proptest::collection::vec(any::<u8>(), 0..64), name in "[a-z.]{1,20}:[0-9]{1,5}") {
        let empty = Rules::default();
        prop_assert!(matches!(empty.connect(&bytes, None), Decision::Deny(_)));
        prop_assert!(matches!(empty.connect(name.as_bytes(), None), Decision::Deny(_)));
        prop_assert!(matches!(empty.absolute(b"http", name.as_bytes(), None), Decision::Deny(_)));
    }

    #[test]
    fn only_listed_names_pass(label in "[a-z0-9.\\-]{0,12}", tail in "(allowed|wild|api|other)\\.test[a-z.]{0,3}") {
        let text = format!("{label}{tail}:443");
        if let Decision::Allow(allowed) = rules().connect(text.as_bytes(), None) {
            let host = allowed.host.to_string();
            prop_assert!(["allowed.test", "api.test"].contains(&&*host) || host.ends_with(".wild.test"));
        }
    }
}

#[rstest]
#[case("allowed.test:443", "allowed.test:443", "allow-name")]
#[case("allowed.test:443", "allowed.test", "allow-name")]
#[case("allowed.test:443", "evil.test", "authority-mismatch")]
#[case("allowed.test:443", "allowed.test:80", "authority-mismatch")]
#[case("evil.test:443", "allowed.test:443", "authority-mismatch")]
fn connect_and_host(#[case] authority: &str, #[case] host: &str, #[case] expected: &str) {
    assert_eq!(
        verdict(rules().connect(authority.as_bytes(), Some(host.as_bytes()))),
        expected
    );
}
