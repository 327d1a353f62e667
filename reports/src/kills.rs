//! The kill matrix of a self-test: probe by known-leaky bottle, how many cases turned red, and those that did not.

use std::collections::BTreeMap;

use probe_spec::Verdict;

use crate::Report;
use crate::clean::one_line;
use crate::table::{groups, names};

/// Columns after which a row goes on in the next line.
const WIDTH: usize = 110;

/// The kill matrix for a person. Most pairs of probe and leak are empty, so a row names only the leaks of its probe:
/// `K-NAME 4/4`, with `!` behind it where a case survives. `verbose` lists the red cells too.
pub fn to_kill_matrix(report: &Report, verbose: bool) -> String {
    let mut rows: BTreeMap<&str, BTreeMap<String, (usize, usize)>> = BTreeMap::new();
    let cells = report.cells();
    let (mut red, mut all) = (0, 0);
    for cell in &cells {
        let leak = cell.cell.leak.map(|leak| leak.to_string()).unwrap_or_default();
        let count = rows.entry(&cell.cell.probe).or_default().entry(leak).or_default();
        let is_red = usize::from(cell.judgement.verdict == Verdict::Breached);
        *count = (count.0 + is_red, count.1 + 1);
        red += is_red;
        all += 1;
    }
    let mut text = String::new();
    for (probe, leaks) in &rows {
        text.push_str(&row(probe, leaks));
    }
    text.push('\n');
    let survivors = cells
        .into_iter()
        .filter(|cell| verbose || cell.judgement.verdict != Verdict::Breached);
    for group in groups(survivors) {
        let judgement = group[0].judgement;
        let word = if judgement.verdict == Verdict::Breached {
            "red"
        } else {
            "SURVIVES"
        };
        text.push_str(&format!("{word}: {}\n{}\n", one_line(&judgement.reason), names(&group)));
    }
    for problem in report.problems() {
        text.push_str(&format!("defect of the run: {}\n", one_line(&problem.to_string())));
    }
    for note in report.notes() {
        text.push_str(&format!("note: {}\n", one_line(note)));
    }
    text.push_str(&format!("{red} of {all} cases turned red\n"));
    text
}

fn row(probe: &str, leaks: &BTreeMap<String, (usize, usize)>) -> String {
    let mut text = String::new();
    let mut line = one_line(probe);
    for (leak, (red, all)) in leaks {
        let mark = if red == all { "" } else { "!" };
        let field = format!("  {leak} {red}/{all}{mark}");
        if line.len() + field.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(probe.len());
        }
        line.push_str(&field);
    }
    text.push_str(&line);
    text.push('\n');
    text
}
