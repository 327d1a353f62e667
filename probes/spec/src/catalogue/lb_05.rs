//! LB-05: the host's own addresses.

use super::make::{tcp, udp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-05",
    title: "the host's own addresses",
    requirement: "A guest MUST NOT reach the host or a port published on it through any address of the host.",
    why: "What listens on the host's interfaces is reachable from every container that can route at all, whether or not a port was meant for it.",
    source: "Seen in: gh-aw-firewall A8, 1996fanrui #215.",
    does: "Connects to wildcard listeners and published ports of the host by each of its addresses, over TCP, UDP and IPv6.",
    on_breach: "The guest has a route outward. Find out which network gave it one (`docker inspect` of the guest) and remove it; the bundle alone has a leg outward.",
    priority: Priority::P0,
    tags: &["host", "network", "published"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let addresses = [
        ("first-address", "${host.address.1}"),
        ("second-address", "${host.address.2}"),
        ("bridge-address", "${host.address.docker0}"),
    ];
    let alive = [Vantage::HostWildcard, Vantage::InternetTcp];
    let mut cases: Vec<CaseSpec> = addresses
        .map(|(name, address)| {
            unseen(name, tcp(format!("{address}:${{host.any.tcp}}")))
                .alive(&alive)
                .controls(&[Leak::Bridge])
        })
        .into();
    // The engine's own rules drop what one bridge sends to a port that is published on another (DOCKER-ISOLATION), so that an
    // ordinary network is no way to it; the host's own network namespace is.
    cases.extend(addresses.map(|(name, address)| {
        unseen(
            format!("published-{name}"),
            tcp(format!("{address}:${{host.published.tcp}}")),
        )
        .alive(&alive)
        .controls(&[Leak::HostNet, Leak::Tsi])
    }));
    cases.push(
        unseen("udp-first-address", udp("${host.address.1}:${host.any.udp}"))
            .alive(&[Vantage::HostUdp])
            .controls(&[Leak::Bridge]),
    );
    // Where the host has no IPv6 address but ::1, only a shared network namespace leads there.
    cases.push(
        unseen("ipv6-address", tcp("[${host.address6.1}]:${host.any.tcp}"))
            .alive(&[Vantage::HostWildcard])
            .controls(&[Leak::HostNet, Leak::Tsi]),
    );
    cases
}
