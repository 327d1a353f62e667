//! LB-09: ports of the bundle.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-09",
    title: "ports of the bundle",
    requirement: "The guest MUST find no open port of the bundle except the declared services.",
    why: "An admin, metrics or debug port that is bound where the guest can reach it hands the guest the filter itself.",
    source: "Seen in: gh-aw-firewall M3, cleanroom gateway firewall.",
    does: "Connects to all 65 535 ports of the bundle's address on the guest's side, and to those of its outer address. Any open port that is not declared is a finding.",
    on_breach: "Find the daemon that listens (`ss -lntp` in the bundle's namespace) and bind it to the bundle's loopback or remove it.",
    priority: Priority::P0,
    tags: &["bundle", "ports", "sweep"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let sweep = |to: &str, last: u16, declared: Vec<u16>| Action::Sweep {
        to: to.to_owned(),
        first: 1,
        last,
        send: "GET /{nonce} HTTP/1.0\r\n\r\n".to_owned(),
        declared,
        open_is_finding: true,
        handshakes: "${handshakes}".to_owned(),
    };
    vec![
        unseen("own-side", sweep("${bundle.address}", 65_535, vec![8888]))
            .alive(&[Vantage::Guest])
            .controls(&[Leak::SideAdm]),
        unseen("outer-side", sweep("${bundle.outer}", 10_000, Vec::new()))
            .alive(&[Vantage::Guest, Vantage::InternetTcp])
            .controls(&[Leak::Bridge]),
    ]
}
