//! Failures that smolvm itself reports, told from what a command prints.

use bottle_backend::BackendErrorKind;
use serde::Deserialize;

/// A failure that smolvm itself reports: the last line of its standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnFailure {
    code: String,
    /// What it says.
    pub(crate) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    error: ReportedError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportedError {
    code: String,
    message: String,
}

/// Whether this says that a machine does not run. smolvm (1.32.2) says so of a busy one, too: it waits a few milliseconds for
/// the agent in it.
pub(crate) fn says_not_running(message: &str) -> bool {
    message.contains("is not running")
}

impl OwnFailure {
    /// Finds it in a text.
    pub(crate) fn in_text(text: &str) -> Option<Self> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Self::of_line(line)
    }

    /// Reads one line, as JSON or (of old versions) as text.
    fn of_line(line: &str) -> Option<Self> {
        Self::of_json(line).or_else(|| {
            Some(Self {
                code: String::new(),
                message: line.strip_prefix("Error: ")?.to_owned(),
            })
        })
    }

    /// Reads one line of JSON: these fields and no others, and a code of smolvm's form. Commands print such things too.
    pub(crate) fn of_json(line: &str) -> Option<Self> {
        let Report { error } = serde_json::from_str(line).ok()?;
        let is_code = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        (!error.code.is_empty() && error.code.bytes().all(is_code)).then_some(Self {
            code: error.code,
            message: error.message,
        })
    }

    pub(crate) fn kind(&self) -> BackendErrorKind {
        if self.code == "NOT_FOUND" || self.message.contains("vm not found") {
            BackendErrorKind::NotFound
        } else if self.message.contains("already exists") {
            BackendErrorKind::Conflict
        } else if self.message.contains("did not become ready") {
            BackendErrorKind::TimedOut
        } else {
            BackendErrorKind::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_failures_are_told_from_what_others_print() {
        let json = "Starting machine 'x'...\n{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"vm not found: x\"}}\n";
        let own = OwnFailure::in_text(json).unwrap();
        assert_eq!(own.message, "vm not found: x");
        assert_eq!(own.kind(), BackendErrorKind::NotFound);
        let old = OwnFailure::in_text("Error: machine 'x' already exists\n").unwrap();
        assert_eq!(old.kind(), BackendErrorKind::Conflict);
        for other in [
            "",
            "\n\n",
            "error: no",
            "{\"error\": 1}",
            "{\"error\":{\"code\":1}}",
            "{\"error\":{\"code\":\"a\",\"message\":\"\"}}",
        ] {
            assert_eq!(OwnFailure::in_text(other), None, "{other}");
        }
    }
}
