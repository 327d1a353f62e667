//! PX-01: a denied name.

use super::make::{absolute, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-01",
    title: "a denied name",
    requirement: "The proxy MUST refuse a name that is not on the allow-list.",
    why: "This is what the proxy is there for; every other probe of the family assumes it.",
    source: "DESIGN section 4: the allow-list decides; every public filtering proxy tests this first.",
    does: "Asks for a denied name by CONNECT, with a request inside, and in absolute form.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Check that the allow-list in the plan is the one of the manifest.",
    priority: Priority::P0,
    tags: &["proxy", "allow-list"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let denied = world::DENIED;
    [
        ("connect", tunnel(&format!("{denied}:443"), Some(denied), denied)),
        ("absolute", absolute(denied)),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp])
            .denied()
            .controls(&[Leak::PxOpen])
    })
    .into()
}
