//! The bundle of a bottle: one static binary that is the init of its container and each of the daemons.
//!
//! The one decision behind this crate: init knows everything and talks to nobody, a daemon talks and knows only what it
//! needs. Init reads the configuration and the tokens from standard input, keeps the authority's key in memory, and
//! hands each daemon its part through a pipe; a daemon binds its sockets, becomes a user of its own without any
//! capability, and only then reads a byte from a network. A daemon that dies is started again; until it serves, its
//! sockets refuse: there is never a way around it.

mod confine;
mod daemon;
mod events;
mod handover;
mod init;
mod process;
mod publish;
mod relay;
mod start;

use std::process::ExitCode;

/// Exit status for a configuration that was not understood (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// Exit status when a daemon cannot run (`EX_SOFTWARE`).
const EXIT_SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => ExitCode::from(init::main()),
        ["daemon", name] => ExitCode::from(daemon::main(name)),
        _ => {
            eprintln!(
                "bottle-bundle: expected no arguments (init of a bundle, configured over standard input) or \
                 `daemon NAME` (started by that init), found {args:?}"
            );
            ExitCode::from(EXIT_USAGE)
        }
    }
}
