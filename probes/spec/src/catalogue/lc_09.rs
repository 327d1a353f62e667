//! LC-09: cleaning up touches what is one's own.

use super::make::runner;
use crate::{CaseSpec, CleanupCheck, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-09",
    title: "cleaning up, and nothing else",
    requirement: "Cleaning up after a dead launcher MUST remove all that is its bottle's and MUST NOT touch anything else.",
    why: "A cleanup that goes by names or follows links deletes other people's work; one that fails beside another leaves its own.",
    source: "Seen in: glovebox gc-sbx, nextest leaky tests.",
    does: "Kills a launcher beside things of others with like names and files beside its own, lets two cleanups run at once, and compares.",
    on_breach: "Removal goes by something else than the labels and the owner's process, follows a link, or takes what is gone already for a failure.",
    priority: Priority::P0,
    tags: &["lifecycle", "teardown", "foreign"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("foreign-objects", CleanupCheck::ForeignObjects, Leak::ReapAll),
        ("foreign-files", CleanupCheck::ForeignFiles, Leak::ReapAll),
        ("two-at-once", CleanupCheck::TwoAtOnce, Leak::NoReap),
    ]
    .map(|(name, check, leak)| {
        runner(name, RunnerCase::Cleanup(check))
            .alive(&[Vantage::Inventory])
            .controls(&[leak])
    })
    .into()
}
