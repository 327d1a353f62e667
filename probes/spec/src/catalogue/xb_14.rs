//! XB-14: the peer's rules and secrets.

use super::make::{
    OK_FIELD, connect, connect_with, field, get_ok, proxy, runner, secret_unseen, send, tls, tls_h2, tunnel, unseen,
};
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-14",
    title: "the peer's rules and secrets",
    requirement: "A rule or token given to one bottle MUST NOT have any effect in another.",
    why: "Policies and secrets kept in one store for all bottles end up applied by whichever key collides: port, name or address.",
    source: "Seen in: sbx-releases #91, microsandbox #1508, matchlock ConcurrentSandboxesWithSecrets.",
    does: "While the peer uses its route and token, the bottle under test asks for the same host; neither the request nor the token may arrive.",
    on_breach: "Look for a store that is shared between bundles. Each bundle holds its own bottle's policy and tokens in memory, and nothing else.",
    priority: Priority::P0,
    tags: &["peer", "token", "policy"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let route = world::PEER_ROUTE;
    let ask = || tunnel("api.peer.test:443", Some(route), route);
    let peer = proxy([
        connect_with("api.peer.test:443", OK_FIELD),
        Step::Success,
        tls(route),
        send(get_ok(route)),
        Step::Response,
    ]);
    let h2 = proxy([
        connect("api.peer.test:443"),
        Step::Success,
        tls_h2(route),
        Step::H2 {
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            authority: route.to_owned(),
            path: "/{nonce}".to_owned(),
            fields: vec![field("x-bottle-nonce", "{nonce}")],
            body: String::new(),
        },
    ]);
    vec![
        unseen("rule", ask()).alive(&[Vantage::InternetTcp]),
        secret_unseen("token", ask()).alive(&[Vantage::InternetTcp]),
        runner("rule-while-peer-uses-it", RunnerCase::PeerThenSelf { peer, own: ask() })
            .alive(&[Vantage::InternetTcp, Vantage::PeerBundle]),
        unseen("rule-over-h2", h2).alive(&[Vantage::InternetTcp]),
    ]
    .into_iter()
    .map(|case| case.denied().controls(&[Leak::ScopeIp]))
    .collect()
}
