//! Preparing the guest, running the command, reaping.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::args::Args;
use crate::confine::{ConfineError, confine};
use crate::copy;
use crate::descent;
use crate::forward::{BindError, Forwarder};

/// Signals passed on to the command.
const PASSED_ON: [i32; 8] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT];

/// Status after the lease ended, as if by SIGTERM.
pub const LEASE_LOST: u8 = 143;

/// Set when the lease ended: the guest then exits with [`LEASE_LOST`], whatever the command makes of its SIGTERM.
pub static LEASE_ENDED: AtomicBool = AtomicBool::new(false);

/// Why the guest could not be prepared.
#[derive(Debug)]
pub enum InitError {
    /// The working directory cannot be entered.
    Workdir(PathBuf, io::Error),
    /// What an engine would have done.
    Confine(ConfineError),
    /// The process that a signal is for.
    Signal(String),
    /// A file that the launcher provides.
    Copy(PathBuf, io::Error),
    /// A forwarder or the lease.
    Forward(BindError),
    /// `no_new_privs`, the reaper's role or signal handling.
    Process(&'static str, io::Error),
}

/// Prepares the guest, runs the command and returns its exit status: its own code, 128 + n for signal n, 126 when it
/// cannot be executed, 127 when it is not found.
pub fn run(args: Args) -> Result<u8, InitError> {
    if let (Some(name), Some(file)) = (&args.signal, &args.confine.pid_file) {
        return send(name, file);
    }
    // Low ports are root's to bind.
    let forwarder = Forwarder::bind(&args.forwards, args.lease.as_deref()).map_err(InitError::Forward)?;
    // The kernel keeps users, capabilities and filters by thread: this is the only one as yet.
    confine(&args.confine).map_err(InitError::Confine)?;
    if let Some(dir) = &args.workdir {
        std::env::set_current_dir(dir).map_err(|error| InitError::Workdir(dir.clone(), error))?;
    }
    if args.exec {
        return Ok(become_command(&args.command));
    }
    crate::edge::give_up_terminal();
    let mut signals = Signals::new(PASSED_ON.iter().chain([&SIGCHLD]))
        .map_err(|error| InitError::Process("handle signals", error))?;
    let ourselves = rustix::process::getpid();
    // Orphans come to process 1 by themselves; where a backend has an init of its own, they still come to us.
    if !ourselves.is_init() {
        rustix::process::set_child_subreaper(Some(ourselves))
            .map_err(|error| InitError::Process("become the reaper of orphans", error.into()))?;
    }
    // A thread takes this over from the one that starts it, so it comes before the first.
    rustix::thread::set_no_new_privs(true).map_err(|error| InitError::Process("set no_new_privs", error.into()))?;
    forwarder
        .start()
        .map_err(|error| InitError::Process("start the forwarding thread", error))?;

    for copy in &args.copies {
        copy::copy(copy).map_err(|(path, error)| InitError::Copy(path, error))?;
    }
    let command = match spawn(&args.command) {
        Ok(command) => command,
        Err(error) => return Ok(cannot_run(&args.command, &error)),
    };
    for signal in signals.forever() {
        if signal == SIGCHLD {
            if let Some(status) = reap(command) {
                descent::end_all(Signal::KILL);
                return Ok(if LEASE_ENDED.load(Ordering::Acquire) {
                    LEASE_LOST
                } else {
                    status
                });
            }
        } else if let Some(signal) = Signal::from_named_raw(signal) {
            // ESRCH: it has ended, and SIGCHLD is on its way.
            let _ = rustix::process::kill_process(command, signal);
        }
    }
    unreachable!("the signal iterator has no end while its handle is not closed")
}

/// Becomes the command; the status when that is not possible.
fn become_command(command_line: &[OsString]) -> u8 {
    let error = Command::new(&command_line[0]).args(&command_line[1..]).exec();
    cannot_run(command_line, &error)
}

fn cannot_run(command_line: &[OsString], error: &io::Error) -> u8 {
    eprintln!("bottle-guest: cannot run {:?}: {error}", command_line[0]);
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

/// Sends a signal to the init that left its process id in a file.
fn send(name: &str, file: &Path) -> Result<u8, InitError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| InitError::Signal(format!("cannot read {}: {error}", file.display())))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| InitError::Signal(format!("{} has no process id: {text:?}", file.display())))?;
    let signal = match name {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "KILL" => Signal::KILL,
        other => return Err(InitError::Signal(format!("no signal that is passed on: {other:?}"))),
    };
    match rustix::process::kill_process(pid, signal) {
        Ok(()) => Ok(0),
        Err(error) => Err(InitError::Signal(format!("cannot signal process {pid:?}: {error}"))),
    }
}

fn spawn(command_line: &[OsString]) -> io::Result<Pid> {
    let mut command = Command::new(&command_line[0]);
    command.args(&command_line[1..]);
    crate::edge::own_session(&mut command);
    // Dropping the `Child` neither kills nor waits: `reap` waits for every child alike.
    let id = command.spawn()?.id();
    Ok(Pid::from_raw(id as i32).expect("a process id is positive"))
}

/// Reaps all that ended; the status of `command` when it is among them.
fn reap(command: Pid) -> Option<u8> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == command {
            ended = Some(exit_code(status));
        }
    }
    ended
}

fn exit_code(status: WaitStatus) -> u8 {
    let status = std::process::ExitStatus::from_raw(status.as_raw());
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workdir(dir, error) => write!(f, "cannot enter the working directory {}: {error}", dir.display()),
            Self::Confine(error) => error.fmt(f),
            Self::Signal(problem) => f.write_str(problem),
            Self::Copy(path, error) => write!(f, "cannot provide the agent's files: {}: {error}", path.display()),
            Self::Forward(error) => error.fmt(f),
            Self::Process(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for InitError {}
