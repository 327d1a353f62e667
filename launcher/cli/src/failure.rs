//! Why `bottle` fails, and with which exit code.

use std::fmt;
use std::path::PathBuf;

use bottle_backend::{BackendError, BackendErrorKind, PartsError};
use bottle_launch::record::RecordFault;
use bottle_launch::{LaunchError, LaunchFailure};
use bottle_plan::{ManifestError, Place, PlanError};

/// The command line or the manifest cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// No such bottle runs, or several do (`EX_NOINPUT`).
pub const EXIT_NO_BOTTLE: u8 = 66;
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
    /// The command line cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A skill of the agent cannot be given to it.
    #[error("skill `{name}`: {problem}")]
    Skill {
        /// Which.
        name: String,
        /// Why.
        problem: String,
    },
    /// Tokens of the manifest's routes have no value here.
    #[error("no value was found for {}: set the environment variable(s) of that name, whose values are added to requests outside the bottle", .0.join(", "))]
    TokensMissing(Vec<String>),
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
    /// No bottle of that name runs.
    #[error("{}", no_such(.name.as_deref(), .running))]
    NoSuchBottle {
        /// What was asked for.
        name: Option<String>,
        /// Slugs of those that run.
        running: Vec<String>,
    },
    /// A name means several bottles.
    #[error("several bottles are meant: {}; name one", .0.join(", "))]
    SeveralBottles(Vec<String>),
    /// No work is kept under that name.
    #[error("no work is kept of a bottle `{name}`{}", kept_are(.known))]
    NothingKept {
        /// What was asked for.
        name: String,
        /// Slugs of what is kept.
        known: Vec<String>,
    },
    /// What a resumed bottle may do is not what it could.
    #[error(
        "{0}: the manifest allows other things than it did: `bottle plan` shows what, --accept-changes goes on with them"
    )]
    PolicyChanged(String),
    /// Files could not be copied.
    #[error("copying: {0}")]
    Copy(String),
    /// A record could not be made, read or verified.
    #[error("record {path}: {fault}", path = .path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        fault: RecordFault,
    },
    /// An image could not be made.
    #[error("making the image: {0}")]
    Image(String),
    /// There is no bundle for the engine.
    #[error(transparent)]
    NoBundle(#[from] PartsError),
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
            Self::Unreadable { .. }
            | Self::Manifest { .. }
            | Self::Plan { .. }
            | Self::Environment { .. }
            | Self::Usage(_)
            | Self::PolicyChanged(_)
            | Self::Skill { .. }
            | Self::TokensMissing(_) => EXIT_USAGE,
            Self::Engine(error) => engine_code(error),
            Self::Launch(error) => match &error.failure {
                LaunchFailure::Cancelled => EXIT_INTERRUPTED,
                LaunchFailure::SecretsMissing { .. } => EXIT_USAGE,
                LaunchFailure::Backend { source, .. } => engine_code(source),
                _ => EXIT_FAILURE,
            },
            Self::NoSuchBottle { .. } | Self::SeveralBottles(_) | Self::NothingKept { .. } => EXIT_NO_BOTTLE,
            Self::Copy(_)
            | Self::Record { .. }
            | Self::Image(_)
            | Self::NoBundle(_)
            | Self::System { .. }
            | Self::BundleEnded(_)
            | Self::LeftBehind(_) => EXIT_FAILURE,
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

fn kept_are(known: &[String]) -> String {
    if known.is_empty() {
        "; none is kept at all".to_owned()
    } else {
        format!("; it is of these: {}", known.join(", "))
    }
}

fn no_such(name: Option<&str>, running: &[String]) -> String {
    match (name, running) {
        (None, _) => "no bottle runs here".to_owned(),
        (Some(name), []) => format!("no bottle `{name}` runs here; none does"),
        (Some(name), running) => format!("no bottle `{name}` runs here; these do: {}", running.join(", ")),
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
