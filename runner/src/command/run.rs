//! `run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_backend::{Backend, ResourceKind};
use bottle_docker::Docker;
use bottle_plan::{LABEL_RUN, Topology};
use bottle_reports::{CaseJudged, Ending, Event, ExpectedCell, Report, RunStarted};
use probe_spec::{Cell, ExitCode, Judgement, Verdict};
use tokio::sync::{mpsc, watch};

use super::output::{Collector, write_reports};
use super::{CommandError, print_report};
use crate::cli::{Filter, RunArgs};
use crate::error::SuiteError;
use crate::fixture::{Fixture, Kind};
use crate::interrupt;
use crate::lab::{Lab, LabOptions};
use crate::parts::{Parts, digest, parts};
use crate::progress;
use crate::selection::{CaseCell, select};
use crate::session::{Events, Session};
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

/// An engine with the embedded parts, or why there is none.
pub struct Ground {
    /// The engine.
    pub backend: Arc<dyn Backend>,
    /// Name and version of the engine.
    pub engine: String,
    /// The parts.
    pub parts: Parts,
    /// Digest of the suite.
    pub digest: String,
    /// Id of this run.
    pub run: String,
    /// What cases that kill a launcher start, when it is not this very program.
    pub program: Option<PathBuf>,
    /// What the engine is like, for the report.
    pub facts: Vec<(String, String)>,
}

impl Ground {
    /// Finds both.
    pub async fn find() -> Result<Self, CommandError> {
        let parts = parts().map_err(SuiteError::from)?;
        let docker = Docker::connect().await.map_err(CommandError::NoEngine)?;
        let backend: Arc<dyn Backend> = Arc::new(docker);
        let facts = backend.facts().await.map_err(CommandError::NoEngine)?;
        Ok(Self {
            digest: digest(&parts),
            run: fresh_nonce().as_str()[2..10].to_owned(),
            engine: facts.engine.clone(),
            program: None,
            facts: vec![
                ("engine api".to_owned(), facts.api),
                ("platform".to_owned(), facts.platform),
                ("kernel".to_owned(), facts.kernel),
            ],
            backend,
            parts,
        })
    }

    /// The first event of a run.
    pub fn started(&self, cells: impl IntoIterator<Item = (Cell, &'static probe_spec::Probe)>) -> Event {
        Event::RunStarted(RunStarted {
            run: self.run.clone(),
            at: crate::clock::now(),
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            digest: self.digest.clone(),
            engine: self.engine.clone(),
            facts: self.facts.clone(),
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

    /// Makes the lab of this run.
    pub async fn lab(&self, stop: watch::Receiver<bool>) -> Result<Lab, SuiteError> {
        let (run, backend) = (self.run.clone(), self.backend.clone());
        let options = LabOptions {
            run,
            backend,
            parts: self.parts,
            program: self.program.clone(),
            stop,
        };
        Lab::open(options).await
    }
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
    let mut ground = Ground::find().await?;
    ground.program = program;
    let stop = interrupt::watch(ground.run.clone());
    let mut collector = Collector::open(out, progress::bar(cells.len(), "conform"), waivers)?;
    collector.take(ground.started(cells.iter().map(|cell| (cell.cell.clone(), cell.case.probe))))?;
    for text in expired {
        collector.take(Event::WaiverExpired { text })?;
    }
    let (events, mut received) = mpsc::unbounded_channel();
    let trust = Arc::new(Trust::load(&ground.engine, &ground.digest));
    let attack = attack(&ground, stop, cells, trust, events);
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
    let code = crate::exit::of(report.standing());
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
    rest.map(|cell| {
        let judgement = Judgement {
            verdict: Verdict::Error,
            reason: format!("not attempted: {reason}"),
        };
        Event::CaseJudged(Box::new(CaseJudged {
            cell,
            judgement,
            evidence: None,
        }))
    })
    .collect()
}

/// Attacks bottles of all chosen topologies, side by side, then takes everything down whatever happened.
async fn attack(
    ground: &Ground,
    stop: watch::Receiver<bool>,
    cells: Vec<CaseCell>,
    trust: Arc<Trust>,
    events: Events,
) -> Result<(), SuiteError> {
    let (absent, cells): (Vec<CaseCell>, Vec<CaseCell>) =
        cells.into_iter().partition(|cell| cell.not_applicable.is_some());
    for cell in absent {
        let reason = cell.not_applicable.unwrap_or_default();
        let judgement = Judgement {
            verdict: Verdict::NotApplicable,
            reason,
        };
        // The collector lives as long as this does.
        let _ = events.send(Event::CaseJudged(Box::new(CaseJudged {
            cell: cell.cell,
            judgement,
            evidence: None,
        })));
    }
    if cells.is_empty() {
        return Ok(());
    }
    in_lab(ground, stop, events, Some(trust), async |session: &Session| {
        let of = |topology: Topology| {
            let cells: Vec<CaseCell> = cells.iter().filter(|cell| cell.topology == topology).cloned().collect();
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
    })
    .await
}

/// Opens the lab and a neighbour, does `work`, and closes both, also when the operator stops the run meanwhile.
pub async fn in_lab(
    ground: &Ground,
    stop: watch::Receiver<bool>,
    events: Events,
    trust: Option<Arc<Trust>>,
    work: impl AsyncFnOnce(&Session) -> Result<(), SuiteError>,
) -> Result<(), SuiteError> {
    let lab = Arc::new(ground.lab(stop.clone()).await?);
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
    left.extend(remove_the_rest(&*ground.backend, &ground.run).await);
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
