//! PX-02: addresses instead of names.

use super::make::{absolute, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-02",
    title: "addresses instead of names",
    requirement: "The proxy MUST refuse an address literal unless that literal is on the allow-list.",
    why: "An address says nothing about who is behind it, and an allowed host's address serves many others.",
    source: "Seen in: gh-aw-firewall blocked-domains, agent-egress-bench, OpenShell ip literals.",
    does: "Asks for the addresses of an allowed and of a denied host, by CONNECT and in absolute form.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Rules for names must never match literals.",
    priority: Priority::P0,
    tags: &["proxy", "allow-list", "literal"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("allowed-host", world::ALLOWED_ADDRESS),
        ("denied-host", world::DENIED_ADDRESS),
    ]
    .into_iter()
    .flat_map(|(name, address)| {
        [
            unseen(
                format!("connect-{name}"),
                tunnel(&format!("{address}:443"), None, address),
            ),
            unseen(format!("absolute-{name}"), absolute(address)),
        ]
    })
    .map(|case| case.alive(&[Vantage::InternetTcp]).denied().controls(&[Leak::PxOpen]))
    .collect()
}
