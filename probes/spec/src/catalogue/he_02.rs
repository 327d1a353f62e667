//! HE-02: system calls.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Oracle, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-02",
    title: "system calls",
    requirement: "The engine's seccomp filter MUST be in force in the guest, and refuse the system calls that it forbids.",
    why: "The kernel behind a container is the host's; rarely used system calls are where its bugs are found.",
    source: "Seen in: amicontained blocked list (57), runtime-tools linux_seccomp, orbitalab.",
    does: "The host reads the filter mode; the guest makes each forbidden call with harmless arguments. Any answer but a refusal means that the call got through.",
    on_breach: "Check `SecurityOpt` in `docker inspect` for `seccomp=unconfined`, and the engine's default profile.",
    priority: Priority::P0,
    tags: &["seccomp", "kernel", "syscalls"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    // Refused by the filter alone: without it the kernel looks at the arguments first.
    let filtered = [
        "add_key",
        "bpf",
        "chroot",
        "clock_settime",
        "clone",
        "clone3",
        "fsconfig",
        "kcmp",
        "keyctl",
        "mount",
        "mount_setattr",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "personality",
        "pidfd_getfd",
        "process_madvise",
        "request_key",
        "setns",
        "settimeofday",
        "umount2",
        "unshare",
        "userfaultfd",
    ];
    // The same, of kernels that are built with them.
    let optional = [
        "get_mempolicy",
        "mbind",
        "migrate_pages",
        "move_pages",
        "quotactl",
        "quotactl_fd",
        "set_mempolicy",
        "swapon",
    ];
    // Here the kernel asks for a capability before anything else: the filter cannot be told from its lack.
    let privileged = [
        "acct",
        "fanotify_init",
        "fsmount",
        "fsopen",
        "fspick",
        "move_mount",
        "reboot",
        "setdomainname",
        "sethostname",
        "syslog",
    ];
    let call =
        |name: &str| unseen(name.replace('_', "-"), Action::Syscall { name: name.to_owned() }).alive(&[Vantage::Guest]);
    let mut mode = call("keyctl");
    mode.name = "filter-mode".to_owned();
    mode.oracle = Oracle::Facts(vec![("Seccomp".to_owned(), "2".to_owned())]);
    let mode = mode.alive(&[Vantage::HostProcess]).needs(&["shared-kernel"]);
    [mode]
        .into_iter()
        .chain(filtered.map(call))
        .chain(optional.map(|name| call(name).needs(&["whole-kernel"])))
        .map(|case| case.controls(&[Leak::Seccomp0]))
        .chain(privileged.map(|name| call(name).controls(&[Leak::Caps])))
        .collect()
}
