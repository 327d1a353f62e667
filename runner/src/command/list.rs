//! `list`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::{CommandError, print_json};
use crate::cli::ListArgs;
use crate::selection::{CaseCell, cell_name, family, select};
use probe_spec::ExitCode;

#[derive(Serialize)]
struct ListedCell {
    name: String,
    id: &'static str,
    family: &'static str,
    title: &'static str,
    priority: probe_spec::Priority,
    tags: &'static [&'static str],
    controls: Vec<String>,
    not_applicable: Option<String>,
}

/// Prints the probes (or every cell) that the filter chooses.
pub fn list(args: &ListArgs) -> Result<ExitCode, CommandError> {
    let cells = select(&args.filter)?;
    if args.json {
        let listed: Vec<ListedCell> = cells.iter().map(listed).collect();
        print_json(&listed)?;
    } else {
        let mut out = std::io::stdout().lock();
        let text = if args.verbose {
            every_cell(&cells)
        } else {
            every_probe(&cells)
        };
        // A closed pipe (`list | head`) is no failure.
        let _ = out.write_all(text.as_bytes());
    }
    Ok(if cells.is_empty() {
        ExitCode::NothingRan
    } else {
        ExitCode::Held
    })
}

fn listed(cell: &CaseCell) -> ListedCell {
    ListedCell {
        name: cell_name(&cell.cell),
        id: cell.case.probe.id,
        family: family(cell.case.probe.id),
        title: cell.case.probe.title,
        priority: cell.case.probe.priority,
        tags: cell.case.probe.tags,
        controls: cell.case.spec.controls.iter().map(ToString::to_string).collect(),
        not_applicable: cell.not_applicable.clone(),
    }
}

fn every_cell(cells: &[CaseCell]) -> String {
    let mut text = String::new();
    for cell in cells {
        let reason = cell
            .not_applicable
            .as_ref()
            .map(|why| format!("  (not applicable: {why})"))
            .unwrap_or_default();
        text.push_str(&format!("{}{reason}\n", cell_name(&cell.cell)));
    }
    text
}

fn every_probe(cells: &[CaseCell]) -> String {
    let mut counts: BTreeMap<&str, (&CaseCell, usize, usize)> = BTreeMap::new();
    for cell in cells {
        let row = counts.entry(cell.case.probe.id).or_insert((cell, 0, 0));
        row.1 += 1;
        row.2 += usize::from(cell.not_applicable.is_some());
    }
    let mut text = String::new();
    for (id, (cell, all, not_applicable)) in &counts {
        let probe = cell.case.probe;
        let aside = if *not_applicable > 0 {
            format!(" ({not_applicable} n.a.)")
        } else {
            String::new()
        };
        text.push_str(&format!(
            "{id}  {:?}  {:>3} cells{aside:<10}  {}\n",
            probe.priority, all, probe.title
        ));
    }
    text.push_str(&format!("{} probes, {} cells\n", counts.len(), cells.len()));
    text
}
