//! LC-03: a launcher that is killed at a step of its launch.

use super::make::runner;
use crate::{CaseSpec, LauncherDeath, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-03",
    title: "a launcher killed at any step",
    requirement: "When the launcher is killed at any step of a launch, nothing of the bottle MUST remain after the next start, and its guest MUST NOT run without a bundle.",
    why: "A launch has many moments at which something exists that nobody has written down yet.",
    source: "Seen in: openclaw #143755, sbx-releases #353.",
    does: "Kills a launcher after each kind of thing that it notes for its teardown, lets the next one start, and compares inventories; after the bundle was begun, looks whether the guest runs.",
    on_breach: "What was made is not labelled, or not noted before it is made, or the sweep does not look for it. A guest that runs was started before its bundle was ready.",
    priority: Priority::P0,
    tags: &["lifecycle", "teardown", "crash"],
    cases,
};

/// The steps that a launch notes for its teardown (a test of the runner compares them with the launcher's own list).
const STEPS: [&str; 6] = ["state directory", "network", "volume", "bundle", "lease", "guest"];

fn cases() -> Vec<CaseSpec> {
    let case = |name: &str, death, leak| {
        runner(name, RunnerCase::LauncherDeath(death))
            .alive(&[Vantage::Inventory])
            .controls(&[leak])
    };
    let mut cases: Vec<CaseSpec> = STEPS
        .into_iter()
        .map(|step| {
            let name = format!("after-{}", step.replace(' ', "-"));
            let case = case(&name, LauncherDeath::KillAfterStep(step), Leak::NoReap);
            if step == "network" {
                case.needs(&["own-network"])
            } else {
                case
            }
        })
        .collect();
    let early = case("guest-before-bundle", LauncherDeath::KillBeforeReadiness, Leak::Early);
    cases.push(early.needs(&["own-entrypoint"]));
    cases
}
