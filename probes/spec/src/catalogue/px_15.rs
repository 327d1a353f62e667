//! PX-15: names that change where they lead.

use super::make::{absolute, absolute_ok, absolute_text, listen, proxy, send, sequence, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-15",
    title: "names that change where they lead",
    requirement: "The proxy MUST dial an address that it checked, and MUST refuse a name when any of its addresses is forbidden.",
    why: "Rebinding: a name is public when it is checked and internal when it is dialled, or hides an internal address behind a public one.",
    source: "Seen in: microsandbox rebind_filter_*, iron-proxy upstream_deny_cidrs.",
    does: "Asks for allowed names that flip between look-ups, mix public and internal addresses, split them over A and AAAA, or lead inward by CNAME.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Resolve once, check every address, dial a checked one, and never look up again in between.",
    priority: Priority::P0,
    tags: &["proxy", "dns", "rebinding"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    // A name of its own each time: what it leads to depends on how often it was asked for.
    let flip = "{ok}.flip.rebind.test";
    let two = sequence([proxy([send(absolute_ok(flip)), listen()]), absolute(flip)]);
    let one = proxy([
        send(absolute_ok(flip)),
        Step::Response,
        send(absolute_text(flip, flip)),
        listen(),
    ]);
    let own = [
        ("flip-two-connections", two),
        ("flip-one-connection", one),
        ("cname", absolute("cname.rebind.test")),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::OwnBundle]));
    let outside = [
        ("mixed", absolute("mixed.rebind.test")),
        ("split", absolute("split.rebind.test")),
        ("shared-address-space", absolute("host-100-64-0-1.rebind.test")),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::OwnBundle, Vantage::Origin, Vantage::InternetTcp]));
    own.into_iter()
        .chain(outside)
        .map(|case| case.denied().controls(&[Leak::PxNameOnly]))
        .collect()
}
