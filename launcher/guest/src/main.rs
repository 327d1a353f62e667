//! First process of a guest.
//!
//! The one decision behind this program: everything that a bottle promises about the inside of a guest is in place
//! *before* the agent's first instruction. Forwarders are bound, the lease is held, inherited descriptors are closed and
//! `no_new_privs` is set, or the program exits with status 125 and the agent never runs. It then stays process 1: it
//! passes signals on, reaps orphans and exits with the agent's status.
//!
//! Where no container engine has done it (in a microVM), it also confines the agent: see `confine`.

mod archive;
mod args;
mod check;
mod confine;
mod copy;
mod descent;
mod edge;
mod forward;
mod init;
mod relay;
mod seccomp;

use std::process::ExitCode;

/// Exit status when the guest could not be prepared; the command was not started.
const CANNOT_PREPARE: u8 = 125;

/// First word of a command line that is to be announced, and the line on standard error by which it is: a microVM's program says
/// nothing of whether, and when, it has started one.
const ANNOUNCE: &str = "--announce";
const ANNOUNCEMENT: &str = "bottle-guest: begun";

fn main() -> ExitCode {
    // Before anything else opens a descriptor: from here on everything is ours and close-on-exec.
    edge::close_inherited();
    // Helpers of the launcher's, run in a guest that is prepared already.
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|word| word == ANNOUNCE) {
        args.remove(0);
        eprintln!("{ANNOUNCEMENT}");
    }
    let mut words = args.iter().map(|word| word.to_string_lossy().into_owned());
    match words.next().as_deref() {
        Some("--check") => return check::main(words),
        Some(what @ ("--pack" | "--unpack" | "--unpack-file")) => {
            return archive::main(what, words.next(), words.next());
        }
        _ => {}
    }
    let args = match args::Args::parse(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("bottle-guest: {error}\n{}", args::USAGE);
            return ExitCode::from(CANNOT_PREPARE);
        }
    };
    match init::run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("bottle-guest: {error}");
            ExitCode::from(CANNOT_PREPARE)
        }
    }
}
