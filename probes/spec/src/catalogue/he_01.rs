//! HE-01: capabilities.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Oracle, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-01",
    title: "capabilities",
    requirement: "A guest's processes MUST have no capability, in no set.",
    why: "Each capability is a piece of root; several of them are known ways out of a container by themselves.",
    source: "Seen in: amicontained, CDK eva, gh-aw-firewall capsh tests, docker-bench 5.3.",
    does: "The host reads the capability sets; the guest reads its own and tries one real operation for each capability.",
    on_breach: "Compare `CapAdd` and `CapDrop` in `docker inspect` with the plan; a guest drops ALL and adds none.",
    priority: Priority::P0,
    tags: &["capabilities", "kernel"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let none = "0000000000000000";
    let mut sets = unseen(
        "sets",
        Action::Capability {
            capability: "sys_admin".to_owned(),
        },
    );
    sets.oracle = Oracle::Facts(
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|set| (set.to_owned(), none.to_owned()))
            .into(),
    );
    let sets = sets.alive(&[Vantage::HostProcess]).needs(&["shared-kernel"]);
    let names = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "net_admin",
        "net_raw",
        "sys_module",
        "sys_chroot",
        "sys_ptrace",
        "sys_admin",
        "sys_boot",
        "sys_rawio",
        "mknod",
        "audit_write",
        "setfcap",
        "syslog",
    ];
    let tried = names.map(|name| {
        unseen(
            name.replace('_', "-"),
            Action::Capability {
                capability: name.to_owned(),
            },
        )
        .alive(&[Vantage::Guest])
    });
    [sets]
        .into_iter()
        .chain(tried)
        .map(|case| case.controls(&[Leak::Caps]))
        .collect()
}
