//! `report.json`.

use probe_spec::{Cell, Evidence, Judgement};
use serde::Serialize;

use crate::fold::name;
use crate::{BottleLaunched, Ending, Problem, Report, RunStarted, Standing, Tally};

/// Version of the document. It grows when a field changes its meaning or goes; new fields leave it.
pub const JSON_VERSION: u32 = 1;

/// The report could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("rendering the report as JSON: {0}")]
pub struct JsonError(#[from] serde_json::Error);

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    standing: Standing,
    exit_code: u8,
    started: Option<&'a RunStarted>,
    ended_at: Option<&'a str>,
    ending: Option<&'a Ending>,
    tally: Tally,
    problems: Vec<ProblemEntry>,
    notes: &'a [String],
    expired_waivers: &'a [String],
    bottles: &'a [BottleLaunched],
    cells: Vec<CellEntry<'a>>,
}

#[derive(Serialize)]
struct ProblemEntry {
    problem: Problem,
    text: String,
}

#[derive(Serialize)]
struct CellEntry<'a> {
    name: String,
    cell: &'a Cell,
    title: &'a str,
    judgement: &'a Judgement,
    evidence: Option<&'a Evidence>,
}

/// The whole report as one JSON document, pretty-printed, with a newline at its end.
pub fn to_json(report: &Report, exit_code: u8) -> Result<String, JsonError> {
    let ended = report.ended();
    let document = Document {
        version: JSON_VERSION,
        standing: report.standing(),
        exit_code,
        started: report.started(),
        ended_at: ended.map(|(at, _)| at),
        ending: ended.map(|(_, ending)| ending),
        tally: report.tally(),
        problems: report
            .problems()
            .into_iter()
            .map(|problem| ProblemEntry {
                text: problem.to_string(),
                problem,
            })
            .collect(),
        notes: report.notes(),
        expired_waivers: report.expired_waivers(),
        bottles: report.bottles(),
        cells: report
            .cells()
            .into_iter()
            .map(|cell| CellEntry {
                name: name(cell.cell),
                cell: cell.cell,
                title: cell.title,
                judgement: cell.judgement,
                evidence: cell.evidence,
            })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}
