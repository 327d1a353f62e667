//! `self-test`: the kill matrix.

use std::io::Write;
use std::path::Path;

use bottle_plan::Topology;
use bottle_reports::{Event, Report, to_kill_matrix};
use probe_spec::{Cell, ExitCode, Leak, Verdict};
use tokio::sync::{mpsc, watch};

use super::output::Collector;
use super::run::{Ground, ending, errors_of_the_rest, in_lab, tell_missing};
use super::{CommandError, print_json};
use crate::cli::{BackendChoice, SelfTestArgs};
use crate::error::SuiteError;
use crate::interrupt;
use crate::progress;
use crate::selection::{CaseCell, is_control, leaks_of, select};
use crate::session::{Events, Session};
use crate::trust::{SelfTest, SelfTestResult};
use crate::waivers::Waivers;

/// Known-leaky bottles that are attacked at a time.
const AT_A_TIME: usize = 2;

/// The cells of one known-leaky bottle.
struct Group {
    leak: Leak,
    backend: BackendChoice,
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
    let ground = Ground::find(&args.filter.backend).await?;
    if args.if_stale && !groups.is_empty() {
        let all: usize = groups.iter().map(|group| group.cells.len()).sum();
        for column in &ground.columns {
            let cached = SelfTest::load(&column.engine, &ground.digest);
            keep_unproven(&mut groups, column.choice, cached.as_ref());
        }
        if groups.is_empty() {
            return fresh(args, &ground, all);
        }
        let rest: usize = groups.iter().map(|group| group.cells.len()).sum();
        eprintln!("self-test: {rest} of {all} cases are not proven yet");
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
    let attack = attack_columns(&ground, stop, events, groups);
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
    let self_tests = store(&ground, &report, &args.out)?;
    let code = ground.code(code(&report, interrupted));
    if args.json {
        print_all(&self_tests)?;
    } else {
        let _ = std::io::stdout()
            .lock()
            .write_all(to_kill_matrix(&report, args.verbose).as_bytes());
    }
    Ok(code)
}

/// Attacks the known-leaky bottles of every backend, one backend after another.
async fn attack_columns(
    ground: &Ground,
    stop: watch::Receiver<bool>,
    events: Events,
    mut groups: Vec<Group>,
) -> Result<(), SuiteError> {
    let cells = groups
        .iter()
        .flat_map(|group| group.cells.iter().map(|cell| leaky(&cell.cell, group.leak)));
    tell_missing(ground, cells, &events);
    for column in &ground.columns {
        let (here, later) = groups.into_iter().partition(|group| group.backend == column.choice);
        groups = later;
        let here: Vec<Group> = here;
        if !here.is_empty() {
            in_lab(
                ground,
                column,
                stop.clone(),
                events.clone(),
                None,
                async |session: &Session| attack_all(session, here).await,
            )
            .await?;
        }
    }
    Ok(())
}

/// One self-test as it is; several as a list.
fn print_all(self_tests: &[SelfTest]) -> Result<(), CommandError> {
    match self_tests {
        [one] => print_json(one),
        all => print_json(&all),
    }
}

/// Leaves, of one backend's cells, only those that no earlier self-test turned red.
fn keep_unproven(groups: &mut Vec<Group>, backend: BackendChoice, cached: Option<&SelfTest>) {
    if let Some(cached) = cached {
        for group in groups.iter_mut().filter(|group| group.backend == backend) {
            group
                .cells
                .retain(|cell| !cached.is_red(&leaky(&cell.cell, group.leak)));
        }
    }
    groups.retain(|group| !group.cells.is_empty());
}

/// Nothing is to be done: says so, and leaves self-test.json where a run of it would.
fn fresh(args: &SelfTestArgs, ground: &Ground, all: usize) -> Result<ExitCode, CommandError> {
    let mut cached = Vec::new();
    for column in &ground.columns {
        if let Some(one) = SelfTest::load(&column.engine, &ground.digest) {
            one.write(&args.out.join(file_name(column.choice)))?;
            cached.push(one);
        }
    }
    if args.json {
        print_all(&cached)?;
    } else {
        let on: Vec<String> = cached
            .iter()
            .map(|one| format!("{} (last added to {})", one.engine, one.at))
            .collect();
        let text = format!(
            "self-test: nothing to do, all {all} cases turned red before on {}\n",
            on.join(", ")
        );
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
    Ok(ground.code(ExitCode::Held))
}

/// Name of a backend's kill matrix.
fn file_name(backend: BackendChoice) -> String {
    match backend {
        BackendChoice::Docker => "self-test.json".to_owned(),
        other => format!("self-test-{}.json", other.name()),
    }
}

fn leaky(cell: &Cell, leak: Leak) -> Cell {
    Cell {
        leak: Some(leak),
        ..cell.clone()
    }
}

fn groups(cells: &[CaseCell], wanted: &[Leak]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let chosen = |leak: &Leak| wanted.is_empty() || wanted.contains(leak);
    for leak in leaks_of(cells).into_iter().filter(chosen) {
        for cell in cells
            .iter()
            .filter(|cell| is_control(&cell.case.spec, leak, cell.backend))
        {
            let (backend, topology) = (cell.backend, cell.topology);
            let same = |group: &&mut Group| (group.leak, group.backend, group.topology) == (leak, backend, topology);
            match groups.iter_mut().find(same) {
                Some(group) => group.cells.push(cell.clone()),
                None => groups.push(Group {
                    leak,
                    backend,
                    topology,
                    cells: vec![cell.clone()],
                }),
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

/// Adds the results to the caches that `run` reads, and writes a self-test.json for each backend.
fn store(ground: &Ground, report: &Report, out: &Path) -> Result<Vec<SelfTest>, CommandError> {
    let mut stored = Vec::new();
    for column in &ground.columns {
        let cells = report.cells().into_iter();
        let results = cells
            .filter(|cell| cell.cell.backend == column.choice.name())
            .map(|cell| SelfTestResult {
                cell: cell.cell.clone(),
                verdict: cell.judgement.verdict,
                reason: cell.judgement.reason.clone(),
            })
            .collect();
        let mut self_test = SelfTest::load(&column.engine, &ground.digest)
            .unwrap_or_else(|| SelfTest::new(&column.engine, &ground.digest));
        self_test.merge(results);
        self_test.store()?;
        self_test.write(&out.join(file_name(column.choice)))?;
        stored.push(self_test);
    }
    Ok(stored)
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
