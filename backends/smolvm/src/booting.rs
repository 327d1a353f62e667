//! The start of a machine. One that does not come up in time is made anew: a busy host, and most of all an emulated one, now and
//! then has a machine that stands still from its first moment on, and its next one comes up.

use std::time::Duration;

use bottle_backend::{BackendError, BackendErrorKind};
use rustix::process::{Pid, setpriority_process};

use crate::machine::Maker;
use crate::mediation::Decider;
use crate::processes;
use crate::shapes::MachineSpec;

/// How often it is looked whether a start has its machine.
const LOOK_FOR_MACHINE: Duration = Duration::from_millis(100);
/// The last place in the queue for the processor: a niceness.
const LAST: i32 = 19;

impl Maker {
    /// Starts a machine that was made. Only what was not ready in time is tried again: a refusal would be one again.
    pub(crate) async fn boot(&self, spec: &MachineSpec, decider: Option<&Decider>) -> Result<(), BackendError> {
        let (name, shapes) = (&spec.name, self.program.shapes());
        let token = decider.map(Decider::token);
        let mut attempt = 1;
        loop {
            let words = shapes.start(name, decider.map(Decider::address));
            let Err(error) = self.program.call_behind(words, token, self.limits.start).await else {
                return Ok(());
            };
            if error.kind != BackendErrorKind::TimedOut || attempt >= self.start_tries {
                return Err(error);
            }
            tracing::warn!(machine = name, attempt, of = self.start_tries, %error, "not up in time: made anew");
            self.clear(name).await?;
            self.program.call(shapes.create(spec), self.limits.create).await?;
            attempt += 1;
        }
    }
}

/// Lowers the priority of a call of smolvm, the process `id`, once it has started its machine. Never ends where it starts none.
///
/// smolvm asks the agent of a starting machine dozens of times a second whether it is there, and waits a few milliseconds for an
/// answer. A machine that needs longer, as on a busy or emulated host, then does nothing but answer questions that nobody waits
/// for any more, without an end. Behind its machine, smolvm asks when the machine has answered all there was.
pub async fn step_back(id: i32) {
    while !processes::has_started_machine(id) {
        tokio::time::sleep(LOOK_FOR_MACHINE).await;
    }
    // A call that has ended meanwhile needs no place.
    let _ = setpriority_process(Pid::from_raw(id), LAST);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[tokio::test]
    async fn a_start_goes_behind_its_machine_and_not_before_there_is_one() {
        use rustix::process::{Signal, getpriority_process, kill_process_group};
        use std::os::unix::process::CommandExt as _;
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read -r line; sleep 600 | sh -s _boot-vm; :"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let limit = Duration::from_millis(300);
        assert!(tokio::time::timeout(limit, step_back(id)).await.is_err());
        assert_ne!(getpriority_process(Pid::from_raw(id)), Ok(LAST));
        drop(child.stdin.take());
        tokio::time::timeout(Duration::from_secs(30), step_back(id))
            .await
            .unwrap();
        assert_eq!(getpriority_process(Pid::from_raw(id)), Ok(LAST));
        kill_process_group(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
