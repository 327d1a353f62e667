//! HE-20: writing to a read-only share.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, ShareAttack, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-20",
    title: "writing to a read-only share",
    requirement: "What is shared with a machine read-only MUST be so on the host's side, whatever the guest does to its own mount.",
    why: "A mount flag in the guest is the guest's to change; the bundle's certificate and the guest's init are in that share.",
    source: "CVE-2026-46695 (boxlite: read-only share enforced in the guest), smolvm #524, kata-containers #1553.",
    does: "Puts a file that everybody may write into the host's end of the share. The guest remounts, mounts a second time, writes, cuts, renames, removes; the file and its directory are compared afterwards, on the host.",
    on_breach: "The share was handed in writable: see `:ro` in the arguments of `smolvm machine create`, and the version of smolvm.",
    priority: Priority::P0,
    tags: &["files", "share", "machine"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("write", ShareAttack::Write),
        ("remount", ShareAttack::Remount),
        ("second-mount", ShareAttack::SecondMount),
        ("truncate", ShareAttack::Truncate),
        ("attribute", ShareAttack::Attribute),
        ("create", ShareAttack::Create),
        ("rename", ShareAttack::Rename),
        ("remove", ShareAttack::Remove),
    ]
    .map(|(name, how)| {
        runner(name, RunnerCase::ReadOnlyShare(how))
            .alive(&[Vantage::Guest])
            .controls(&[Leak::RoGuest])
            .needs(&["machine"])
    })
    .into()
}
