//! LC-10: the record of a bottle that was stopped.

use std::path::{Path, PathBuf};

use bottle_launch::record;
use bottle_policy::chain::{self, ChainFault};
use bottle_policy::{BundleEvent, DecisionVerdict};
use probe_spec::{Action, Nonce, RecordCheck, Step, Vantage, world};

use super::asking::ask;
use super::{Observation, attempt_all_in, lifecycle};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// Requests that are refused right before the stop.
const REFUSALS: usize = 3;

/// A record, and what must be in it.
pub struct Recorded {
    path: PathBuf,
    refused: Vec<Nonce>,
    /// Whether the guest made its requests.
    issued: bool,
}

impl Recorded {
    /// Has the guest of a bottle that is recorded ask for what is refused and for what is allowed.
    pub async fn ask(fixture: &Fixture, path: PathBuf) -> Self {
        let refused: Vec<Nonce> = (0..REFUSALS).map(|_| fresh_nonce()).collect();
        let mut actions: Vec<(Nonce, Action)> = vec![(fresh_nonce(), uncounted())];
        actions.extend(refused.iter().map(|nonce| (nonce.clone(), ask(world::DENIED))));
        let answers = attempt_all_in(fixture, actions).await;
        let issued = answers
            .iter()
            .all(|answer| answer.attempt.as_ref().is_some_and(|attempt| attempt.issued));
        Self { path, refused, issued }
    }
}

/// An allowed request without a nonce: such ones are counted, and told once a second or at the end.
fn uncounted() -> Action {
    let text = format!(
        "GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n",
        host = world::ALLOWED
    );
    Action::Talk {
        to: "proxy".to_owned(),
        steps: vec![Step::Send { text }, Step::Response],
    }
}

/// Looks into the record of the bottle that was stopped for all.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, check: RecordCheck) -> Result<Observation, SuiteError> {
    let recorded = &lifecycle::stopped(target, cell).await?.recorded;
    let mut observed = Observation {
        issued: recorded.issued,
        ..Observation::default()
    };
    match check {
        RecordCheck::Complete => complete(recorded, &mut observed),
        RecordCheck::Chained => chained(&recorded.path, &mut observed),
    }
    Ok(observed)
}

/// Every decision is in it, and the line that says that nothing follows.
fn complete(recorded: &Recorded, observed: &mut Observation) {
    let lines = match lines(&recorded.path) {
        Ok(lines) => lines,
        Err(problem) => {
            observed.findings.push(problem);
            return;
        }
    };
    let events: Vec<BundleEvent> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    observed.note(format!("{} lines, {} of them events", lines.len(), events.len()));
    // A bundle always says that it is ready.
    if matches!(events.first(), Some(BundleEvent::Ready { .. })) {
        observed.alive.push(Vantage::HostFiles);
    }
    for nonce in &recorded.refused {
        if crate::fixture::decisions(&events, nonce).is_empty() {
            observed.findings.push("a refusal is missing".to_owned());
        }
    }
    let is_counted = events.iter().any(|event| {
        matches!(event, BundleEvent::Decision(record)
            if record.verdict == DecisionVerdict::Allow && record.nonce.is_none()
                && record.host.as_deref() == Some(world::ALLOWED))
    });
    if !is_counted {
        observed.findings.push("an allowed request is missing".to_owned());
    }
    if !matches!(events.last(), Some(BundleEvent::Ended { .. })) {
        observed.findings.push("the last line is missing".to_owned());
    }
}

/// Its chain holds, and does not in copies that were meddled with.
fn chained(path: &Path, observed: &mut Observation) {
    match record::read(path) {
        Ok((events, chain)) => observed.note(format!("{} events, last link {}", events.len(), chain.head())),
        Err(fault) => observed.findings.push(format!("the record does not verify: {fault}")),
    }
    match lines(path) {
        Ok(lines) => {
            let refused = meddled(&lines)
                .iter()
                .all(|copy| chain::verify(copy.iter().map(String::as_bytes)).is_err());
            // What is not linked at all is refused for that reason, and shows nothing.
            let is_linked = !matches!(
                chain::verify(lines.iter().take(1).map(String::as_bytes)),
                Err(ChainFault::Unlinked(_))
            );
            if refused && is_linked && lines.len() > 2 {
                observed.alive.push(Vantage::HostFiles);
            }
        }
        Err(problem) => observed.findings.push(problem),
    }
}

/// Copies with a line changed, left out, and cut off.
fn meddled(lines: &[String]) -> [Vec<String>; 3] {
    let middle = lines.len() / 2;
    let mut changed = lines.to_vec();
    if let Some(line) = changed.get_mut(middle) {
        *line = line.replacen("\"bottle\":\"", "\"bottle\":\"x", 1);
    }
    let mut without = lines.to_vec();
    if middle < without.len() {
        without.remove(middle);
    }
    let cut = lines[..lines.len().saturating_sub(1)].to_vec();
    [changed, without, cut]
}

fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}
