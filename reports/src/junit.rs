//! JUnit XML: one test suite a family and topology, one test case a case.
//!
//! held and residual = passed, breached = failure, inconclusive and error = error, not applicable and waived = skipped.

use std::collections::BTreeMap;
use std::time::Duration;

use probe_spec::Verdict;
use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use crate::clean::{TEXT_LIMIT, clean, one_line};
use crate::fold::name;
use crate::table::evidence_lines;
use crate::{CellReport, Report};

/// The report could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("rendering the report as JUnit: {0}")]
pub struct JunitError(#[from] quick_junit::SerializeError);

/// The report as JUnit XML. Defects of the run are a suite of their own, each an error, so that CI cannot miss them.
pub fn to_junit(report: &Report) -> Result<String, JunitError> {
    let run = report
        .started()
        .map(|started| started.run.as_str())
        .unwrap_or("unknown");
    let mut document = quick_junit::Report::new(clean(&format!("bottle-conform {run}"), TEXT_LIMIT));
    if let Some(started) = report.started() {
        document.timestamp = started.at.parse().ok();
    }
    let mut suites: BTreeMap<(String, String), Vec<CellReport<'_>>> = BTreeMap::new();
    for cell in report.cells() {
        let family = cell.cell.probe.split('-').next().unwrap_or_default().to_owned();
        let leak = cell.cell.leak.map(|leak| format!(".{leak}")).unwrap_or_default();
        let place = format!("{}.{}{leak}", cell.cell.backend, cell.cell.topology);
        suites.entry((family, place)).or_default().push(cell);
    }
    for ((family, place), cells) in suites {
        document.add_test_suite(suite(&format!("{family}.{place}"), &cells));
    }
    let problems = report.problems();
    if !problems.is_empty() || !report.expired_waivers().is_empty() {
        let mut suite = TestSuite::new("bottle-conform.run");
        for (number, problem) in problems.iter().enumerate() {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status
                .set_message(one_line(&problem.to_string()))
                .set_type("defect-of-the-run");
            suite.add_test_case(TestCase::new(format!("problem-{}", number + 1), status));
        }
        for (number, expired) in report.expired_waivers().iter().enumerate() {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(one_line(expired)).set_type("expired-waiver");
            suite.add_test_case(TestCase::new(format!("expired-waiver-{}", number + 1), status));
        }
        document.add_test_suite(suite);
    }
    Ok(document.to_string()?)
}

fn suite(title: &str, cells: &[CellReport<'_>]) -> TestSuite {
    let mut suite = TestSuite::new(clean(title, TEXT_LIMIT));
    let first = cells
        .iter()
        .filter_map(|cell| cell.evidence)
        .map(|evidence| &evidence.started)
        .min();
    suite.timestamp = first.and_then(|started| started.parse().ok());
    let took: u64 = cells
        .iter()
        .filter_map(|cell| cell.evidence)
        .map(|evidence| evidence.took_ms)
        .sum();
    suite.set_time(Duration::from_millis(took));
    for cell in cells {
        suite.add_test_case(case(cell));
    }
    suite
}

fn case(cell: &CellReport<'_>) -> TestCase {
    let mut test = TestCase::new(clean(&name(cell.cell), TEXT_LIMIT), status(cell));
    test.set_classname(clean(
        &format!("{}.{}", cell.cell.probe, cell.cell.topology),
        TEXT_LIMIT,
    ));
    let mut add = |key: &str, value: &str| {
        test.add_property(Property::new(key, one_line(value)));
    };
    add("title", cell.title);
    add("verdict", verdict_name(cell.judgement.verdict));
    add("reason", &cell.judgement.reason);
    let Some(evidence) = cell.evidence else { return test };
    add("nonce", evidence.nonce.as_str());
    add("agent", &format!("{:?}", evidence.agent));
    add("settled", &evidence.settled.to_string());
    for alive in &evidence.liveness {
        add(
            "witness",
            &format!("{:?}: before {}, after {}", alive.at, alive.before, alive.after),
        );
    }
    for sighting in &evidence.sightings {
        add(
            "sighting",
            &format!(
                "{:?}: {} from {} to {}",
                sighting.at, sighting.what, sighting.from, sighting.to
            ),
        );
    }
    for decision in &evidence.decisions {
        let verb = if decision.denied { "denied" } else { "allowed" };
        add("decision", &format!("{verb} by {}: {}", decision.by, decision.rule));
    }
    test.timestamp = evidence.started.parse().ok();
    test.set_time(Duration::from_millis(evidence.took_ms));
    test.set_system_out(clean(&evidence_lines(evidence).join("\n"), TEXT_LIMIT));
    test
}

fn status(cell: &CellReport<'_>) -> TestCaseStatus {
    let verdict = cell.judgement.verdict;
    let mut status = match verdict {
        Verdict::Held | Verdict::Residual => return TestCaseStatus::success(),
        Verdict::Breached => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Inconclusive | Verdict::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
        Verdict::NotApplicable | Verdict::Waived => TestCaseStatus::skipped(),
    };
    status
        .set_message(one_line(&cell.judgement.reason))
        .set_type(verdict_name(verdict));
    if verdict == Verdict::Breached {
        status.set_description(clean(cell.on_breach, TEXT_LIMIT));
    }
    status
}

/// The serialised name of a verdict.
pub(crate) fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "held",
        Verdict::Breached => "breached",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Error => "error",
        Verdict::NotApplicable => "not-applicable",
        Verdict::Residual => "residual",
        Verdict::Waived => "waived",
    }
}
