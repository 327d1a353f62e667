//! LC-02: a launcher that dies.

use super::make::runner;
use crate::{CaseSpec, LauncherDeath, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-02",
    title: "a launcher that dies",
    requirement: "When the launcher dies in whatever way, the bottle MUST end and be removed within the bound.",
    why: "A bottle without a launcher is an agent without anybody watching.",
    source: "Seen in: llxprt #3449, traceroot #2101, sandbox-runtime --die-with-parent.",
    does: "Ends a launcher by SIGKILL, SIGINT, SIGHUP and in the middle of a launch, and compares inventories until the bound, by the bottle's label and by its name.",
    on_breach: "The lease did not end the bundle, the guest did not follow it, or the sweep did not run. Check that standard input of the bundle is held by the launcher alone.",
    priority: Priority::P0,
    tags: &["lifecycle", "teardown", "crash"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("killed", LauncherDeath::Kill),
        ("interrupted", LauncherDeath::Interrupt),
        ("hung-up", LauncherDeath::Hangup),
        ("killed-while-launching", LauncherDeath::KillWhileLaunching),
        ("killed-by-name", LauncherDeath::KillByName),
    ]
    .map(|(name, death)| {
        runner(name, RunnerCase::LauncherDeath(death))
            .alive(&[Vantage::Inventory])
            .controls(&[Leak::NoReap])
    })
    .into()
}
