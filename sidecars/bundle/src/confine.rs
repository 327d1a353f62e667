//! A daemon gives up what it needed to start: root, every capability, and any way to get one back.

use bottle_policy::Daemon;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Why a daemon could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {error}{hint}")]
pub struct ConfineError {
    what: &'static str,
    error: Errno,
    hint: &'static str,
}

/// User and group of a daemon.
pub fn user_of(daemon: Daemon) -> u32 {
    match daemon {
        Daemon::Pipelock => 10_001,
        Daemon::Egress => 10_002,
        Daemon::Relay => 10_003,
    }
}

/// Confines the calling thread. Call it while it is the only one: the kernel keeps users and capabilities by thread.
pub fn confine(daemon: Daemon) -> Result<(), ConfineError> {
    let (uid, gid) = (Uid::from_raw(user_of(daemon)), Gid::from_raw(user_of(daemon)));
    let needs = "; the bundle's container needs the capabilities SETUID and SETGID";
    step(
        "leave root's supplementary groups",
        needs,
        thread::set_thread_groups(&[]),
    )?;
    step("change the group", needs, thread::set_thread_res_gid(gid, gid, gid))?;
    step("change the user", needs, thread::set_thread_res_uid(uid, uid, uid))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop the capabilities", "", thread::set_capabilities(None, none))?;
    step("set no_new_privs", "", thread::set_no_new_privs(true))?;
    // Other daemons are other users; this keeps out also what may run as the same one (`docker exec -u`).
    step(
        "forbid debugging",
        "",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )?;
    // After the change of user, which clears it. As process 1 of a container init takes us along anyway.
    step(
        "be ended with init",
        "",
        set_parent_process_death_signal(Some(Signal::KILL)),
    )
}

fn step(what: &'static str, hint: &'static str, done: Result<(), Errno>) -> Result<(), ConfineError> {
    done.map_err(|error| ConfineError { what, error, hint })
}
