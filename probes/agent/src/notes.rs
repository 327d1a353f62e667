//! What a case leaves behind while it runs. Shared with the thread that waits for it, so that a case that is cut off still
//! reports what it had found by then.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::template::{TemplateError, Words};

/// Lines of a trace, and characters a line (contract of `Attempt::trace`).
const TRACE_LINES: usize = 64;
const TRACE_CHARACTERS: usize = 300;
/// Findings of one case: more say nothing new.
const FINDINGS: usize = 256;

/// Notes of one case.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Content>>);

/// What was noted.
#[derive(Clone, Default)]
pub struct Content {
    /// Calls and their results.
    pub trace: Vec<String>,
    /// What must not be there.
    pub findings: Vec<String>,
    /// Whether the planted marker was found.
    pub marker_found: Option<bool>,
}

impl Notes {
    /// Adds a line to the trace; the last place says how many were left out.
    pub fn trace(&self, line: impl AsRef<str>) {
        self.with(|content| match content.trace.len() {
            0..62 => content.trace.push(cut(line.as_ref())),
            62 => content.trace.extend([
                "(further lines are left out; the last one follows)".to_owned(),
                cut(line.as_ref()),
            ]),
            _ => content.trace[TRACE_LINES - 1] = cut(line.as_ref()),
        });
    }

    /// Adds something found that must not be there.
    pub fn finding(&self, line: impl AsRef<str>) {
        self.with(|content| {
            let line = cut(line.as_ref());
            if content.findings.len() < FINDINGS && !content.findings.contains(&line) {
                content.findings.push(line);
            }
        });
    }

    /// Says whether the marker was found; once found it stays found.
    pub fn marker(&self, found: bool) {
        self.with(|content| content.marker_found = Some(found || content.marker_found == Some(true)));
    }

    /// A copy of what there is by now.
    pub fn content(&self) -> Content {
        self.with(|content| content.clone())
    }

    fn with<T>(&self, what: impl FnOnce(&mut Content) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One line of at most [`TRACE_CHARACTERS`].
fn cut(line: &str) -> String {
    line.chars().take(TRACE_CHARACTERS).collect()
}

/// What every action is given.
#[derive(Clone)]
pub struct Run {
    /// Where it reports.
    pub notes: Notes,
    /// What its templates are filled with.
    pub words: Words,
    /// When the case is cut off.
    pub deadline: Instant,
    /// How many times longer than usual what may come is awaited.
    pub patience: u32,
}

impl Run {
    /// `wanted`, or what is left of the case's time; never zero (a zero time-out means "for ever" to sockets).
    pub fn within(&self, wanted: Duration) -> Duration {
        self.deadline
            .saturating_duration_since(Instant::now())
            .min(wanted)
            .max(Duration::from_millis(1))
    }

    /// As long as `usual` takes on this machine, within the case's time.
    pub fn awaiting(&self, usual: Duration) -> Duration {
        self.within(usual * self.patience)
    }

    /// Whether the case's time is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Sleeps, but not past the end of the case.
    pub fn pause(&self, time: Duration) {
        std::thread::sleep(self.within(time));
    }

    /// Shorthand for the trace.
    pub fn trace(&self, line: impl AsRef<str>) {
        self.notes.trace(line);
    }
}

/// Why a case was not issued: the agent itself could not carry it out. (What the guest or its surroundings refuse is no such
/// reason: a refused call has been made.)
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// A template.
    #[error("template: {0}")]
    Template(#[from] TemplateError),
    /// The case asks for something that cannot be expressed.
    #[error("cannot be carried out: {0}")]
    Unfit(String),
    /// TLS failed before anything was sent.
    #[error("TLS: {0}")]
    Tls(String),
    /// The agent lacks something of its own (threads, descriptors, memory).
    #[error("the agent failed: {0}")]
    Agent(String),
    /// The time of the case was over before everything was tried.
    #[error("cut off before {0}")]
    CutOff(&'static str),
    /// The peer fell silent before the nonce was sent.
    #[error("no answer within the time of {0}, and the nonce was not sent yet")]
    Silent(&'static str),
}

/// How an action ends: done (whatever the outcome), or not issued.
pub type Done = Result<(), NotIssued>;

/// Name of an error for the trace: the errno's where it has one.
pub fn errno(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return format!("{:?}: {error}", error.kind());
    };
    match ERRNO_NAMES.iter().find(|(number, _)| *number == code) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("errno {code}"),
    }
}

macro_rules! errno_names {
    ($($name:ident)*) => { [$((libc::$name, stringify!($name))),*] };
}

/// Names of the errors that calls of this program meet.
const ERRNO_NAMES: [(i32, &str); 63] = errno_names![
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE ERANGE ENAMETOOLONG
    ENOSYS ELOOP ENOTEMPTY ENODATA EPROTO EOVERFLOW ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
    ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNABORTED
    ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED EHOSTUNREACH EINPROGRESS
];

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn run(limit_ms: u64) -> Run {
        Run {
            notes: Notes::default(),
            words: crate::template::tests::words(),
            deadline: Instant::now() + Duration::from_millis(limit_ms),
            patience: 1,
        }
    }

    #[test]
    fn a_slow_machine_is_awaited_longer_and_never_beyond_the_case() {
        let usual = Duration::from_millis(400);
        assert_eq!(run(60_000).awaiting(usual), usual);
        let slow = |limit_ms| Run {
            patience: 5,
            ..run(limit_ms)
        };
        assert_eq!(slow(60_000).awaiting(usual), usual * 5);
        assert!(slow(1_000).awaiting(usual) <= Duration::from_secs(1));
    }

    #[test]
    fn a_trace_is_bounded_and_keeps_its_end() {
        let notes = Notes::default();
        for line in 0..200 {
            notes.trace(format!("{line} {}", "x".repeat(1000)));
        }
        let trace = notes.content().trace;
        assert_eq!(trace.len(), TRACE_LINES);
        assert!(trace[TRACE_LINES - 1].starts_with("199 ") && trace.iter().all(|line| line.len() <= TRACE_CHARACTERS));
    }

    #[test]
    fn a_found_marker_stays_found() {
        let notes = Notes::default();
        notes.marker(true);
        notes.marker(false);
        assert_eq!(notes.content().marker_found, Some(true));
    }
}
