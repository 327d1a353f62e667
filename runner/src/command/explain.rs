//! `explain`.

use std::io::Write;

use serde::Serialize;

use super::{CommandError, print_json};
use crate::cli::ExplainArgs;
use crate::selection::find;
use probe_spec::{ExitCode, Leak};

#[derive(Serialize)]
struct Explained {
    id: &'static str,
    title: &'static str,
    requirement: &'static str,
    why: &'static str,
    source: &'static str,
    does: &'static str,
    on_breach: &'static str,
    priority: probe_spec::Priority,
    tags: &'static [&'static str],
    cases: Vec<ExplainedCase>,
    leaks: Vec<ExplainedLeak>,
}

/// A known-leaky bottle in which cases of the probe must turn red.
#[derive(Serialize)]
struct ExplainedLeak {
    name: String,
    removes: &'static str,
    control: &'static str,
}

#[derive(Serialize)]
struct ExplainedCase {
    name: String,
    controls: Vec<String>,
    witnesses: Vec<probe_spec::Vantage>,
    decision: bool,
    needs: Vec<&'static str>,
}

/// Prints what a probe is about.
pub fn explain(args: &ExplainArgs) -> Result<ExitCode, CommandError> {
    let probe = find(&args.id)?;
    let specs = (probe.cases)();
    let mut named: Vec<Leak> = specs.iter().flat_map(|case| case.controls.iter().copied()).collect();
    named.sort_unstable();
    named.dedup();
    let leaks = named
        .into_iter()
        .filter_map(bottle_leaky::overlay)
        .map(|overlay| ExplainedLeak {
            name: overlay.leak.to_string(),
            removes: overlay.removes,
            control: overlay.control,
        })
        .collect();
    let cases = specs
        .into_iter()
        .map(|case| ExplainedCase {
            name: case.name,
            controls: case.controls.iter().map(ToString::to_string).collect(),
            witnesses: case.alive,
            decision: case.decision,
            needs: case.needs,
        })
        .collect();
    let explained = Explained {
        id: probe.id,
        title: probe.title,
        requirement: probe.requirement,
        why: probe.why,
        source: probe.source,
        does: probe.does,
        on_breach: probe.on_breach,
        priority: probe.priority,
        tags: probe.tags,
        cases,
        leaks,
    };
    if args.json {
        print_json(&explained)?;
    } else {
        let _ = std::io::stdout().lock().write_all(text(&explained).as_bytes());
    }
    Ok(ExitCode::Held)
}

fn text(probe: &Explained) -> String {
    let mut text = format!("{} ({:?}): {}\n\n", probe.id, probe.priority, probe.title);
    for (label, value) in [
        ("requirement", probe.requirement),
        ("why", probe.why),
        ("source", probe.source),
        ("what it does", probe.does),
        ("when breached", probe.on_breach),
    ] {
        text.push_str(&format!("{label}: {value}\n"));
    }
    text.push_str(&format!(
        "tags: {}\n\ncases, and the known-leaky bottles that prove them:\n",
        probe.tags.join(", ")
    ));
    for case in &probe.cases {
        text.push_str(&format!("  {}: {}", case.name, case.controls.join(", ")));
        if case.decision {
            text.push_str("; a logged refusal is promised");
        }
        if !case.needs.is_empty() {
            text.push_str(&format!("; needs {}", case.needs.join(", ")));
        }
        text.push('\n');
    }
    text.push_str("\nwhat is open in those bottles:\n");
    for leak in &probe.leaks {
        text.push_str(&format!(
            "  {}: {}\n    control that is removed: {}\n",
            leak.name, leak.removes, leak.control
        ));
    }
    text.push_str(&format!(
        "\nprove it: bottle-conform self-test {id}\nattempt it: bottle-conform run {id}\n",
        id = probe.id
    ));
    text
}
