//! XB-01: the peer's guest by address.

use super::make::{tcp, udp, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-01",
    title: "the peer's guest by address",
    requirement: "A guest MUST NOT reach the guest of another bottle by its address.",
    why: "Bottles of one operator work for different tasks and often with different trust; one that is taken over must not take its neighbours.",
    source: "Seen in: httpjail test_concurrent_jail_isolation, cyclonus truth table.",
    does: "Connects, sends datagrams and echo requests to the address of a peer's guest, and looks for open ports there. Every bottle's guest listens in these tests.",
    on_breach: "Two bottles share a network. Make one network a bottle, or seal them.",
    priority: Priority::P0,
    tags: &["peer", "network"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let port = world::PEER_PORT;
    let echo = Action::Icmp {
        to: "${peer.guest}".to_owned(),
        raw: false,
        send: "{nonce}".to_owned(),
        answer_is_finding: true,
    };
    let sweep = Action::Sweep {
        to: "${peer.guest}".to_owned(),
        first: port - 100,
        last: port + 100,
        send: "{nonce}\r\n".to_owned(),
        declared: Vec::new(),
        open_is_finding: true,
        handshakes: "${handshakes}".to_owned(),
    };
    [
        ("tcp", tcp(format!("${{peer.guest}}:{port}"))),
        ("udp", udp(format!("${{peer.guest}}:{port}"))),
        ("echo", echo),
        ("sweep", sweep),
    ]
    .map(|(name, action)| {
        let needs: &[&str] = if name == "echo" { &["icmp"] } else { &[] };
        unseen(name, action)
            .alive(&[Vantage::PeerGuest])
            .controls(&[Leak::SharedNet])
            .needs(needs)
    })
    .into()
}
