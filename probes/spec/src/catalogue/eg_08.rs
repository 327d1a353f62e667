//! EG-08: IPv6 to the internet.

use super::make::{tcp, udp, unseen};
use crate::{ADVERTISED, Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-08",
    title: "IPv6 to the internet",
    requirement: "A guest MUST NOT deliver a byte to the internet over IPv6.",
    why: "A bottle filtered for IPv4 alone is open wherever the network also offers IPv6.",
    source: "Seen in: gh-aw-firewall A12 ('likely a real gap'), httpjail IPv6.",
    does: "Connects and sends over IPv6 to the stand-in internet, through IPv4-mapped addresses, and from an address that a router advertises.",
    on_breach: "The guest's network has IPv6. Make it without, or filter it as IPv4 is.",
    priority: Priority::P0,
    tags: &["egress", "ipv6"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let mut cases: Vec<CaseSpec> = vec![
        unseen("tcp-443", tcp("[${sink6}]:443")),
        unseen("tcp-80", tcp("[${sink6}]:80")),
        unseen("udp-443", udp("[${sink6}]:443")),
        unseen("udp-53", udp("[${sink6}]:53")),
    ]
    .into_iter()
    .map(|case| case.alive(&[Vantage::InternetIp6]).controls(&[Leak::V6]))
    .collect();
    cases.push(
        unseen("mapped", tcp("[::ffff:${sink}]:443"))
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Bridge]),
    );
    cases.push(
        unseen(
            "advertised-address",
            Action::Tcp {
                to: "[${sink6}]:443".to_owned(),
                send: "GET /{nonce} HTTP/1.0\r\n\r\n".to_owned(),
                from: Some(ADVERTISED.to_owned()),
            },
        )
        .alive(&[Vantage::InternetIp6, Vantage::InternetAdvertised])
        .controls(&[Leak::V6])
        .needs(&["router"]),
    );
    cases
}
