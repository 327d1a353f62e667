//! XB-05: the peer's published ports.

use super::make::{sequence, tcp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-05",
    title: "the peer's published ports",
    requirement: "A guest MUST NOT reach a port of another bottle through the host, and a bottle MUST NOT publish one by itself.",
    why: "Published ports listen on every address of the host; from there they are open to every container and to the operator's network.",
    source: "Seen in: 1996fanrui #215, moby #45610.",
    does: "Connects to the port that a peer would publish, through the gateway, the host's addresses, the default bridge and an alias name.",
    on_breach: "Find who published the port (`docker ps`). Bottles publish nothing.",
    priority: Priority::P0,
    tags: &["peer", "published", "host"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let port = world::PEER_PORT;
    let to = |host: &str| {
        sequence([
            tcp(format!("{host}:${{peer.published}}")),
            tcp(format!("{host}:{port}")),
        ])
    };
    let on_own_network = [
        ("gateway", to("${inner.gateway}")),
        ("host-on-own-network", to("${host.address.inner}")),
        ("alias", to("host.docker.internal")),
    ]
    .map(|(name, action)| {
        let needs: &[&str] = if name == "alias" { &["given-names"] } else { &[] };
        unseen(name, action)
            .alive(&[Vantage::PeerGuest])
            .controls(&[Leak::Pub0])
            .needs(needs)
    });
    let by_route = [
        ("host-address", to("${host.address.1}")),
        ("default-bridge", to("${host.address.docker0}")),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::PeerGuest, Vantage::InternetTcp])
            .controls(&[Leak::Bridge])
    });
    on_own_network.into_iter().chain(by_route).collect()
}
