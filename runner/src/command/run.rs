//! `run`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_backend::{Backend, BackendError, ResourceKind};
use bottle_docker::Docker;
use bottle_plan::{LABEL_RUN, Topology};
use bottle_reports::{Ending, Event, ExpectedCell, Report, RunStarted};
use bottle_smolvm::Smolvm;
use probe_spec::{Cell, ExitCode, Verdict};
use tokio::sync::{mpsc, watch};

use super::output::{Collector, write_reports};
use super::{CommandError, print_report};
use crate::cli::{BackendChoice, Filter, RunArgs};
use crate::error::SuiteError;
use crate::fixture::{Fixture, Kind};
use crate::interrupt;
use crate::lab::{Lab, LabOptions};
use crate::parts::{Parts, digest, parts};
use crate::progress;
use crate::selection::{CaseCell, select};
use crate::session::{Events, Session, without_evidence};
use crate::sightings::fresh_nonce;
use crate::trust::Trust;
use crate::waivers::Waivers;

/// What a run came to.
pub struct RunOutcome {
    /// The report.
    pub report: Report,
    /// The exit status.
    pub code: ExitCode,
}

/// Runs the matrix, prints the report and writes its files.
pub async fn run(args: &RunArgs) -> Result<ExitCode, CommandError> {
    let outcome = run_matrix(&args.filter, &args.out, args.waivers.as_deref(), None).await?;
    print_report(&outcome.report, outcome.code, args.json, args.verbose)?;
    Ok(outcome.code)
}

/// One of the chosen backends: a column of the matrix.
pub struct Column {
    /// Which.
    pub choice: BackendChoice,
    /// What makes the bottles under test.
    pub backend: Arc<dyn Backend>,
    /// Name and version of what makes them.
    pub engine: String,
    /// What it is like, for the report.
    facts: Vec<(String, String)>,
}

impl Column {
    async fn of(choice: BackendChoice, backend: Arc<dyn Backend>) -> Result<Self, BackendError> {
        let facts = backend.facts().await?;
        let of = |what: &str| format!("{} {what}", choice.name());
        Ok(Self {
            choice,
            facts: vec![
                (of("engine api"), facts.api),
                (of("platform"), facts.platform),
                (of("kernel"), facts.kernel),
            ],
            engine: facts.engine,
            backend,
        })
    }
}

/// The chosen backends with the embedded parts, or why there is none.
pub struct Ground {
    /// The engine that makes everything beside the bottles under test.
    engine: Arc<Docker>,
    /// The chosen backends that are there.
    pub columns: Vec<Column>,
    /// The ones that are not, and why: their cells are errors, and the exit status says so.
    pub missing: Vec<(BackendChoice, BackendError)>,
    /// The parts.
    pub parts: Parts,
    /// Digest of the suite.
    pub digest: String,
    /// Id of this run.
    pub run: String,
    /// What cases that kill a launcher start, when it is not this very program.
    pub program: Option<PathBuf>,
}

impl Ground {
    /// Finds both. A run needs the engine and one of the backends; of the others it says that they are missing.
    pub async fn find(choices: &[BackendChoice]) -> Result<Self, CommandError> {
        let docker = Arc::new(Docker::connect().await.map_err(CommandError::NoEngine)?);
        let engine = docker.facts().await.map_err(CommandError::NoEngine)?;
        let parts = parts(&engine.platform).map_err(SuiteError::from)?;
        let (mut columns, mut missing): (Vec<Column>, Vec<(BackendChoice, BackendError)>) = Default::default();
        let choices: BTreeSet<BackendChoice> = choices.iter().copied().collect();
        for choice in choices {
            let backend = match choice {
                BackendChoice::Docker => Ok(docker.clone() as Arc<dyn Backend>),
                BackendChoice::Smolmachines => smolmachines(docker.clone()).await,
            };
            let column = match backend {
                Ok(backend) => Column::of(choice, backend).await,
                Err(error) => Err(error),
            };
            match column {
                Ok(column) => columns.push(column),
                Err(error) => missing.push((choice, error)),
            }
        }
        if columns.is_empty()
            && let Some((_, error)) = missing.pop()
        {
            return Err(CommandError::NoEngine(error));
        }
        Ok(Self {
            engine: docker,
            columns,
            missing,
            digest: digest(&parts),
            run: fresh_nonce().as_str()[2..10].to_owned(),
            program: None,
            parts,
        })
    }

