//! HE-03: privileges that are gained.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-03",
    title: "privileges that are gained",
    requirement: "No process of the guest MUST be able to gain privileges by executing a file.",
    why: "One forgotten set-user-id program in an image turns any process into root.",
    source: "Seen in: codex test_no_new_privs, gh-aw-firewall, sudo CVE-2025-32463 demo in agentsh.",
    does: "Reads the `no_new_privs` flag, and plants and runs a set-user-id helper.",
    on_breach: "Set `no-new-privileges` on the container; processes that the engine starts later inherit it from there, not from the guest's init.",
    priority: Priority::P0,
    tags: &["no-new-privs", "setuid"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [("flag", false), ("helper", true)]
        .map(|(name, helper)| {
            unseen(name, Action::NoNewPrivileges { helper })
                .alive(&[Vantage::Guest])
                .controls(&[Leak::Seccomp0])
                .needs(if helper { &["set-user-id"] } else { &[] })
        })
        .into()
}
