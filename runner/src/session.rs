//! One bottle and its cells, from first proof to last verdict. What happens is told as events.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bottle_plan::Topology;
use bottle_reports::{BottleLaunched, CaseJudged, Event};
use futures_util::StreamExt;
use probe_spec::{Cell, Evidence, Judgement, Leak, Vantage, Verdict};
use tokio::sync::mpsc;

use crate::batch::{Batch, Target, batches};
use crate::error::SuiteError;
use crate::fixture::{Fixture, Kind, launch_plan};
use crate::lab::Lab;
use crate::leaks;
use crate::scenario;
use crate::selection::{CaseCell, topology_name};
use crate::shared::Shared;
use crate::trust::Trust;

/// Scenarios that are performed at a time: most wait for something.
const SIDE_BY_SIDE: usize = 8;
/// Batches under way: one is attempted, the ones before it settle.
const BATCHES_SIDE_BY_SIDE: usize = 3;

/// Where events go.
pub type Events = mpsc::UnboundedSender<Event>;

/// What sessions of one run share.
pub struct Session {
    /// The surroundings.
    pub lab: Arc<Lab>,
    /// The neighbour.
    pub peer: Arc<Fixture>,
    /// Where events go.
    pub events: Events,
    /// What the self-test says about each cell; `None` in the self-test itself.
    pub trust: Option<Arc<Trust>>,
    judged: Mutex<BTreeSet<Cell>>,
}

impl Session {
    /// A session with nothing judged yet.
    pub fn new(lab: Arc<Lab>, peer: Arc<Fixture>, events: Events, trust: Option<Arc<Trust>>) -> Self {
        Self {
            lab,
            peer,
            events,
            trust,
            judged: Mutex::default(),
        }
    }

    /// Launches a bottle (leaky or as shipped), attempts its cells and closes it.
    pub async fn attack(&self, topology: Topology, leak: Option<Leak>, cells: Vec<CaseCell>) -> Result<(), SuiteError> {
        let leaky_peer = match leak.filter(|leak| leaks::concerns_peer(*leak)) {
            None => None,
            leak => {
                let planned = leaks::plan(&self.lab, Kind::Peer, Topology::Routed, leak, None).await?;
                Some(launch_plan(&self.lab, planned).await?)
            }
        };
        let peer = leaky_peer.as_ref().unwrap_or(&self.peer);
        let planned = leaks::plan(&self.lab, Kind::Attacked, topology, leak, Some(peer)).await?;
        let mut fixture = launch_plan(&self.lab, planned).await?;
        if cells
            .iter()
            .any(|cell| cell.case.spec.alive.contains(&Vantage::OwnBundle))
        {
            fixture.open_listener(&self.lab).await?;
        }
        self.tell(Event::BottleLaunched(BottleLaunched {
            slug: fixture.bottle.slug().to_owned(),
            topology: topology_name(topology).to_owned(),
            leak,
            took_ms: fixture.launch_ms,
        }));
        let outcome = self.attack_launched(&fixture, peer, cells).await;
        for fixture in [Some(&fixture), leaky_peer.as_ref()].into_iter().flatten() {
            for left in fixture.close(&self.lab).await {
                self.tell(Event::Note {
                    text: format!("left behind by {}: {left}", fixture.bottle.slug()),
                });
            }
            if leak.is_some() {
                scenario::sweep_up(&*self.lab.backend, fixture.bottle.slug()).await;
            }
        }
        outcome
    }

    /// Cases with bottles of their own are performed beside the batches; those that look at what this bottle leaves in logs and
    /// files come after them, when there is most to see.
    async fn attack_launched(&self, fixture: &Fixture, peer: &Fixture, cells: Vec<CaseCell>) -> Result<(), SuiteError> {
        let keys = fixture.keys(&self.lab, peer);
        let shared = Shared::default();
        let target = Target {
            lab: &self.lab,
            fixture,
            peer,
            keys: &keys,
            shared: &shared,
        };
        let (batches, others) = batches(cells);
        let (own, others) = others
            .into_iter()
            .partition(|cell: &CaseCell| scenario::stands_alone(&cell.case.spec.how));
        let here = async {
            self.attempt_all(&target, &batches).await?;
            self.perform_all(&target, others).await
        };
        let (own, here) = tokio::join!(self.perform_all(&target, own), here);
        own.and(here)
    }

    /// Attempts the batches: the next agent is started while the last one's answers settle. What changes the ground under
    /// others is attempted when they are concluded.
    async fn attempt_all(&self, target: &Target<'_>, batches: &[Batch]) -> Result<(), SuiteError> {
        let (alone, ordinary): (Vec<&Batch>, Vec<&Batch>) = batches.iter().partition(|batch| batch.is_alone());
        let mut attempted = futures_util::stream::iter(ordinary)
            .map(|batch| target.attempt(batch))
            .buffered(BATCHES_SIDE_BY_SIDE);
        while let Some(evidence) = attempted.next().await {
            evidence?.into_iter().for_each(|evidence| self.judge(evidence));
        }
        for batch in alone {
            let evidence = target.attempt(batch).await?;
            evidence.into_iter().for_each(|evidence| self.judge(evidence));
        }
        Ok(())
    }

    async fn perform_all(&self, target: &Target<'_>, cells: Vec<CaseCell>) -> Result<(), SuiteError> {
        let mut performed = futures_util::stream::iter(cells)
            .map(|cell| async {
                let begun = Instant::now();
                let outcome = scenario::perform(target, &cell).await;
                tracing::debug!(probe = cell.cell.probe, case = cell.cell.case, took = ?begun.elapsed(), "performed");
                (cell, outcome)
            })
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some((cell, outcome)) = performed.next().await {
            match outcome {
                Ok(evidence) => self.judge(evidence),
                Err(error) if error.is_unreachable() => return Err(error),
                Err(error) => self.give_up(vec![target.cell(&cell)], &error.to_string()),
            }
        }
        Ok(())
    }

    /// Judges one case and tells. `HELD` is worth nothing without a self-test that turned the same case red.
    fn judge(&self, evidence: Evidence) {
        let evidence = self.lab.redaction.evidence(evidence);
        let mut judgement = probe_spec::judge(&evidence);
        if judgement.verdict == Verdict::Held
            && let Some(why) = self.trust.as_ref().and_then(|trust| trust.objection(&evidence.cell))
        {
            judgement = Judgement {
                verdict: Verdict::Inconclusive,
                reason: why,
            };
        }
        let cell = evidence.cell.clone();
        self.judged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(cell.clone());
        self.tell(Event::CaseJudged(Box::new(CaseJudged {
            cell,
            judgement,
            evidence: Some(evidence),
        })));
    }

    /// Notes an error for each of these cells that was not judged before.
    pub fn give_up(&self, cells: Vec<Cell>, reason: &str) {
        let judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for cell in cells.into_iter().filter(|cell| !judged.contains(cell)) {
            self.tell(without_evidence(
                cell,
                Verdict::Error,
                format!("not attempted: {reason}"),
            ));
        }
    }

    /// Tells an event. Whoever listened may be gone when the run was stopped.
    pub fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// A verdict on a cell of which nothing was seen.
pub fn without_evidence(cell: Cell, verdict: Verdict, reason: String) -> Event {
    Event::CaseJudged(Box::new(CaseJudged {
        cell,
        judgement: Judgement { verdict, reason },
        evidence: None,
    }))
}
