//! The sub-commands.

mod explain;
mod judge;
mod list;
mod output;
mod run;
mod self_test;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use bottle_reports::{Report, TableStyle, to_json, to_table};
use probe_spec::ExitCode;
use serde::Serialize;

pub use explain::explain;
pub use judge::judge;
pub use list::list;
pub use run::{RunOutcome, run, run_matrix, smolmachines};
pub use self_test::self_test;

use crate::error::SuiteError;
use crate::selection::SelectionError;

/// Why a sub-command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A probe or pattern that there is not.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The waivers cannot be used.
    #[error(transparent)]
    Waivers(#[from] crate::waivers::WaiversError),
    /// The suite could not go on.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// No engine answers.
    #[error("{0}")]
    NoEngine(bottle_backend::BackendError),
    /// The evidence file could not be opened.
    #[error("{path}: {source}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The evidence file is not understood.
    #[error("{path}: {source}", path = .path.display())]
    Evidence {
        /// Which.
        path: PathBuf,
        /// Where and what.
        source: bottle_reports::EvidenceError,
    },
    /// A report could not be written.
    #[error("{path}: {source}", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A report could not be rendered.
    #[error(transparent)]
    Json(#[from] bottle_reports::JsonError),
    /// A report could not be rendered.
    #[error(transparent)]
    Junit(#[from] bottle_reports::JunitError),
    /// A list could not be rendered.
    #[error("rendering JSON: {0}")]
    Render(#[from] serde_json::Error),
}

impl CommandError {
    /// The exit status that it makes.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Selection(_) | Self::Waivers(_) | Self::Unreadable { .. } | Self::Evidence { .. } => ExitCode::Usage,
            Self::NoEngine(_) | Self::Suite(SuiteError::Parts(_)) => ExitCode::NoBackend,
            Self::Suite(SuiteError::Interrupted) => ExitCode::Interrupted,
            Self::Suite(_) | Self::Write { .. } | Self::Json(_) | Self::Junit(_) | Self::Render(_) => {
                ExitCode::HarnessError
            }
        }
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)?;
    // A closed pipe is no failure.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}

/// Prints a report: a table, or JSON.
fn print_report(report: &Report, code: ExitCode, json: bool, verbose: bool) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    let text = if json {
        to_json(report, code.code())?
    } else {
        let terminal = out.is_terminal();
        let width = if terminal { terminal_width() } else { None };
        to_table(
            report,
            TableStyle {
                terminal,
                width,
                verbose,
            },
        )
    };
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 20)
}