    /// Why the backend of a cell is not there; `None` when it is.
    pub fn lacks(&self, backend: &str) -> Option<String> {
        let (choice, error) = self.missing.iter().find(|(choice, _)| choice.name() == backend)?;
        Some(format!("the backend {} is not there: {error}", choice.name()))
    }

    /// The exit status of a run on this ground, from what its report says.
    pub fn code(&self, of_report: ExitCode) -> ExitCode {
        match of_report {
            ExitCode::Interrupted => ExitCode::Interrupted,
            _ if !self.missing.is_empty() => ExitCode::NoBackend,
            other => other,
        }
    }

    /// The first event of a run.
    pub fn started(&self, cells: impl IntoIterator<Item = (Cell, &'static probe_spec::Probe)>) -> Event {
        Event::RunStarted(RunStarted {
            run: self.run.clone(),
            at: crate::clock::now(),
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            digest: self.digest.clone(),
            engine: names(&self.columns).join(", "),
            facts: self.columns.iter().flat_map(|column| column.facts.clone()).collect(),
            expected: cells
                .into_iter()
                .map(|(cell, probe)| ExpectedCell {
                    cell,
                    title: probe.title.to_owned(),
                    on_breach: probe.on_breach.to_owned(),
                })
                .collect(),
        })
    }

    /// Makes the surroundings of a column.
    pub async fn lab(&self, column: &Column, stop: watch::Receiver<bool>) -> Result<Lab, SuiteError> {
        let options = LabOptions {
            run: self.run.clone(),
            backend: column.backend.clone(),
            engine: self.engine.clone(),
            images_of_machines: Some(self.engine.clone()),
            parts: self.parts,
            program: self.program.clone(),
            stop,
        };
        Lab::open(options).await
    }
}

/// microVMs, with the bundles in this engine. Where the suite keeps what it makes is where `bottle run` does: the run's labels
/// are on all of it.
pub async fn smolmachines(docker: Arc<Docker>) -> Result<Arc<dyn Backend>, BackendError> {
    let settings = bottle_smolvm::Settings::from_env();
    Ok(Arc::new(Smolvm::open(docker.clone(), docker, &settings).await?))
}

fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.engine.clone()).collect()
}

/// Runs the matrix and writes its files into `out`.
/// `waivers` is a file of waivers; `None`: `waivers.yaml` in the working directory, when there is one.
/// `program` is started by the cases that kill a launcher; `None`: this very program.
pub async fn run_matrix(
    filter: &Filter,
    out: &Path,
    waivers: Option<&Path>,
    program: Option<PathBuf>,
) -> Result<RunOutcome, CommandError> {
    let cells = select(filter)?;
    let waivers = Waivers::find(waivers)?;
    let expired = waivers.expired(cells.iter().map(|cell| &cell.cell));
    let mut ground = Ground::find(&filter.backend).await?;
    ground.program = program;
    let stop = interrupt::watch(ground.run.clone());
    let mut collector = Collector::open(out, progress::bar(cells.len(), "conform"), waivers)?;
    collector.take(ground.started(cells.iter().map(|cell| (cell.cell.clone(), cell.case.probe))))?;
    for text in expired {
        collector.take(Event::WaiverExpired { text })?;
    }
    let (events, mut received) = mpsc::unbounded_channel();
    let attack = attack(&ground, stop, cells, events);
    let (outcome, taken) = tokio::join!(attack, collector.take_all(&mut received));
    taken?;
    let ending = ending(outcome);
    if let Ending::Failed(reason) = &ending {
        for event in errors_of_the_rest(collector.report(), reason) {
            collector.take(event)?;
        }
    }
    collector.take(Event::RunEnded {
        at: crate::clock::now(),
        ending,
    })?;
    let report = collector.finish();
    let code = ground.code(crate::exit::of(report.standing()));
    write_reports(&report, code, out)?;
    Ok(RunOutcome { report, code })
}

/// How a run ended, from how its attacks did.
pub fn ending(outcome: Result<(), SuiteError>) -> Ending {
    match outcome {
        Ok(()) => Ending::Complete,
        Err(SuiteError::Interrupted) => Ending::Interrupted,
        Err(error) => Ending::Failed(error.to_string()),
    }
}

