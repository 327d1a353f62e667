//! XB-06: an address that was somebody else's.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, ReuseCheck, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-06",
    title: "an address that was somebody else's",
    requirement: "A bottle that is given the address of a former one MUST NOT inherit its policy, token, listeners or connections.",
    why: "Addresses are reused at once; whatever is kept by address outlives its owner.",
    source: "Design: addresses and alias pools are reused; no public suite probes it.",
    does: "Closes a bottle, opens another in its place and tries what belonged to the former.",
    on_breach: "Something is keyed by address: a policy, a connection table, a name. Key it by bottle and remove it with the bottle.",
    priority: Priority::P0,
    tags: &["peer", "address", "lifecycle"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("policy", ReuseCheck::Policy),
        ("token", ReuseCheck::Token),
        ("listener", ReuseCheck::Listener),
        ("connection", ReuseCheck::Connection),
    ]
    .map(|(name, check)| {
        runner(name, RunnerCase::AddressReuse(check))
            .alive(&[Vantage::PeerBundle, Vantage::PeerGuest])
            .controls(&[Leak::Alias])
            .needs(&["ip-address"])
    })
    .into()
}
