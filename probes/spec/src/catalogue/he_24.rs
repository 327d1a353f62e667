//! HE-24: the process that is a machine.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, ProcessCheck, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-24",
    title: "the process that is a machine",
    requirement: "The process of the host that is a machine MUST run as a user of its own, without capabilities and privileges to gain, with no files open but the machine's.",
    why: "Whoever breaks out of the machine is this process: what it may do is what is left.",
    source: "Seen in: kata-containers qemu-rootless and seccomp, firecracker test_jail; smolvm 1.32.2 (measured: a user for each machine, no capability, no_new_privs).",
    does: "Reads the status, the open files, the working directory and the session of the machine's process in the host's process table.",
    on_breach: "Run bottle as root, so that smolvm gives each machine a user of its own, and update smolvm; the session is the backend's to give.",
    priority: Priority::P1,
    tags: &["processes", "machine"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("user", ProcessCheck::User),
        ("capabilities", ProcessCheck::Capabilities),
        ("no-new-privileges", ProcessCheck::NoNewPrivileges),
        ("descriptors", ProcessCheck::Descriptors),
        ("session", ProcessCheck::Session),
    ]
    .map(|(name, check)| {
        runner(name, RunnerCase::MachineProcess(check))
            .alive(&[Vantage::HostProcess])
            .controls(&[Leak::VmmLax])
            .needs(&["machine"])
    })
    .into()
}