/// An error for every cell that was not judged.
pub fn errors_of_the_rest(report: &Report, reason: &str) -> Vec<Event> {
    let rest = report.missing().into_iter().cloned();
    rest.map(|cell| without_evidence(cell, Verdict::Error, format!("not attempted: {reason}")))
        .collect()
}

/// Attacks bottles of all chosen topologies, side by side, then takes everything down whatever happened.
async fn attack(
    ground: &Ground,
    stop: watch::Receiver<bool>,
    cells: Vec<CaseCell>,
    events: Events,
) -> Result<(), SuiteError> {
    let (absent, cells): (Vec<CaseCell>, Vec<CaseCell>) =
        cells.into_iter().partition(|cell| cell.not_applicable.is_some());
    for cell in absent {
        let reason = cell.not_applicable.unwrap_or_default();
        // The collector lives as long as this does.
        let _ = events.send(without_evidence(cell.cell, Verdict::NotApplicable, reason));
    }
    tell_missing(ground, cells.iter().map(|cell| cell.cell.clone()), &events);
    for column in &ground.columns {
        let cells: Vec<&CaseCell> = cells.iter().filter(|cell| cell.backend == column.choice).collect();
        if cells.is_empty() {
            continue;
        }
        let trust = Arc::new(Trust::load(&column.engine, &ground.digest));
        in_lab(
            ground,
            column,
            stop.clone(),
            events.clone(),
            Some(trust),
            async |session: &Session| {
                let of = |topology: Topology| {
                    let of_it = cells.iter().filter(|cell| cell.topology == topology);
                    let cells: Vec<CaseCell> = of_it.map(|cell| CaseCell::clone(cell)).collect();
                    async move {
                        if cells.is_empty() {
                            Ok(())
                        } else {
                            session.attack(topology, None, cells).await
                        }
                    }
                };
                let (sealed, routed) = tokio::join!(of(Topology::Sealed), of(Topology::Routed));
                sealed.and(routed)
            },
        )
        .await?;
    }
    Ok(())
}

/// An error for every cell whose backend is not there.
pub fn tell_missing(ground: &Ground, cells: impl Iterator<Item = Cell>, events: &Events) {
    for cell in cells {
        if let Some(reason) = ground.lacks(&cell.backend) {
            // The collector lives as long as the attack does.
            let _ = events.send(without_evidence(cell, Verdict::Error, reason));
        }
    }
}

/// Opens the lab of a column and a neighbour, does `work`, and closes both, also when the operator stops the run meanwhile.
pub async fn in_lab(
    ground: &Ground,
    column: &Column,
    stop: watch::Receiver<bool>,
    events: Events,
    trust: Option<Arc<Trust>>,
    work: impl AsyncFnOnce(&Session) -> Result<(), SuiteError>,
) -> Result<(), SuiteError> {
    let lab = Arc::new(ground.lab(column, stop.clone()).await?);
    let outcome = tokio::select! {
        biased;
        () = interrupt::stopped(stop) => Err(SuiteError::Interrupted),
        outcome = async {
            let peer = Arc::new(Fixture::shipped(&lab, Kind::Peer, Topology::Routed).await?);
            let session = Session::new(lab.clone(), peer, events.clone(), trust);
            work(&session).await
        } => outcome,
    };
    let mut left = lab.close().await;
    left.extend(remove_the_rest(&*column.backend, &ground.run).await);
    for left in left {
        let _ = events.send(Event::Note {
            text: format!("left behind: {left} (`bottle cleanup` removes it)"),
        });
    }
    outcome
}

/// Removes what the engine still has of this run, and says what stays. A teardown that was itself stopped half-way (the
/// operator's interrupt ends whatever is being done) no longer knows what it had left to do; the engine's labels do.
async fn remove_the_rest(backend: &dyn Backend, run: &str) -> Vec<String> {
    let mut rest = match backend.inventory(LABEL_RUN, Some(run)).await {
        Ok(rest) => rest,
        Err(error) => {
            return vec![format!(
                "everything with the label {LABEL_RUN}={run} that there may be: {error}"
            )];
        }
    };
    // Containers hold networks and volumes.
    rest.sort_by_key(|resource| resource.kind != ResourceKind::Container);
    let mut left = Vec::new();
    for resource in &rest {
        if let Err(error) = backend.remove(resource).await {
            left.push(format!("{:?} {}: {error}", resource.kind, resource.name));
        }
    }
    left
}
