//! `bottle-probe leak-fd`: what a launcher does that forgets a descriptor (the shape of CVE-2024-21626). It is the command of a
//! known-leaky bottle, so that the probe for inherited descriptors is shown to find one.

use std::os::fd::IntoRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags};

/// Opens the directory without close-on-exec and becomes the command.
pub fn main(args: &[String]) -> ExitCode {
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
    let error = Command::new(program).args(arguments).exec();
    eprintln!("bottle-probe: cannot run {program}: {error}");
    ExitCode::from(127)
}

fn usage() -> ExitCode {
    eprintln!("bottle-probe: expected `leak-fd DIRECTORY -- COMMAND [ARGUMENT..]`");
    ExitCode::from(64)
}
