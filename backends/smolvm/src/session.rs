//! What the process of a machine is started with: a session of its own, and a scheduler that does not let it and who starts it
//! interrupt each other.
//!
//! smolvm 1.32.2 leaves it in the session of whoever starts the machine, with that one's terminal: a machine that was broken out
//! of could open `/dev/tty` and type there (TIOCSTI, ioctl_tty(2)), whoever it runs as. HE-24 looks at it.
//!
//! Scheduling: the threads of a machine, those that serve its shares and sockets, and smolvm, which asks whether the machine is up,
//! wake each other all the time. Where they share a processor, each that wakes takes it from the one that works; where machines are
//! emulated, too, that is expensive: a start with a share and two sockets took 4.6 to 5.9 s there, and 3.2 to 3.6 s under SCHED_BATCH
//! (sched(7)), whose threads wait for their turn and have as much of the processor as others.
#![expect(
    unsafe_code,
    reason = "std has no safe form of setsid(2) and sched_setscheduler(2) between fork and exec"
)]

use tokio::process::Command;

/// Has the program lead a session without a terminal, under SCHED_BATCH where there is one. It must not lead a group already
/// (setsid(2), EPERM). What it starts inherits both.
pub(crate) fn lead(command: &mut Command) {
    // SAFETY: both system calls are async-signal-safe, and nothing else is done between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            take_turns();
            Ok(())
        });
    }
}

/// Without it a start takes longer, and that is all.
#[cfg(target_os = "linux")]
fn take_turns() {
    // The kernel's `struct sched_param` is this one number.
    let priority: libc::c_int = 0;
    // SAFETY: the call reads the number, which outlives it. By its own number, since not every C library has it (musl).
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority) };
}

#[cfg(not(target_os = "linux"))]
fn take_turns() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_leads_its_session_takes_turns_and_has_no_terminal() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/stat");
        lead(&mut command);
        let output = command.output().await.unwrap();
        let stat = String::from_utf8(output.stdout).unwrap();
        // proc_pid_stat(5): after the name in brackets come state, parent, group, session, terminal.
        let (pid, rest) = stat.split_once(" (").unwrap();
        let fields: Vec<&str> = rest.rsplit_once(") ").unwrap().1.split(' ').collect();
        assert_eq!((fields[3], fields[4]), (pid, "0"), "{stat}");
        // Field 41 of all: SCHED_BATCH is 3.
        assert_eq!(fields[38], "3", "{stat}");
    }
}
