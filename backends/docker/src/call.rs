//! One call of the engine: its time limit, its line in the log, its error.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error;
use bottle_backend::{BackendError, BackendErrorKind, patient};

/// Limit of calls that only look or make small things. An engine under load takes seconds, not more.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// Limit of calls that move an image or an archive.
pub(crate) const BULK: Duration = Duration::from_secs(300);

/// Makes a call within `limit`, or as much longer as this machine needs.
pub(crate) async fn call<T>(
    name: impl Into<String>,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, BackendError> {
    let name = name.into();
    let begun = std::time::Instant::now();
    let limit = patient(limit);
    let outcome = match tokio::time::timeout(limit, future).await {
        Ok(outcome) => outcome.map_err(|error| understood(&name, error)),
        Err(_) => Err(timed_out(&name, limit)),
    };
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &outcome {
        Ok(_) => tracing::debug!(call = name, millis, "engine"),
        Err(error) => tracing::debug!(call = name, millis, problem = error.problem, "engine"),
    }
    outcome
}

pub(crate) fn timed_out(name: &str, limit: Duration) -> BackendError {
    failed(
        name,
        BackendErrorKind::TimedOut,
        format!("the engine did not answer within {} s", limit.as_secs()),
    )
}

pub(crate) fn failed(name: &str, kind: BackendErrorKind, problem: impl Into<String>) -> BackendError {
    BackendError {
        call: name.to_owned(),
        problem: problem.into(),
        kind,
    }
}

/// An answer lacks a field that every engine sends.
pub(crate) fn lacking(name: &str, field: &str) -> BackendError {
    failed(
        name,
        BackendErrorKind::Unexpected,
        format!("the engine's answer has no `{field}`"),
    )
}

/// The error of a status code with the engine's message.
pub(crate) fn refused(name: &str, status: u16, message: &str) -> BackendError {
    let kind = match status {
        404 => BackendErrorKind::NotFound,
        409 => BackendErrorKind::Conflict,
        // Engines answer an overlap with 403 or 500, by version; only the words tell.
        _ if message.contains("overlap") => BackendErrorKind::Conflict,
        _ => BackendErrorKind::Refused,
    };
    failed(name, kind, format!("{message} (status {status})"))
}

fn understood(name: &str, error: Error) -> BackendError {
    let kind = match &error {
        Error::DockerResponseServerError { status_code, message } => return refused(name, *status_code, message),
        Error::DockerStreamError { .. } => BackendErrorKind::Refused,
        Error::RequestTimeoutError => BackendErrorKind::TimedOut,
        Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => BackendErrorKind::Unreachable,
        _ => BackendErrorKind::Unexpected,
    };
    failed(name, kind, with_sources(&error))
}

/// An error with its chain: hyper's own words are only "client error (Connect)".
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(one) = source {
        let words = one.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = one.source();
    }
    text
}
