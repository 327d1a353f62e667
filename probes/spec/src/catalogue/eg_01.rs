//! EG-01: direct TCP to the internet.

use super::make::{tcp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-01",
    title: "direct TCP to the internet",
    requirement: "A guest MUST NOT deliver a byte to the internet except through the proxy.",
    why: "Every other rule of a bottle stands in the proxy; a way around it makes all of them void.",
    source: "Seen in: gh-aw-firewall A2-A4, pipelock no_direct_https, OpenShell bypass_detection.",
    does: "Connects straight to addresses of the stand-in internet on 80 and 443, allowed hosts' addresses among them, with the proxy variables ignored. The witness decides, not the errno.",
    on_breach: "The guest has a route that does not end at the bundle. `docker inspect` its networks; a routed bottle's network must be internal, a sealed bottle has none.",
    priority: Priority::P0,
    tags: &["egress", "tcp"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let allowed = world::ALLOWED_ADDRESS;
    let denied = world::DENIED_ADDRESS;
    [
        ("sink-443", "${sink}:443".to_owned()),
        ("sink-80", "${sink}:80".to_owned()),
        ("denied-host-80", format!("{denied}:80")),
        ("allowed-host-80", format!("{allowed}:80")),
    ]
    .map(|(name, to)| {
        unseen(name, tcp(to))
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Bridge])
    })
    .into()
}
