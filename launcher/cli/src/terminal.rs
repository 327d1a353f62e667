//! The operator's terminal.

use std::io::{self, IsTerminal, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

/// How the terminal was before it was made raw, and who restores it if this process cannot.
static BEFORE: Mutex<Option<(Termios, Keeper)>> = Mutex::new(None);

/// The word that makes this program a [`Keeper`].
pub const KEEPER: &str = "__keep-terminal";

/// Whether the operator sits at a terminal with both ends.
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Columns and rows.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// A terminal in raw mode: every key goes to the guest as it is. Dropping it restores the terminal.
pub struct RawMode(());

impl RawMode {
    /// Makes it raw.
    pub fn enter() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Failure::system("making the terminal raw")(error.into());
        let before = tcgetattr(stdin()).map_err(failed)?;
        let keeper = Keeper::start().map_err(Failure::system("starting what restores the terminal after a crash"))?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((before, keeper));
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it is raw; for ways out that drop nothing.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((before, keeper)) = before {
        // It may be gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        keeper.dismiss();
    }
}

/// A process that restores the terminal when this one is killed: a shell would be left with one that echoes nothing.
struct Keeper(Child);

impl Keeper {
    /// Starts it; it has seen how the terminal is when this returns.
    fn start() -> io::Result<Self> {
        let terminal = stdin().as_fd().try_clone_to_owned()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(KEEPER)
            .stdin(Stdio::piped())
            .stdout(terminal)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut word = [0];
        match child.stderr.take().map(|mut said| said.read_exact(&mut word)) {
            Some(Ok(())) => Ok(Self(child)),
            _ => {
                let status = child.wait()?;
                Err(io::Error::other(format!("it ended with {status}")))
            }
        }
    }

    /// Tells it that there is nothing left to do.
    fn dismiss(mut self) {
        if let Some(mut line) = self.0.stdin.take() {
            let _ = line.write_all(b".");
        }
        let _ = self.0.wait();
    }
}

/// The keeper's work: its standard output is the terminal, its standard input ends when its launcher does.
pub fn keep() -> ExitCode {
    let kept = || -> io::Result<()> {
        // Out of reach of the terminal's signals, and not held to its foreground.
        rustix::process::setsid()?;
        let before = tcgetattr(stdout())?;
        io::stderr().write_all(b".")?;
        let mut word = Vec::new();
        stdin().take(1).read_to_end(&mut word)?;
        if word.is_empty() {
            tcsetattr(stdout(), OptionalActions::Now, &before)?;
        }
        Ok(())
    };
    // Nobody is there to be told.
    kept().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Has a panic restore the terminal before its message is printed: a message in a raw terminal is stairs.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}
