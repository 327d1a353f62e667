//! A session of its own for a machine's process.
//!
//! smolvm 1.32.2 leaves it in the session of whoever starts the machine, with that one's terminal: a machine that was broken out
//! of could open `/dev/tty` and type there (TIOCSTI, ioctl_tty(2)), whoever it runs as. HE-24 looks at it.
#![expect(unsafe_code, reason = "std has no safe form of setsid(2) between fork and exec")]

use tokio::process::Command;

/// Has the program lead a session without a terminal. It must not lead a group already (setsid(2), EPERM).
pub(crate) fn lead(command: &mut Command) {
    // SAFETY: setsid(2) is async-signal-safe, and nothing else is done between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_leads_its_session_and_has_no_terminal() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/stat");
        lead(&mut command);
        let output = command.output().await.unwrap();
        let stat = String::from_utf8(output.stdout).unwrap();
        // proc_pid_stat(5): after the name in brackets come state, parent, group, session, terminal.
        let (pid, rest) = stat.split_once(" (").unwrap();
        let fields: Vec<&str> = rest.rsplit_once(") ").unwrap().1.split(' ').collect();
        assert_eq!((fields[3], fields[4]), (pid, "0"), "{stat}");
    }
}
