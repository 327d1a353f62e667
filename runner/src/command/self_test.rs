//! `self-test`: the kill matrix.

use std::io::Write;
use std::path::Path;

use bottle_plan::Topology;
use bottle_reports::{Event, Report, to_kill_matrix};
use probe_spec::{Cell, ExitCode, Leak, Verdict};
use tokio::sync::mpsc;

use super::output::Collector;
use super::run::{Ground, ending, errors_of_the_rest, in_lab};
use super::{CommandError, print_json};
use crate::cli::SelfTestArgs;
use crate::error::SuiteError;
use crate::interrupt;
use crate::progress;
use crate::selection::{CaseCell, leaks_of, select};
use crate::session::Session;
use crate::trust::{SelfTest, SelfTestResult};
use crate::waivers::Waivers;

/// Known-leaky bottles that are attacked at a time.
const AT_A_TIME: usize = 2;

/// The cells of one known-leaky bottle.
struct Group {
    leak: Leak,
    topology: Topology,
    cells: Vec<CaseCell>,
}

/// Attacks every known-leaky bottle with the cases that name it: each must be breached.
pub async fn self_test(args: &SelfTestArgs) -> Result<ExitCode, CommandError> {
    let cells: Vec<CaseCell> = select(&args.filter)?
        .into_iter()
        .filter(|cell| cell.not_applicable.is_none())
        .collect();
    let mut groups = groups(&cells, &args.leak);
    let ground = Ground::find().await?;
    if args.if_stale && !groups.is_empty() {
        let cached = SelfTest::load(&ground.engine, &ground.digest);
        let all = keep_unproven(&mut groups, cached.as_ref());
        let rest: usize = groups.iter().map(|group| group.cells.len()).sum();
        match cached {
            Some(cached) if groups.is_empty() => return fresh(args, &ground, &cached, all),
            _ => eprintln!(
                "self-test: {rest} of {all} cases are not proven on {} yet",
                ground.engine
            ),
        }
    }
    let stop = interrupt::watch(ground.run.clone());
    let expected: Vec<(Cell, &'static probe_spec::Probe)> = groups
        .iter()
        .flat_map(|group| {
            group
                .cells
                .iter()
                .map(|cell| (leaky(&cell.cell, group.leak), cell.case.probe))
        })
        .collect();
    let out = args.out.join("self-test");
    let mut collector = Collector::open(&out, progress::bar(expected.len(), "self-test"), Waivers::none())?;
    collector.take(ground.started(expected))?;
    let (events, mut received) = mpsc::unbounded_channel();
    let attack = in_lab(&ground, stop, events, None, async |session: &Session| {
        attack_all(session, groups).await
    });
    let (outcome, taken) = tokio::join!(attack, collector.take_all(&mut received));
    taken?;
    let ending = ending(outcome);
    if let bottle_reports::Ending::Failed(reason) = &ending {
        for event in errors_of_the_rest(collector.report(), reason) {
            collector.take(event)?;
        }
    }
    let interrupted = ending == bottle_reports::Ending::Interrupted;
    collector.take(Event::RunEnded {
        at: crate::clock::now(),
        ending,
    })?;
    let report = collector.finish();
    let self_test = store(&ground, &report, &args.out)?;
    let code = code(&report, interrupted);
    if args.json {
        print_json(&self_test)?;
    } else {
        let _ = std::io::stdout()
            .lock()
            .write_all(to_kill_matrix(&report, args.verbose).as_bytes());
    }
    Ok(code)
}

/// Leaves only the cells that no earlier self-test turned red; how many there were.
fn keep_unproven(groups: &mut Vec<Group>, cached: Option<&SelfTest>) -> usize {
    let all = groups.iter().map(|group| group.cells.len()).sum();
    if let Some(cached) = cached {
        for group in groups.iter_mut() {
            group
                .cells
                .retain(|cell| !cached.is_red(&leaky(&cell.cell, group.leak)));
        }
    }
    groups.retain(|group| !group.cells.is_empty());
    all
}

/// Nothing is to be done: says so, and leaves self-test.json where a run of it would.
fn fresh(args: &SelfTestArgs, ground: &Ground, cached: &SelfTest, all: usize) -> Result<ExitCode, CommandError> {
    cached.write(&args.out.join("self-test.json"))?;
    if args.json {
        print_json(cached)?;
    } else {
        let text = format!(
            "self-test: nothing to do, all {all} cases turned red before on {} (last added to {})\n",
            ground.engine, cached.at
        );
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    Ok(ExitCode::Held)
}

fn leaky(cell: &Cell, leak: Leak) -> Cell {
    Cell {
        leak: Some(leak),
        ..cell.clone()
    }
}

fn groups(cells: &[CaseCell], wanted: &[Leak]) -> Vec<Group> {
    let mut groups = Vec::new();
    for leak in leaks_of(cells) {
        if !wanted.is_empty() && !wanted.contains(&leak) {
            continue;
        }
        for topology in [Topology::Sealed, Topology::Routed] {
            let cells: Vec<CaseCell> = cells
                .iter()
                .filter(|cell| cell.topology == topology && cell.case.spec.controls.contains(&leak))
                .cloned()
                .collect();
            if !cells.is_empty() {
                groups.push(Group { leak, topology, cells });
            }
        }
    }
    groups
}

/// Attacks the groups, a few at a time. One that cannot be attacked leaves the others to be.
async fn attack_all(session: &Session, groups: Vec<Group>) -> Result<(), SuiteError> {
    use futures_util::StreamExt;
    let mut attacks = futures_util::stream::iter(groups)
        .map(|group| async move {
            let cells: Vec<Cell> = group.cells.iter().map(|cell| leaky(&cell.cell, group.leak)).collect();
            (
                cells,
                session.attack(group.topology, Some(group.leak), group.cells).await,
            )
        })
        .buffer_unordered(AT_A_TIME);
    while let Some((cells, outcome)) = attacks.next().await {
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_unreachable() => return Err(error),
            Err(error) => session.give_up(cells, &error.to_string()),
        }
    }
    Ok(())
}

/// Adds the results to the cache that `run` reads, and writes self-test.json.
fn store(ground: &Ground, report: &Report, out: &Path) -> Result<SelfTest, CommandError> {
    let results = report
        .cells()
        .into_iter()
        .map(|cell| SelfTestResult {
            cell: cell.cell.clone(),
            verdict: cell.judgement.verdict,
            reason: cell.judgement.reason.clone(),
        })
        .collect();
    let mut self_test =
        SelfTest::load(&ground.engine, &ground.digest).unwrap_or_else(|| SelfTest::new(&ground.engine, &ground.digest));
    self_test.merge(results);
    self_test.store()?;
    self_test.write(&out.join("self-test.json"))?;
    Ok(self_test)
}

/// Every cell must be breached; a case that is not is a defect of the suite.
fn code(report: &Report, interrupted: bool) -> ExitCode {
    let cells = report.cells();
    if interrupted {
        ExitCode::Interrupted
    } else if cells.is_empty() {
        ExitCode::NothingRan
    } else if cells.iter().all(|cell| cell.judgement.verdict == Verdict::Breached) && report.problems().is_empty() {
        ExitCode::Held
    } else {
        ExitCode::HarnessError
    }
}
