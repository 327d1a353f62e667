//! The terminal report: one row a probe, then every cell that is not held with its reason and evidence.

use std::collections::BTreeMap;

use comfy_table::{Attribute, Cell as Field, Color, ContentArrangement, Table, presets};
use probe_spec::{Evidence, Verdict};

use crate::clean::one_line;
use crate::fold::name;
use crate::junit::verdict_name;
use crate::{CellReport, Report, Standing, Tally};

/// Lines of evidence that are shown for one cell.
const EVIDENCE_SHOWN: usize = 12;

/// Cells that are named for one reason that they share.
const CELLS_SHOWN: usize = 10;

/// How the table is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStyle {
    /// Lines and colours, for a terminal. Else plain text.
    pub terminal: bool,
    /// Width in columns; `None`: as wide as needed.
    pub width: Option<u16>,
    /// Whether cells that are held or not applicable are listed as well.
    pub verbose: bool,
}

/// The report for a person.
pub fn to_table(report: &Report, style: TableStyle) -> String {
    let cells = report.cells();
    let mut text = String::new();
    if !cells.is_empty() {
        text.push_str(&probes(&cells, style));
        text.push('\n');
    }
    let shown = cells
        .into_iter()
        .filter(|cell| style.verbose || !matches!(cell.judgement.verdict, Verdict::Held | Verdict::NotApplicable));
    for group in groups(shown) {
        text.push_str(&details(&group));
    }
    for problem in report.problems() {
        text.push_str(&format!("defect of the run: {}\n", one_line(&problem.to_string())));
    }
    for expired in report.expired_waivers() {
        text.push_str(&format!("expired waiver: {}\n", one_line(expired)));
    }
    for note in report.notes() {
        text.push_str(&format!("note: {}\n", one_line(note)));
    }
    text.push_str(&summary(report));
    text
}

/// One row a probe, one column a topology (and leak).
fn probes(cells: &[CellReport<'_>], style: TableStyle) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut rows: BTreeMap<(&str, &str), BTreeMap<String, Tally>> = BTreeMap::new();
    for cell in cells {
        let leak = cell.cell.leak.map(|leak| format!(" {leak}")).unwrap_or_default();
        let column = format!("{} {}{leak}", cell.cell.backend, cell.cell.topology);
        if !columns.contains(&column) {
            columns.push(column.clone());
        }
        let row = rows.entry((cell.cell.probe.as_str(), cell.title)).or_default();
        row.entry(column).or_default().add(cell.judgement.verdict);
    }
    columns.sort();
    let mut table = Table::new();
    table.load_style(if style.terminal {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::NOTHING
    });
    if style.terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = style.width {
            table.set_width(width);
        }
    } else {
        table.force_no_tty();
    }
    let mut head = vec!["probe".to_owned(), "title".to_owned()];
    head.extend(columns.iter().cloned());
    table.set_header(head);
    for ((probe, title), tallies) in rows {
        let mut row = vec![Field::new(one_line(probe)), Field::new(one_line(title))];
        row.extend(columns.iter().map(|column| field(tallies.get(column), style)));
        table.add_row(row);
    }
    let drawn = table.to_string();
    let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

fn field(tally: Option<&Tally>, style: TableStyle) -> Field {
    let Some(tally) = tally else { return Field::new("-") };
    let parts: Vec<String> = tally
        .parts()
        .iter()
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let field = Field::new(parts.join(", "));
    if !style.terminal {
        return field;
    }
    if tally.breached > 0 {
        field.fg(Color::Red).add_attribute(Attribute::Bold)
    } else if tally.error + tally.inconclusive > 0 {
        field.fg(Color::Yellow)
    } else if tally.held > 0 {
        field.fg(Color::Green)
    } else {
        field
    }
}

/// Cells with the same verdict for the same reason, each group where its first cell was.
pub(crate) fn groups<'a>(cells: impl IntoIterator<Item = CellReport<'a>>) -> Vec<Vec<CellReport<'a>>> {
    let mut places: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let mut groups: Vec<Vec<CellReport<'a>>> = Vec::new();
    for cell in cells {
        let verdict = verdict_name(cell.judgement.verdict);
        // What to do differs from probe to probe, and is said for breaches only.
        let on_breach = if cell.judgement.verdict == Verdict::Breached {
            cell.on_breach
        } else {
            ""
        };
        let place = *places
            .entry((verdict, cell.judgement.reason.as_str(), on_breach))
            .or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(cell),
            None => groups.push(vec![cell]),
        }
    }
    groups
}

