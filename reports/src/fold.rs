//! What the events of a run amount to.

use std::collections::BTreeMap;
use std::fmt;

use probe_spec::{Cell, Evidence, Judgement, Verdict};
use serde::Serialize;

use crate::{BottleLaunched, CaseJudged, Ending, Event, RunStarted};

/// The state of a run after some events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    started: Option<RunStarted>,
    bottles: Vec<BottleLaunched>,
    judged: BTreeMap<Cell, CaseJudged>,
    duplicates: Vec<Cell>,
    notes: Vec<String>,
    expired_waivers: Vec<String>,
    ended: Option<(String, Ending)>,
}

/// A cell as reports show it.
#[derive(Clone, Copy, Debug)]
pub struct CellReport<'a> {
    /// Which.
    pub cell: &'a Cell,
    /// Title of its probe (empty when it was not expected).
    pub title: &'a str,
    /// What to do when it is breached.
    pub on_breach: &'a str,
    /// The verdict.
    pub judgement: &'a Judgement,
    /// What it rests on.
    pub evidence: Option<&'a Evidence>,
}

/// A defect of the run itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// An expected cell was never judged.
    Missing(Cell),
    /// A cell was judged more than once.
    Duplicate(Cell),
    /// A cell was judged that nobody expected.
    Unexpected(Cell),
    /// The run never said that it ended.
    NotEnded,
    /// The run could not go on.
    Failed(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(cell) => write!(f, "{} was expected but never judged", name(cell)),
            Self::Duplicate(cell) => write!(f, "{} was judged more than once", name(cell)),
            Self::Unexpected(cell) => write!(f, "{} was judged although nobody expected it", name(cell)),
            Self::NotEnded => f.write_str("the run has no end: it was killed, or events are missing"),
            Self::Failed(reason) => write!(f, "the run could not go on: {reason}"),
        }
    }
}

/// `PROBE::case::backend::topology`, and the leak when there is one.
pub(crate) fn name(cell: &Cell) -> String {
    let leak = cell.leak.map(|leak| format!("::{leak}")).unwrap_or_default();
    format!(
        "{}::{}::{}::{}{leak}",
        cell.probe, cell.case, cell.backend, cell.topology
    )
}

/// How a run stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Every cell is held, not applicable, residual or waived.
    Held,
    /// At least one cell is breached.
    Breached,
    /// None is breached, at least one lacks a part of its proof.
    Inconclusive,
    /// The suite itself failed.
    Error,
    /// All is well except that a waiver has expired.
    ExpiredWaiver,
    /// No cell was attempted.
    NothingRan,
    /// The operator stopped it (and nothing was breached before).
    Interrupted,
}

/// How many cells have which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Tally {
    pub held: usize,
    pub breached: usize,
    pub inconclusive: usize,
    pub error: usize,
    pub not_applicable: usize,
    pub residual: usize,
    pub waived: usize,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Held => self.held += 1,
            Verdict::Breached => self.breached += 1,
            Verdict::Inconclusive => self.inconclusive += 1,
            Verdict::Error => self.error += 1,
            Verdict::NotApplicable => self.not_applicable += 1,
            Verdict::Residual => self.residual += 1,
            Verdict::Waived => self.waived += 1,
        }
    }

    /// The counts with their names, worst first, without zeroes.
    pub fn parts(&self) -> Vec<(usize, &'static str)> {
        [
            (self.breached, "breached"),
            (self.error, "error"),
            (self.inconclusive, "inconclusive"),
            (self.held, "held"),
            (self.residual, "residual"),
            (self.waived, "waived"),
            (self.not_applicable, "n.a."),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .collect()
    }
}

