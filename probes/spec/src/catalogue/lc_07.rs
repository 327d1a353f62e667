//! LC-07: a bottle that comes back under its name.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, ReturnCheck, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-07",
    title: "a bottle that comes back under its name",
    requirement: "A bottle that is launched again under a former one's name MUST have the same policy, look every name up anew, and MUST NOT find anything of the former.",
    why: "Work is resumed under its name; whatever is kept by name is then trusted by somebody it was not made for.",
    source: "Seen in: smolvm allow_host_persists, smolvm #124 (stale addresses).",
    does: "Asks for a refused host and for a name whose address changes, writes everywhere, renames the containers, closes the bottle, launches one of the same name, asks again and searches.",
    on_breach: "Find what is kept by name: a volume, an address, a rule. Everything is made anew from the manifest, and removed by id.",
    priority: Priority::P1,
    tags: &["lifecycle", "policy", "address", "files"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("policy", ReturnCheck::Policy, Vantage::InternetTcp, Leak::PxOpen),
        ("address", ReturnCheck::Address, Vantage::OwnBundle, Leak::PxNameOnly),
        ("data", ReturnCheck::Data, Vantage::Guest, Leak::SharedVol),
        ("renamed", ReturnCheck::Renamed, Vantage::Inventory, Leak::NoReap),
    ]
    .map(|(name, check, at, leak)| runner(name, RunnerCase::Return(check)).alive(&[at]).controls(&[leak]))
    .into()
}
