//! XB-02: the peer by name.

use super::make::{absolute_text, listen, send, tcp, udp, unseen};
use crate::{Action, CaseSpec, DnsTransport, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-02",
    title: "the peer by name",
    requirement: "Names of another bottle's containers MUST NOT resolve in a guest, nor lead there.",
    why: "Engines run a resolver on every network that knows all its members by name.",
    source: "Container engines resolve the names of all members of a network (embedded DNS server); modelled on the network policy tests of Kubernetes.",
    does: "Looks up and connects to the names of a peer's guest and bundle. An answer is a finding, a connection a sighting.",
    on_breach: "The engine's resolver knows the peer because a network is shared. See XB-01.",
    priority: Priority::P0,
    tags: &["peer", "dns", "names"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let lookup = |name: &str| Action::Dns {
        server: "resolv.conf".to_owned(),
        transport: DnsTransport::Udp,
        name: name.to_owned(),
        qtype: 1,
        answer_is_finding: true,
    };
    let through = Action::Talk {
        to: "${peer.bundle.name}:8888".to_owned(),
        steps: vec![send(absolute_text(world::DENIED, world::DENIED)), listen()],
    };
    vec![
        unseen("look-up-guest", lookup("${peer.guest.name}")).alive(&[Vantage::PeerGuest]),
        unseen("look-up-bundle", lookup("${peer.bundle.name}")).alive(&[Vantage::PeerBundle]),
        unseen("tcp-guest", tcp(format!("${{peer.guest.name}}:{}", world::PEER_PORT))).alive(&[Vantage::PeerGuest]),
        unseen("udp-guest", udp(format!("${{peer.guest.name}}:{}", world::PEER_PORT))).alive(&[Vantage::PeerGuest]),
        unseen("proxy-of-bundle", through).alive(&[Vantage::PeerBundle]),
    ]
    .into_iter()
    .map(|case| case.controls(&[Leak::SharedNet]).needs(&["given-names"]))
    .collect()
}
