//! LB-01: host loopback, by its address.

use super::make::{tcp, udp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-01",
    title: "host loopback, by its address",
    requirement: "A guest MUST NOT reach a service that listens on the host's loopback.",
    why: "Databases, agents and development servers on 127.0.0.1 rely on nobody but the host's own users being able to connect.",
    source: "Seen in: codex sandbox_blocks_nc (vacuous there), smolvm #1060, LibreCodeInterpreter #95.",
    does: "Connects from inside the guest to listeners of the host on 127.0.0.1, over TCP and UDP, early and late, and watches those listeners for the nonce.",
    on_breach: "Look at the guest's network mode: it shares the host's network namespace or something forwards loopback. Run `bottle-conform run LB-01` on a plan with network `none` (sealed) to compare, and check the engine's daemon options.",
    priority: Priority::P0,
    tags: &["loopback", "host", "tcp", "udp"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let tcp_cases = [
        ("tcp", "127.0.0.1:${host.lo4.tcp}"),
        ("tcp-opened-later", "127.0.0.1:${host.lo4.tcp2}"),
        ("tcp-low-port", "127.0.0.1:${host.lo4.low}"),
        ("tcp-by-name", "localhost:${host.lo4.tcp}"),
        ("tcp-wildcard-listener", "127.0.0.1:${host.any.tcp}"),
        ("tcp-published-port", "127.0.0.1:${host.published.tcp}"),
    ];
    let udp_cases = [
        ("udp", "127.0.0.1:${host.lo4.udp}"),
        ("udp-wildcard-listener", "127.0.0.1:${host.any.udp}"),
    ];
    let by_tcp = tcp_cases.map(|(name, to)| unseen(name, tcp(to)).alive(&[Vantage::HostLoopback4]));
    let by_udp = udp_cases.map(|(name, to)| {
        unseen(name, udp(to))
            .alive(&[Vantage::HostUdp])
            .needs(&["loopback-datagrams"])
    });
    by_tcp
        .into_iter()
        .chain(by_udp)
        .map(|case| case.controls(&[Leak::HostNet, Leak::HostSock]))
        .collect()
}
