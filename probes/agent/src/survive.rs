//! Action `Survive`: processes that try to outlive the agent and their bottle.
//!
//! The text stands in their arguments, where the host can see it. They do nothing, and end by themselves after a while.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use probe_spec::Survival;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::notes::{Done, NotIssued, Run, errno};

/// How long one stays when nobody ends it.
const STAYS: Duration = Duration::from_secs(600);
/// What the second process of a double fork is told.
const ORPHAN: &str = "orphan";

/// Starts one.
pub fn survive(run: &Run, how: Survival, text: &str) -> Done {
    let text = run.words.text(text)?;
    let mut child =
        start(how.name(), &text).map_err(|error| NotIssued::Agent(format!("starting a process: {}", errno(&error))))?;
    run.trace(format!("{} is tried by process {}", how.name(), child.id()));
    if how == Survival::DoubleFork {
        let ended = child.wait();
        run.trace(format!("which left its own child and ended: {ended:?}"));
    }
    Ok(())
}

fn start(how: &str, text: &str) -> std::io::Result<std::process::Child> {
    Command::new("/proc/self/exe")
        .args(["survive", how, text])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// `survive HOW TEXT`: is one.
pub fn main(args: &[String]) -> ExitCode {
    use rustix::process::{Signal, getpid, kill_process, setsid};
    let how = args.first().map(String::as_str).unwrap_or_default();
    let done = match how {
        _ if how == Survival::DoubleFork.name() => {
            return match start(ORPHAN, args.get(1).map(String::as_str).unwrap_or_default()) {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(71),
            };
        }
        _ if how == Survival::NewSession.name() => setsid().map(drop).map_err(Into::into),
        // Waited for by nobody: they do nothing any more.
        _ if how == Survival::IgnoredSignals.name() => Signals::new([SIGTERM, SIGINT, SIGHUP]).map(std::mem::forget),
        _ if how == Survival::Stopped.name() => kill_process(getpid(), Signal::STOP).map_err(Into::into),
        ORPHAN => Ok(()),
        _ => return ExitCode::from(64),
    };
    if done.is_err() {
        return ExitCode::from(71);
    }
    std::thread::sleep(STAYS);
    ExitCode::SUCCESS
}
