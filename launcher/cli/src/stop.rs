//! `bottle stop`.

use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_launch::OwnerState;
use bottle_plan::LABEL_SLUG;
use rustix::process::{Pid, Signal};

use crate::args::StopArgs;
use crate::backend::{sweep_all, with_remains};
use crate::failure::{Failure, say};
use crate::live::{self, Live};

/// How long a launcher may take: 10 s for a command that ignores its signal, and the removal.
const LIMIT: Duration = Duration::from_secs(40);
/// How often the engine is asked whether all is gone.
const LOOK: Duration = Duration::from_millis(100);

/// Stops one bottle, or all.
pub async fn stop(args: &StopArgs) -> Result<u8, Failure> {
    let backend = with_remains().await?;
    let targets = if args.all {
        live::all(&*backend).await?
    } else {
        let mut targets = Vec::new();
        for name in &args.names {
            targets.push(live::one(&*backend, Some(name)).await?);
        }
        if args.names.is_empty() {
            targets.push(live::one(&*backend, None).await?);
        }
        targets
    };
    for live in &targets {
        ask(&*backend, live).await?;
    }
    for live in &targets {
        await_end(&*backend, live).await?;
    }
    Ok(0)
}

/// Has its launcher end it. The launcher is the one that removes a bottle; without one, the sweep does.
async fn ask(backend: &dyn Backend, live: &Live) -> Result<(), Failure> {
    match live.owner.state() {
        OwnerState::Alive => signal(live),
        OwnerState::Dead => {
            sweep_all(backend).await?;
            Ok(())
        }
        OwnerState::Foreign => Err(Failure::Usage(format!(
            "{} was launched on another machine or in another process namespace: stop it there",
            live.slug
        ))),
    }
}

/// A descriptor of the process, not its number, is signalled: the number may be another's by then.
fn signal(live: &Live) -> Result<(), Failure> {
    let failed = |error: rustix::io::Errno| Failure::system("signalling the bottle's launcher")(error.into());
    let Some(pid) = Pid::from_raw(live.owner.pid) else {
        return Ok(());
    };
    let process = match process::open(pid) {
        // It has just ended.
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    if live.owner.state() != OwnerState::Alive {
        return Ok(());
    }
    match process::send(&process, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other.map_err(failed),
    }
}

#[cfg(target_os = "linux")]
mod process {
    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    pub fn open(pid: Pid) -> rustix::io::Result<OwnedFd> {
        pidfd_open(pid, PidfdFlags::empty())
    }

    pub fn send(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
        pidfd_send_signal(process, signal)
    }
}

/// Only Linux has such descriptors. Elsewhere it is the number after all, looked at the moment before.
#[cfg(not(target_os = "linux"))]
mod process {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    pub fn open(pid: Pid) -> rustix::io::Result<Pid> {
        test_kill_process(pid).map(|()| pid)
    }

    pub fn send(process: &Pid, signal: Signal) -> rustix::io::Result<()> {
        kill_process(*process, signal)
    }
}

async fn await_end(backend: &dyn Backend, live: &Live) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let left = backend.inventory(LABEL_SLUG, Some(&live.slug)).await?;
        if left.is_empty() && !live.directory.exists() {
            say(&format!("{} is stopped", live.slug));
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            let names = left.into_iter().map(|resource| resource.name).collect();
            return Err(Failure::LeftBehind(names));
        }
        tokio::time::sleep(LOOK).await;
    }
}
