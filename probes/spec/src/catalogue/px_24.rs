//! PX-24: other members of the bundle as proxies.

use super::make::{absolute_text, connect, get, listen, send, sequence, tls, tls_nameless, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-24",
    title: "other members of the bundle as proxies",
    requirement: "Only the proxy MUST answer as a proxy: no other member of the bundle relays anything.",
    why: "A git gate, a supervisor or a resolver that happens to forward requests is a second way out without rules.",
    source: "Seen in: gh-aw-firewall, whose threat model lists relaying through members that are no proxy (M2, M5).",
    does: "Speaks proxy protocols to the ports where other members listen or could listen.",
    on_breach: "Find which daemon owns the port that relayed, and bind it to its own protocol.",
    priority: Priority::P0,
    tags: &["bundle", "relay"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    // The git gate's port, egress, DNS, and neighbours of the proxy's own.
    let everywhere = |steps: &dyn Fn() -> Vec<Step>| {
        sequence([9418, 9099, 53, 8889].map(|port| Action::Talk {
            to: format!("${{bundle.address}}:{port}"),
            steps: steps(),
        }))
    };
    let denied = world::DENIED;
    let tunnelled =
        |authority: &str, host: &str, sni: Step| vec![connect(authority), Step::Success, sni, get(host), listen()];
    [
        (
            "absolute",
            everywhere(&|| vec![send(absolute_text(denied, denied)), listen()]),
        ),
        (
            "absolute-address",
            everywhere(&|| vec![send(absolute_text("${sink}", "${sink}")), listen()]),
        ),
        (
            "connect",
            everywhere(&|| tunnelled("denied.test:443", denied, tls(denied))),
        ),
        (
            "connect-address",
            everywhere(&|| tunnelled("203.0.113.20:443", "203.0.113.20", tls_nameless())),
        ),
        (
            "connect-plain",
            everywhere(&|| vec![connect("denied.test:80"), Step::Success, get(denied), listen()]),
        ),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Relay])
    })
    .into()
}
