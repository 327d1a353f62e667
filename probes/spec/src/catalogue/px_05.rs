//! PX-05: ports of an allowed host.

use super::make::{absolute, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-05",
    title: "ports of an allowed host",
    requirement: "The proxy MUST refuse every port of an allowed host that its rule does not name, and every text that is no plain port.",
    why: "An allowed web server is not an allowed mail server or SSH server on the same machine.",
    source: "Seen in: gh-aw-firewall A5, OpenShell test_l4_wrong_port_denied.",
    does: "Asks for an allowed host on other ports, on port 0, above 65535, without a port and with padded numbers.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Ports are part of a rule; a rule without ports means 443 only.",
    priority: Priority::P0,
    tags: &["proxy", "ports"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let host = world::ALLOWED;
    let by_target = [22, 25, 8080].map(|port| {
        let authority = format!("{host}:{port}");
        unseen(format!("absolute-{port}"), absolute(&authority)).alive(&[Vantage::InternetTcp])
    });
    let by_connect = [
        ("connect-0", ":0"),
        ("connect-65536", ":65536"),
        ("connect-65979", ":65979"),
        ("connect-missing", ""),
        ("connect-padded", ":00443"),
        ("connect-plus", ":+443"),
    ]
    .map(|(name, port)| {
        unseen(name, tunnel(&format!("{host}{port}"), Some(host), host)).alive(&[Vantage::InternetTcp])
    });
    // The request inside must name the port too, or it does not agree with the tunnel's.
    let other_tls = tunnel("allowed.test:8443", Some(host), "allowed.test:8443");
    let other_tls = unseen("connect-8443", other_tls).alive(&[Vantage::InternetTcp]);
    by_target
        .into_iter()
        .chain(by_connect)
        .chain([other_tls])
        .map(|case| case.denied().controls(&[Leak::PxAnyPort]))
        .collect()
}
