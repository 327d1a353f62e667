//! EG-06: ICMP to the internet.

use super::make::{sequence, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-06",
    title: "ICMP to the internet",
    requirement: "A guest MUST NOT deliver an ICMP echo payload to the internet.",
    why: "An echo request carries up to 64 KiB of anything, needs no privilege on most systems, and is a well-known tunnel.",
    source: "Seen in: gh-aw-firewall A11, codex sandbox_blocks_ping, microsandbox gateway_icmp_echo.",
    does: "Sends echo requests with the nonce as payload, by raw and datagram sockets, small and large, over IPv4 and IPv6.",
    on_breach: "Echo requests leave the guest's network. A bottle without a route outward does not need a rule for them.",
    priority: Priority::P0,
    tags: &["egress", "icmp"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let echo = |to: &str, raw, send: String| Action::Icmp {
        to: to.to_owned(),
        raw,
        send,
        answer_is_finding: false,
    };
    let small = || "{nonce}".to_owned();
    // A program that is refused a raw socket goes on with the other kind.
    let raw_first = sequence([echo("${sink}", true, small()), echo("${sink}", false, small())]);
    let v4 = [
        ("echo", echo("${sink}", false, small())),
        ("raw-then-datagram", raw_first),
        (
            "large-echo",
            echo("${sink}", false, format!("{{nonce}}{}", ".".repeat(1200))),
        ),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetIcmp])
            .controls(&[Leak::Icmp])
            .needs(&["icmp"])
    });
    let v6 = unseen("echo6", echo("${sink6}", false, small()))
        .alive(&[Vantage::InternetIp6])
        .controls(&[Leak::V6])
        .needs(&["icmp"]);
    v4.into_iter().chain([v6]).collect()
}
