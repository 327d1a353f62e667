//! `bottle-probe leak-fd`: what a launcher does that forgets a descriptor (the shape of CVE-2024-21626). It is the command of a
//! known-leaky bottle, so that the probe for inherited descriptors is shown to find one.

use std::os::fd::IntoRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Opens the directory without close-on-exec and becomes the command; with `--stay` it runs the command below itself, and so
/// keeps the directory open whatever the command closes.
pub fn main(args: &[String]) -> ExitCode {
    let (stays, args) = match args {
        [first, rest @ ..] if first == "--stay" => (true, rest),
        _ => (false, args),
    };
    let [directory, dashes, program, arguments @ ..] = args else {
        return usage();
    };
    if dashes != "--" {
        return usage();
    }
    match rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        // Given up on purpose: the command inherits it.
        Ok(open) => drop(open.into_raw_fd()),
        Err(error) => {
            eprintln!("bottle-probe: cannot open directory {directory}: {error}");
            return ExitCode::from(71);
        }
    }
    let mut command = Command::new(program);
    command.args(arguments);
    let error = if stays {
        match run(command) {
            Ok(code) => return code,
            Err(error) => error,
        }
    } else {
        command.exec()
    };
    eprintln!("bottle-probe: cannot run {program}: {error}");
    ExitCode::from(127)
}

/// Runs the command, passes signals on to it and ends with its status.
fn run(mut command: Command) -> std::io::Result<ExitCode> {
    // Before the command is there: as process 1 a signal without a handler would be lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let mut child = command.spawn()?;
    let process = Pid::from_child(&child);
    std::thread::spawn(move || {
        for signal in signals.forever().filter_map(Signal::from_named_raw) {
            // It may have ended already.
            let _ = kill_process(process, signal);
        }
    });
    let status = child.wait()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
    ))
}

fn usage() -> ExitCode {
    eprintln!("bottle-probe: expected `leak-fd [--stay] DIRECTORY -- COMMAND [ARGUMENT..]`");
    ExitCode::from(64)
}
