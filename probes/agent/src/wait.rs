//! `bottle-probe wait`: the main command of a guest under test. Sleeps until it is told to end.
//!
//! Its arguments are ignored: they, and its environment, are where a marker stands that searches of other processes must find.

use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Sleeps until TERM, INT or HUP. As process 1 these have no effect unless they are waited for.
pub fn main() -> ExitCode {
    match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(mut signals) => {
            signals.forever().next();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bottle-probe: cannot wait for signals: {error}");
            ExitCode::from(71)
        }
    }
}

/// Ends the whole process with 0 at the first of these signals, while the caller goes on.
pub fn end_on_signal() {
    // Where no thread can be started, TERM still ends everything but process 1.
    let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
        if let Ok(mut signals) = Signals::new([SIGTERM, SIGINT, SIGHUP]) {
            signals.forever().next();
            std::process::exit(0);
        }
    });
}
