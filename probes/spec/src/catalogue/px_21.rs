//! PX-21: client-side ways around the proxy.

use super::make::{field, sequence, unseen};
use crate::{Action, CaseSpec, DnsTransport, Leak, Priority, Probe, Tamper, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-21",
    title: "client-side ways around the proxy",
    requirement: "No setting of a program inside the guest MUST give it a way out beside the proxy.",
    why: "The proxy variables are a convenience for well-behaved programs, not a control: any program can ignore them.",
    source: "Seen in: gh-aw-firewall bypass tests, nono --noproxy.",
    does: "Fetches as programs do with NO_PROXY, without variables, with fixed addresses for names, and with a resolver of their own.",
    on_breach: "See EG-01: there must be no route to bypass the proxy with.",
    priority: Priority::P0,
    tags: &["proxy", "client", "environment"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let sink = "http://${sink}/{nonce}";
    let fetch = |url: &str, env: &[(&str, &str)], connect_to: Option<&str>| Action::Fetch {
        url: url.to_owned(),
        env: env.iter().map(|(name, value)| field(name, value)).collect(),
        connect_to: connect_to.map(str::to_owned),
        fields: Vec::new(),
    };
    let proxied = ("HTTP_PROXY", "inherit:HTTP_PROXY");
    let lower = ("http_proxy", "inherit:http_proxy");
    let own_resolver = sequence([
        Action::Dns {
            server: format!("{}:53", world::OUTSIDE_RESOLVER),
            transport: DnsTransport::Udp,
            name: format!("{{nonce}}.{}", world::EXFIL),
            qtype: 1,
            answer_is_finding: false,
        },
        fetch(sink, &[], None),
    ]);
    let hosts_file = sequence([
        Action::Tamper { what: Tamper::Hosts },
        fetch("http://denied.test/{nonce}", &[], Some("${sink}:80")),
    ]);
    [
        ("no-variables", fetch(sink, &[], None)),
        (
            "no-proxy-star",
            fetch(sink, &[proxied, lower, ("NO_PROXY", "*"), ("no_proxy", "*")], None),
        ),
        (
            "no-proxy-address",
            fetch(
                sink,
                &[proxied, lower, ("NO_PROXY", "${sink}"), ("no_proxy", "${sink}")],
                None,
            ),
        ),
        (
            "no-proxy-suffix",
            fetch(
                "http://denied.test/{nonce}",
                &[proxied, ("NO_PROXY", ".test"), ("no_proxy", ".test")],
                Some("${sink}:80"),
            ),
        ),
        (
            "empty-variables",
            fetch(sink, &[("HTTP_PROXY", ""), ("http_proxy", ""), ("ALL_PROXY", "")], None),
        ),
        (
            "fixed-address",
            fetch("http://allowed.test/{nonce}", &[], Some("${sink}:80")),
        ),
        ("hosts-file", hosts_file),
        ("own-resolver", own_resolver),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Bridge])
    })
    .into()
}
