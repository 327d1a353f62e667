//! `judge`.

use std::fs::File;
use std::io::BufReader;

use bottle_reports::{CaseJudged, Ending, Event, ExpectedCell, Report, RunStarted, read_evidence};

use super::{CommandError, print_report};
use crate::cli::JudgeArgs;
use crate::exit;
use crate::selection::find;

/// Judges saved evidence again. The expected cells are those of the file, so that only duplicates and verdicts count; whether
/// a cell is missing is known to the run that wrote the file (its report.json says so).
pub fn judge(args: &JudgeArgs) -> Result<probe_spec::ExitCode, CommandError> {
    let unreadable = |source| CommandError::Unreadable {
        path: args.evidence.clone(),
        source,
    };
    let file = File::open(&args.evidence).map_err(unreadable)?;
    let all = read_evidence(BufReader::new(file)).map_err(|source| CommandError::Evidence {
        path: args.evidence.clone(),
        source,
    })?;
    let mut cells: Vec<_> = all.iter().map(|evidence| evidence.cell.clone()).collect();
    cells.sort();
    cells.dedup();
    let expected = cells
        .into_iter()
        .map(|cell| {
            let probe = find(&cell.probe).ok();
            ExpectedCell {
                title: probe.map(|probe| probe.title.to_owned()).unwrap_or_default(),
                on_breach: probe.map(|probe| probe.on_breach.to_owned()).unwrap_or_default(),
                cell,
            }
        })
        .collect();
    let at = all
        .iter()
        .map(|evidence| evidence.started.clone())
        .min()
        .unwrap_or_default();
    let mut report = Report::default();
    report.apply(Event::RunStarted(RunStarted {
        run: args.evidence.display().to_string(),
        at: at.clone(),
        suite: env!("CARGO_PKG_VERSION").to_owned(),
        digest: String::new(),
        engine: "judged from saved evidence".to_owned(),
        facts: Vec::new(),
        expected,
    }));
    for evidence in all {
        let judgement = probe_spec::judge(&evidence);
        let cell = evidence.cell.clone();
        report.apply(Event::CaseJudged(Box::new(CaseJudged {
            cell,
            judgement,
            evidence: Some(evidence),
        })));
    }
    report.apply(Event::Note {
        text: "judged from evidence alone: the self-test of the suite was not consulted".to_owned(),
    });
    report.apply(Event::RunEnded {
        at,
        ending: Ending::Complete,
    });
    let code = exit::of(report.standing());
    print_report(&report, code, args.json, false)?;
    Ok(code)
}
