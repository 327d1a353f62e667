//! LB-03: host loopback over IPv6.

use super::make::{tcp, udp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-03",
    title: "host loopback over IPv6",
    requirement: "A guest MUST NOT reach the host's loopback through ::1, the unspecified address or an IPv4-mapped address.",
    why: "A bottle whose rules know IPv4 only leaves the second stack open.",
    source: "Seen in: microsandbox addr.rs, gondolin http-hooks.",
    does: "Connects to listeners of the host on ::1 and on the wildcard address through [::1], [::] and [::ffff:127.0.0.1].",
    on_breach: "Give the guest its own network namespace; where that is so, look for a forwarder that listens on the IPv6 loopback.",
    priority: Priority::P0,
    tags: &["loopback", "host", "ipv6"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    vec![
        unseen("loopback6", tcp("[::1]:${host.lo6.tcp}")).alive(&[Vantage::HostLoopback6]),
        unseen("unspecified6", tcp("[::]:${host.any.tcp}")).alive(&[Vantage::HostLoopback6]),
        unseen("mapped", tcp("[::ffff:127.0.0.1]:${host.lo4.tcp}")).alive(&[Vantage::HostLoopback4]),
        unseen("loopback6-udp", udp("[::1]:${host.any.udp}"))
            .alive(&[Vantage::HostUdp])
            .needs(&["loopback-datagrams"]),
    ]
    .into_iter()
    .map(|case| case.controls(&[Leak::HostNet, Leak::HostSock]))
    .collect()
}
