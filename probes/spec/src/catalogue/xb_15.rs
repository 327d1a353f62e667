//! XB-15: several bottles at once.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-15",
    title: "several bottles at once",
    requirement: "Of bottles that start, work and stop at once, each MUST be served by its own bundle, with its own rules and its own token only.",
    why: "What is keyed by address, port or order of start works for one bottle and mixes up two.",
    source: "Seen in: httpjail, matchlock concurrent_test, smolvm test_scale.",
    does: "Launches bottles at once, each with a host and a token of its own, has all of them ask for their own and for the others' hosts at once, closes them at once, and looks which bundle told of what, which token arrived, and what is left.",
    on_breach: "Look for what two launches share: a store, a name, an address. Each bundle holds its own bottle's policy and tokens in memory, and nothing else.",
    priority: Priority::P1,
    tags: &["peer", "token", "policy", "race"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    vec![
        runner("each-its-own", RunnerCase::Crowd)
            .alive(&[Vantage::InternetTcp, Vantage::Origin, Vantage::PeerBundle])
            .controls(&[Leak::ScopeIp]),
    ]
}
