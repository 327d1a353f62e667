//! Why `bottle` fails, and with which exit code.

use std::fmt;
use std::path::PathBuf;

use bottle_backend::{BackendError, BackendErrorKind};
use bottle_launch::{LaunchError, LaunchFailure};
use bottle_plan::{ManifestError, Place, PlanError};

/// The command line or the manifest cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// No engine answers (`EX_UNAVAILABLE`).
pub const EXIT_NO_ENGINE: u8 = 69;
/// The launch failed, or something inside went wrong (`EX_SOFTWARE`).
pub const EXIT_FAILURE: u8 = 70;
/// Stopped by a signal before the command had ended (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Says something on standard error. Unlike `eprintln!` it does not panic when nobody listens there any more: what is
/// under way then is often the way out.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "bottle: {text}");
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file could not be read.
    #[error("{path}: {source}{hint}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The manifest was not understood.
    #[error("{error}{excerpt}")]
    Manifest {
        /// Why.
        error: ManifestError,
        /// The line in question.
        excerpt: Excerpt,
    },
    /// There is no plan.
    #[error("{error}{excerpt}")]
    Plan {
        /// Why.
        error: PlanError,
        /// The line in question, when the fault is in the manifest.
        excerpt: Excerpt,
    },
    /// A value of the environment was not understood.
    #[error("environment variable {name}: expected {expected}, found `{found}`")]
    Environment {
        /// Name.
        name: &'static str,
        /// What can stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// This program was built without the bundle.
    #[error("this `bottle` was built without the bundle that it launches: build it with `cargo xtask build`")]
    NoBundle,
    /// The engine did not do something.
    #[error(transparent)]
    Engine(#[from] BackendError),
    /// The launch failed.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The system did not do something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The sidecars ended before the command, which then has no way out and is ended too.
    #[error("the bundle ended while the command ran, and the command was ended with it{}", last_words(.0))]
    BundleEnded(Vec<String>),
    /// Something could not be removed.
    #[error("could not remove: {}", .0.join("; "))]
    LeftBehind(Vec<String>),
}

impl Failure {
    /// The exit code that tells it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } | Self::Manifest { .. } | Self::Plan { .. } | Self::Environment { .. } => {
                EXIT_USAGE
            }
            Self::Engine(error) => engine_code(error),
            Self::Launch(error) => match &error.failure {
                LaunchFailure::Cancelled => EXIT_INTERRUPTED,
                LaunchFailure::SecretsMissing { .. } => EXIT_USAGE,
                LaunchFailure::Backend { source, .. } => engine_code(source),
                _ => EXIT_FAILURE,
            },
            Self::NoBundle | Self::System { .. } | Self::BundleEnded(_) | Self::LeftBehind(_) => EXIT_FAILURE,
        }
    }

    /// For `map_err` of a system call.
    pub fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

fn engine_code(error: &BackendError) -> u8 {
    if error.kind == BackendErrorKind::Unreachable {
        EXIT_NO_ENGINE
    } else {
        EXIT_FAILURE
    }
}

fn last_words(lines: &[String]) -> String {
    if lines.is_empty() {
        String::new()
    } else {
        format!("; its last lines: {}", lines.join(" | "))
    }
}

/// The line of a manifest that is meant, with a mark under the place; empty when there is none to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// Takes the line of a place out of the text.
    pub fn of(text: &str, place: Option<&Place>) -> Self {
        let Some(place) = place else { return Self::default() };
        let number = usize::try_from(place.line).unwrap_or(0);
        let Some(line) = number.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
            return Self::default();
        };
        let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
        // Tabs stay tabs, so that the mark stands where the terminal shows the place.
        let before: String = line
            .chars()
            .take(column)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let shown: String = line
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
            .collect();
        let margin = " ".repeat(number.to_string().len());
        Self(format!("\n {number} | {shown}\n {margin} | {before}^"))
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
