//! XB-04: borrowing another bottle's identity.

use super::make::{NONCE_FIELD, connect_with, get, listen, proxy, tls, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-04",
    title: "borrowing another bottle's identity",
    requirement: "A bundle MUST attribute every request to its own bottle, whatever the request says about itself.",
    why: "Shared proxies tell their clients apart by source address or by fields, and both can be chosen by the client.",
    source: "Seen in: cleanroom identity middleware + scope token.",
    does: "Asks for the peer's route, which is not allowed here, with fields and credentials that claim to be the peer.",
    on_breach: "Something serves more than one bottle, or reads identity from the request. One bundle a bottle; identity is the socket it came in by.",
    priority: Priority::P0,
    tags: &["peer", "identity", "proxy"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let route = world::PEER_ROUTE;
    let claims = [
        ("plain", ""),
        (
            "proxy-authorization",
            "Proxy-Authorization: Basic {b64:${peer.slug}:${peer.slug}}\r\n",
        ),
        ("x-forwarded-for", "X-Forwarded-For: ${peer.guest}\r\n"),
        ("forwarded", "Forwarded: for=${peer.guest}\r\n"),
        ("x-real-ip", "X-Real-IP: ${peer.guest}\r\n"),
        ("bottle-name", "X-Bottle: ${peer.slug}\r\n"),
    ];
    claims
        .map(|(name, claim)| {
            let open = connect_with("api.peer.test:443", &format!("{claim}{NONCE_FIELD}"));
            let steps = [open, Step::Success, tls(route), get(route), listen()];
            unseen(name, proxy(steps))
                .alive(&[Vantage::InternetTcp, Vantage::PeerBundle])
                .denied()
                .controls(&[Leak::ScopeIp])
        })
        .into()
}
