//! LC-06: processes that try to outlive their bottle.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Survival, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-06",
    title: "processes that outlive their bottle",
    requirement: "No process that a guest starts MUST run after its bottle was stopped.",
    why: "What goes on running after a stop acts without anybody watching, with whatever the bottle gave it.",
    source: "Seen in: sandbox-runtime background processes, kata k8s-kill-all-process.",
    does: "Starts processes that are orphaned, lead a session, ignore signals or are stopped, closes the bottle, and looks for them in the host's process table.",
    on_breach: "The guest was not removed, or its processes are in no process namespace of its own: see the teardown's messages and `PidMode` in `docker inspect`.",
    priority: Priority::P0,
    tags: &["lifecycle", "teardown", "processes"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        Survival::DoubleFork,
        Survival::NewSession,
        Survival::IgnoredSignals,
        Survival::Stopped,
    ]
    .map(|how| {
        runner(how.name(), RunnerCase::Survivor(how))
            .alive(&[Vantage::HostProcess])
            .controls(&[Leak::NoReap])
            .needs(&["shared-kernel"])
    })
    .into()
}
