//! HE-15: descriptors that lead outside.

use super::make::unseen;
use crate::{Action, CaseSpec, DescriptorsOf, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-15",
    title: "descriptors that lead outside",
    requirement: "A process of the guest MUST NOT inherit a descriptor, working directory or root that leads outside of the guest.",
    why: "A leaked directory descriptor is the host's file system, whatever the mount namespace says (CVE-2024-21626).",
    source: "CVE-2024-21626 (runc: leaked directory descriptor); also seen in: youki fd_control, SandboxEscapeBench.",
    does: "Lists the open files, working directory and root of the guest's first process, of its main command and of a process that the engine starts later.",
    on_breach: "Find who opened the descriptor without close-on-exec: the launcher, the engine's runtime (update runc) or the guest's init.",
    priority: Priority::P0,
    tags: &["descriptors", "runtime"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("init", DescriptorsOf::Init),
        ("main", DescriptorsOf::Main),
        ("later", DescriptorsOf::Own),
    ]
    .map(|(name, of)| {
        unseen(name, Action::Descriptors { of })
            .alive(&[Vantage::Guest])
            .controls(&[Leak::FdLeak])
            .needs(if name == "init" { &["own-entrypoint"] } else { &[] })
    })
    .into()
}