impl Report {
    /// The report of these events.
    pub fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let mut report = Self::default();
        for event in events {
            report.apply(event);
        }
        report
    }

    /// Takes one more event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::RunStarted(started) => self.started = Some(started),
            Event::BottleLaunched(bottle) => self.bottles.push(bottle),
            Event::Note { text } => self.notes.push(text),
            Event::WaiverExpired { text } => self.expired_waivers.push(text),
            Event::RunEnded { at, ending } => self.ended = Some((at, ending)),
            Event::CaseJudged(case) => self.judge(*case),
        }
    }

    /// A second verdict of a cell is a defect, and the worse one stays: nothing may turn a breach green.
    fn judge(&mut self, case: CaseJudged) {
        match self.judged.get(&case.cell) {
            None => {
                self.judged.insert(case.cell.clone(), case);
            }
            Some(former) => {
                self.duplicates.push(case.cell.clone());
                if former.judgement.verdict != Verdict::Breached {
                    self.judged.insert(case.cell.clone(), case);
                }
            }
        }
    }

    /// The beginning, once it was told.
    pub fn started(&self) -> Option<&RunStarted> {
        self.started.as_ref()
    }

    /// The bottles that were up.
    pub fn bottles(&self) -> &[BottleLaunched] {
        &self.bottles
    }

    /// What the reader must know besides.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Waivers that have expired.
    pub fn expired_waivers(&self) -> &[String] {
        &self.expired_waivers
    }

    /// When and how it ended.
    pub fn ended(&self) -> Option<(&str, &Ending)> {
        self.ended.as_ref().map(|(at, ending)| (at.as_str(), ending))
    }

    /// The judged cells in order.
    pub fn cells(&self) -> Vec<CellReport<'_>> {
        let texts: BTreeMap<&Cell, (&str, &str)> = self
            .started
            .iter()
            .flat_map(|started| &started.expected)
            .map(|expected| (&expected.cell, (expected.title.as_str(), expected.on_breach.as_str())))
            .collect();
        self.judged
            .values()
            .map(|case| {
                let (title, on_breach) = texts.get(&case.cell).copied().unwrap_or_default();
                CellReport {
                    cell: &case.cell,
                    title,
                    on_breach,
                    judgement: &case.judgement,
                    evidence: case.evidence.as_ref(),
                }
            })
            .collect()
    }

    /// The cells that are expected and not yet judged.
    pub fn missing(&self) -> Vec<&Cell> {
        let expected = self.started.iter().flat_map(|started| &started.expected);
        expected
            .map(|expected| &expected.cell)
            .filter(|cell| !self.judged.contains_key(cell))
            .collect()
    }

    /// The defects of the run itself.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.missing().into_iter().cloned().map(Problem::Missing).collect();
        problems.extend(self.duplicates.iter().cloned().map(Problem::Duplicate));
        if let Some(started) = &self.started {
            let expected: std::collections::BTreeSet<&Cell> = started.expected.iter().map(|one| &one.cell).collect();
            if expected.len() < started.expected.len() {
                let mut seen = std::collections::BTreeSet::new();
                let twice = started.expected.iter().filter(|one| !seen.insert(&one.cell));
                problems.extend(twice.map(|one| Problem::Duplicate(one.cell.clone())));
            }
            let strangers = self.judged.keys().filter(|cell| !expected.contains(cell));
            problems.extend(strangers.cloned().map(Problem::Unexpected));
        }
        match &self.ended {
            None => problems.push(Problem::NotEnded),
            Some((_, Ending::Failed(reason))) => problems.push(Problem::Failed(reason.clone())),
            Some(_) => {}
        }
        problems
    }

    /// Counts over all cells.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for case in self.judged.values() {
            tally.add(case.judgement.verdict);
        }
        tally
    }

    /// How it stands as a whole. A breach outweighs everything, also an interruption.
    pub fn standing(&self) -> Standing {
        let tally = self.tally();
        if tally.breached > 0 {
            return Standing::Breached;
        }
        if matches!(self.ended, Some((_, Ending::Interrupted))) {
            return Standing::Interrupted;
        }
        if tally.error > 0 || !self.problems().is_empty() {
            return Standing::Error;
        }
        if tally.inconclusive > 0 {
            return Standing::Inconclusive;
        }
        if tally.held + tally.residual + tally.waived == 0 {
            return Standing::NothingRan;
        }
        if !self.expired_waivers.is_empty() {
            return Standing::ExpiredWaiver;
        }
        Standing::Held
    }
}
