//! EG-13: neighbours on private networks.

use super::make::{tcp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-13",
    title: "neighbours on private networks",
    requirement: "A guest MUST NOT reach addresses of private, shared or unique-local networks.",
    why: "Routers, printers, build machines and databases of the operator's own network trust their neighbours.",
    source: "Seen in: gh-aw-firewall A8, smolvm EgressFloor.",
    does: "Connects to private, carrier-grade and unique-local addresses at which a witness answers wherever a route leads there.",
    on_breach: "The guest has a route outward. See EG-01.",
    priority: Priority::P0,
    tags: &["egress", "private"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let v4 = [
        ("private-10", "10.255.0.1"),
        ("private-172", "172.16.0.1"),
        ("private-192", "192.168.254.254"),
        ("carrier-grade", "100.64.0.1"),
    ]
    .map(|(name, to)| {
        unseen(name, tcp(format!("{to}:80")))
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Bridge])
    });
    let v6 = unseen("unique-local", tcp("[fd12:3456:789a::1]:80"))
        .alive(&[Vantage::InternetIp6])
        .controls(&[Leak::V6]);
    v4.into_iter().chain([v6]).collect()
}