/// The names of a group's cells, a line each, at most [`CELLS_SHOWN`].
pub(crate) fn names(group: &[CellReport<'_>]) -> String {
    let mut text = String::new();
    for cell in group.iter().take(CELLS_SHOWN) {
        text.push_str(&format!("  {}\n", one_line(&name(cell.cell))));
    }
    if group.len() > CELLS_SHOWN {
        text.push_str(&format!("  and {} more; see report.json\n", group.len() - CELLS_SHOWN));
    }
    text
}

/// One cell with its evidence; of several that share a reason, the reason, their names and the evidence of the first.
fn details(group: &[CellReport<'_>]) -> String {
    let Some(first) = group.first() else {
        return String::new();
    };
    let verdict = verdict_name(first.judgement.verdict).to_uppercase();
    let mut text = match group {
        [cell] => format!("{verdict} {}\n", one_line(&name(cell.cell))),
        cells => format!("{verdict} {} cells\n", cells.len()),
    };
    text.push_str(&format!("  why: {}\n", one_line(&first.judgement.reason)));
    let alone = group.len() == 1;
    if !alone {
        text.push_str(&names(group));
    }
    // Where nothing went wrong in the attempts themselves, one is like the other.
    let telling = alone || first.judgement.verdict == Verdict::Breached;
    if let (true, Some(evidence)) = (telling, first.evidence) {
        if !alone {
            text.push_str("  evidence of the first:\n");
        }
        let lines = evidence_lines(evidence);
        for line in lines.iter().take(EVIDENCE_SHOWN) {
            text.push_str(&format!("  {}\n", one_line(line)));
        }
        if lines.len() > EVIDENCE_SHOWN {
            text.push_str(&format!(
                "  ({} more lines in evidence.jsonl)\n",
                lines.len() - EVIDENCE_SHOWN
            ));
        }
    }
    if first.judgement.verdict == Verdict::Breached && !first.on_breach.is_empty() {
        text.push_str(&format!("  what to do: {}\n", one_line(first.on_breach)));
    }
    text.push('\n');
    text
}

/// What is known of a case, a line each, most telling first.
pub(crate) fn evidence_lines(evidence: &Evidence) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for seen in &evidence.sightings {
        lines.push(format!(
            "seen at {:?}: {} from {} to {}",
            seen.at, seen.what, seen.from, seen.to
        ));
    }
    for (attempt, finding) in evidence
        .attempt
        .iter()
        .flat_map(|attempt| attempt.findings.iter().map(move |f| (attempt, f)))
    {
        lines.push(format!("found ({}): {finding}", attempt.case));
    }
    lines.extend(evidence.faults.iter().map(|fault| format!("fault: {fault}")));
    for decision in &evidence.decisions {
        let verb = if decision.denied { "denied" } else { "allowed" };
        lines.push(format!("decision: {verb} by {}: {}", decision.by, decision.rule));
    }
    lines.extend(
        evidence
            .facts
            .iter()
            .map(|(name, value)| format!("fact: {name} = {value}")),
    );
    for alive in evidence.liveness.iter().filter(|alive| !(alive.before && alive.after)) {
        lines.push(format!(
            "witness {:?}: proved before {}, after {}",
            alive.at, alive.before, alive.after
        ));
    }
    lines.push(format!(
        "agent: {:?}, settled: {}, nonce: {}",
        evidence.agent, evidence.settled, evidence.nonce
    ));
    let trace = evidence.attempt.iter().flat_map(|attempt| &attempt.trace);
    lines.extend(trace.map(|line| format!("trace: {line}")));
    lines
}

fn summary(report: &Report) -> String {
    let parts: Vec<String> = report
        .tally()
        .parts()
        .iter()
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let standing = match report.standing() {
        Standing::Held => "HELD",
        Standing::Breached => "BREACHED",
        Standing::Inconclusive => "INCONCLUSIVE",
        Standing::Error => "ERROR",
        Standing::ExpiredWaiver => "EXPIRED WAIVER",
        Standing::NothingRan => "NOTHING RAN",
        Standing::Interrupted => "INTERRUPTED",
    };
    let cells = report.cells().len();
    format!(
        "{standing}: {cells} cells judged ({})\n",
        if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        }
    )
}
