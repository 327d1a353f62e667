//! LC-04: what a bottle stands on is started again.

use super::make::{absolute, hammer, sequence, tcp};
use crate::{CaseSpec, Disturbance, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-04",
    title: "what a bottle stands on is started again",
    requirement: "When its proxy, its bundle or the engine's own processes are restarted under a live bottle, its policy MUST stay in force or the bottle MUST end.",
    why: "An allow list that is applied once, at the start, is lost with whatever kept it, and nobody notices.",
    source: "Seen in: opencode-forge #82 (the allow list was lost when the daemon was restarted).",
    does: "Hammers the internet directly and through the proxy while the daemons are killed and serve again, while the engine restarts the bundle's container, and while the engine's process for it is killed. A restart of the whole engine would end the run's other bottles: a test of the launcher does it to an engine of its own.",
    on_breach: "Find what is set up once and not again. A bundle that comes back without its configuration must refuse, and a guest whose bundle is gone must end.",
    priority: Priority::P1,
    tags: &["lifecycle", "crash", "egress"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("proxy-restarted", Disturbance::RestartDaemons),
        ("bundle-restarted", Disturbance::RestartBundle),
        ("keeper-killed", Disturbance::KillKeeper),
    ]
    .map(|(name, meanwhile)| {
        hammer(name, sequence([tcp("${sink}:443"), absolute(world::DENIED)]), meanwhile)
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Early])
    })
    .into()
}
