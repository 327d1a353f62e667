//! The guest's init under test: this build's, or the one for another architecture that `cargo xtask dist` built.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

/// Its path.
pub fn path() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_bottle-guest").into();
    shipped().map_or(built, |parts| Path::new(&parts).join("bottle-guest"))
}

/// A command that runs it.
pub fn command() -> Command {
    Command::new(path())
}

/// Starts a command that is it, or becomes it.
///
/// What was built for shipping is made process 1 of a namespace, which guests in a container are: QEMU's user-mode emulation knows no
/// other way to be the reaper of orphans (7.2 refuses `PR_SET_CHILD_SUBREAPER`). A thread that has done that can start nothing else.
#[expect(deprecated, reason = "for the sake of tables of descriptors, which stay shared here")]
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    use rustix::thread::{UnshareFlags, unshare};
    if shipped().is_none() {
        return command.spawn();
    }
    let first = || {
        unshare(UnshareFlags::NEWPID)?;
        command.spawn()
    };
    thread::scope(|scope| scope.spawn(first).join().expect("starting does not panic"))
}

fn shipped() -> Option<std::ffi::OsString> {
    std::env::var_os("BOTTLE_TEST_PARTS")
}
