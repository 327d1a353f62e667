//! LC-10: what a bottle did is still known after its end.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RecordCheck, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-10",
    title: "what a bottle did is known after its end",
    requirement: "The record of what a bundle decided MUST survive the bottle, whole to the last line, and MUST show when a line was changed, left out or added.",
    why: "What an agent tried is asked for when its bottle is long gone, and by somebody who did not keep the record.",
    source: "Seen in: glovebox egress archive, pipelock receipts.",
    does: "Has requests refused and allowed right before the stop, closes the bottle, and reads the record: every decision must be in it, and its chain must hold up to the line that says that nothing follows. Copies with a line changed, left out or cut off must be refused.",
    on_breach: "The bundle was not heard out before it was removed, or lines came out beside its chain: see the lease's step of the teardown and `events` of the bundle.",
    priority: Priority::P1,
    tags: &["lifecycle", "teardown", "evidence"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [("complete", RecordCheck::Complete), ("chained", RecordCheck::Chained)]
        .map(|(name, check)| {
            runner(name, RunnerCase::Record(check))
                .alive(&[Vantage::HostFiles])
                .controls(&[Leak::NoReap])
        })
        .into()
}
