//! EG-04: UDP to the internet.

use super::make::{udp, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-04",
    title: "UDP to the internet",
    requirement: "A guest MUST NOT deliver a datagram to the internet.",
    why: "UDP carries DNS, QUIC, VPNs and whatever a program likes, and is forgotten by filters made for web traffic.",
    source: "Seen in: gh-aw-firewall A10, matchlock TestUDPNonDNSBlocked, boundary TestUDPBlocking.",
    does: "Sends datagrams to well-known and random ports of the stand-in internet, some of them in fragments.",
    on_breach: "Something forwards UDP out of the guest's network. A bottle needs none: names are resolved by the bundle.",
    priority: Priority::P0,
    tags: &["egress", "udp"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let ports = [53, 123, 443, 500, 4500, 51_820, 40_961];
    let mut cases: Vec<CaseSpec> = ports
        .map(|port| unseen(format!("port-{port}"), udp(format!("${{sink}}:{port}"))))
        .into();
    let padded = |length| Action::Udp {
        to: "${sink}:5000".to_owned(),
        send: "{nonce}".to_owned(),
        pad_to: Some(length),
    };
    cases.push(unseen("fragments", padded(4000)));
    cases.push(unseen("allowed-host", udp(format!("{}:443", world::ALLOWED_ADDRESS))));
    cases
        .into_iter()
        .map(|case| case.alive(&[Vantage::InternetUdp]).controls(&[Leak::Udp]))
        .collect()
}
