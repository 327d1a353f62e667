//! TX-02: tokens in processes.

use super::make::{find, find_marked, sequence, unseen};
use crate::{CaseSpec, Leak, Place, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-02",
    title: "tokens in processes",
    requirement: "No process of the guest MUST hold a token in its environment, arguments, open files or memory.",
    why: "Unsetting a variable does not remove it from `/proc`, and an agent can read its siblings.",
    source: "Seen in: gh-aw-firewall token-unset, OpenShell core_dump_hardening, break-out-the-box recon.",
    does: "Searches environment and memory of every process that can be read, and arguments, open files, mapped files and core dumps.",
    on_breach: "The token reached a process of the guest: see TX-01 for how, and rotate it.",
    priority: Priority::P0,
    tags: &["token", "proc", "memory"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let rest = sequence(
        [
            Place::ProcCmdline,
            Place::ProcDescriptors,
            Place::ProcMaps,
            Place::CoreDumps,
        ]
        .map(|place| find_marked(place, NEEDLES, ""))
        .into_iter()
        .chain([find(Place::ProcEnviron, NEEDLES)]),
    );
    [
        ("environment", find(Place::ProcEnviron, NEEDLES)),
        ("memory", find(Place::ProcMemory, NEEDLES)),
        ("arguments-files-maps-cores", rest),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::Guest]).controls(&[Leak::Env]))
    .into()
}

const NEEDLES: &[&str] = &["${token}", "${peer.token}"];
