//! XB-03: the peer's bundle by address.

use super::make::{absolute_text, connect, get, listen, send, tls, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-03",
    title: "the peer's bundle by address",
    requirement: "A guest MUST NOT reach the proxy of another bottle.",
    why: "A proxy serves whoever reaches it: with the peer's allow-list and the peer's tokens.",
    source: "Seen in: cleanroom TestCrossSandboxIsolation (unit level).",
    does: "Speaks to the peer's proxy by CONNECT, in absolute form and for the peer's own route, on its inner and outer address. The peer's decision log is the witness.",
    on_breach: "Two bottles share a network, or a proxy listens on its outer leg. Bind it to the bottle's own network or socket.",
    priority: Priority::P0,
    tags: &["peer", "proxy"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let talk = |to: &str, steps: Vec<Step>| Action::Talk {
        to: to.to_owned(),
        steps,
    };
    let (denied, route) = (world::DENIED, world::PEER_ROUTE);
    let inner = "${peer.bundle}:8888";
    let own_route = vec![
        connect("api.peer.test:443"),
        Step::Success,
        tls(route),
        get(route),
        listen(),
    ];
    let shared = [
        ("connect", talk(inner, vec![connect("denied.test:443"), listen()])),
        (
            "absolute",
            talk(inner, vec![send(absolute_text(denied, denied)), listen()]),
        ),
        ("peer-route", talk(inner, own_route)),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::PeerBundle])
            .controls(&[Leak::SharedNet])
    });
    let outer = talk("${peer.bundle.outer}:8888", vec![connect("denied.test:443"), listen()]);
    let outer = unseen("outer-address", outer)
        .alive(&[Vantage::PeerBundle, Vantage::InternetTcp])
        .controls(&[Leak::Bridge]);
    shared.into_iter().chain([outer]).collect()
}
