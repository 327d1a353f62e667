//! Many cases by one agent process: how they are grouped, attempted and turned into evidence.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bottle_backend::{patience, patient, patient_ms};
use probe_spec::{Action, AgentCase, AgentList, Evidence, How, Nonce, Oracle, Place as Search, Vantage};

use crate::agent::{AgentRun, attempt};
use crate::assemble::{BatchFacts, CaseFacts, Heard, Proof, assemble, expectation};
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::lab::Lab;
use crate::proof::asked;
use crate::selection::CaseCell;
use crate::shared::Shared;
use crate::sightings::fresh_nonce;
use crate::template::{Keys, fill};

/// How long after the last answer a nonce may still arrive.
pub const SETTLE: Duration = Duration::from_millis(250);
/// Cases of one batch at a time.
const PARALLEL: usize = 16;
/// Heavy cases at a time: they saturate a CPU or walk the whole file system.
const PARALLEL_HEAVY: usize = 4;
/// Most cases of one batch: a crash of the agent costs no more than these.
const BATCH: usize = 128;
/// Limit of one ordinary case, and of one heavy case, in milliseconds.
const LIMIT_MS: u64 = 8_000;
const LIMIT_HEAVY_MS: u64 = 90_000;
/// Limit of a sweep of all ports, in milliseconds: a machine's gateway may need ten for each of them.
const LIMIT_SWEEP_MS: u64 = 480_000;

/// How a case may be attempted beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Beside many.
    Light,
    /// Beside few.
    Heavy,
    /// Alone and after all others: it changes what others stand on.
    Alone,
}

/// The weight of an action.
pub fn weight(action: &Action) -> Weight {
    match action {
        // A look at the agent's own descriptors sees those of the cases beside it.
        Action::Tamper { .. } | Action::Descriptors { .. } => Weight::Alone,
        Action::Sweep { .. } | Action::Vsock { .. } | Action::WriteEverywhere { .. } | Action::UnixSockets { .. } => {
            Weight::Heavy
        }
        Action::Find {
            place: Search::Files | Search::Mounts | Search::ProcMemory | Search::Devices | Search::ProcDescriptors,
            ..
        } => Weight::Heavy,
        Action::Sequence { actions } => actions.iter().map(weight).max().unwrap_or(Weight::Light),
        Action::Repeat { action, .. } => weight(action),
        _ => Weight::Light,
    }
}

/// How long an action may take here, in milliseconds.
pub fn limit_ms(action: &Action) -> u64 {
    patient_ms(ordinary_limit_ms(action))
}

fn ordinary_limit_ms(action: &Action) -> u64 {
    match action {
        Action::Sequence { actions } => actions.iter().map(ordinary_limit_ms).sum::<u64>().min(120_000),
        Action::Repeat {
            times,
            pause_ms,
            action,
        } => (u64::from(*times) * (*pause_ms + 1_000) + ordinary_limit_ms(action)).min(120_000),
        Action::Sweep { .. } => LIMIT_SWEEP_MS,
        other if weight(other) == Weight::Heavy => LIMIT_HEAVY_MS,
        _ => LIMIT_MS,
    }
}

/// A batch: cases that one agent process attempts.
pub struct Batch {
    cells: Vec<(CaseCell, Action)>,
    parallel: usize,
    asks_changing_names: bool,
}

/// Whether an action asks for a name whose answer depends on how often it was asked for.
fn asks_changing_names(action: &Action) -> bool {
    format!("{action:?}").contains("flip.")
}

/// Groups the agent's cases, lightest first. Other kinds of cases are handed back.
pub fn batches(cells: Vec<CaseCell>) -> (Vec<Batch>, Vec<CaseCell>) {
    let mut groups: [Vec<(CaseCell, Action)>; 3] = Default::default();
    let (mut others, mut changing) = (Vec::new(), Vec::new());
    for cell in cells {
        match cell.case.spec.how.clone() {
            How::Agent(action) if asks_changing_names(&action) => {
                changing.push(Batch {
                    cells: vec![(cell, action)],
                    parallel: 1,
                    asks_changing_names: true,
                });
            }
            How::Agent(action) => {
                let group = match weight(&action) {
                    Weight::Light => 0,
                    Weight::Heavy => 1,
                    Weight::Alone => 2,
                };
                groups[group].push((cell, action));
            }
            _ => others.push(cell),
        }
    }
    let mut batches = Vec::new();
    for (group, parallel) in groups.into_iter().zip([PARALLEL, PARALLEL_HEAVY, 1]) {
        let mut group = group.into_iter().peekable();
        while group.peek().is_some() {
            let cells = group.by_ref().take(BATCH).collect();
            batches.push(Batch {
                cells,
                parallel,
                asks_changing_names: false,
            });
        }
    }
    batches.splice(0..0, changing);
    (batches, others)
}

/// The witnesses that any of these cells needs.
pub fn witnesses<'a>(cells: impl IntoIterator<Item = &'a CaseCell>) -> BTreeSet<Vantage> {
    cells
        .into_iter()
        .flat_map(|cell| cell.case.spec.alive.iter().copied())
        .collect()
}

impl Batch {
    /// Whether it must not be attempted before all others are concluded.
    pub fn is_alone(&self) -> bool {
        self.cells.iter().any(|(_, action)| weight(action) == Weight::Alone)
    }

    /// Its cells.
    pub fn cells(&self) -> impl Iterator<Item = &CaseCell> {
        self.cells.iter().map(|(cell, _)| cell)
    }
}

/// A bottle with its neighbour, ready to be attacked.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The surroundings.
    pub lab: &'a Lab,
    /// The bottle under test.
    pub fixture: &'a Fixture,
    /// Its neighbour.
    pub peer: &'a Fixture,
    /// What keys stand for.
    pub keys: &'a Keys,
    /// What its cases share.
    pub shared: &'a Shared,
}

impl Target<'_> {
    /// Which witnesses were shown to work before now; see [`Shared::before`].
    pub async fn prove_before(&self, wanted: &BTreeSet<Vantage>) -> Result<Proof, SuiteError> {
        self.shared.before(self, wanted).await
    }

    /// Which witnesses work from now on; see [`Shared::after`].
    pub async fn prove_after(&self, wanted: &BTreeSet<Vantage>) -> Result<Proof, SuiteError> {
        self.shared.after(self, wanted).await
    }

    /// Waits until everything sent so far has been seen, or would have been; `false` when the witness does not confirm.
    pub async fn settle(&self) -> bool {
        tokio::time::sleep(patient(SETTLE)).await;
        self.lab.mark().await
    }

    /// Attempts a batch; the evidence of every case. The agents of a guest take turns: what one holds in its memory another
    /// must not find. The next begins while this one's answers settle.
    pub async fn attempt(&self, batch: &Batch) -> Result<Vec<Evidence>, SuiteError> {
        let wanted = witnesses(batch.cells());
        let turn = self.shared.guest.lock().await;
        let before = self.prove_before(&wanted).await?;
        let started = crate::clock::now();
        let clock = Instant::now();
        let dropped = (self.lab.outside.dropped(), self.fixture.bottle.events_dropped());
        let (cases, run) = self.run_agent(batch).await?;
        tracing::debug!(cases = cases.len(), took = ?clock.elapsed(), end = ?run.end, "a batch was attempted");
        drop(turn);
        let asked = asked(&cases);
        let mut heard = Heard::read(&asked, run.lines.iter().map(Vec::as_slice));
        heard.close(&asked, &run.end);
        let settled = self.settle().await && dropped.0 == self.lab.outside.dropped();
        let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX) / batch.cells.len().max(1) as u64;
        let mut after = self.prove_after(&wanted).await?;
        if dropped.1 != self.fixture.bottle.events_dropped() {
            // Its silence means nothing when lines were lost.
            after.remove(&Vantage::DecisionLog);
        }
        let facts = BatchFacts {
            heard: &heard,
            end: &run.end,
            before: &before,
            after: &after,
            settled,
            facts: &run.facts,
        };
        let evidence = batch.cells.iter().zip(&cases).map(|((cell, _), case)| {
            let case = CaseFacts {
                key: case.case.clone(),
                nonce: case.nonce.clone(),
                secrets: self.secrets(cell),
                sightings: self.seen(&case.nonce),
                decisions: self.fixture.decisions(&case.nonce),
                started: started.clone(),
                took_ms,
            };
            assemble(self.cell(cell), expectation(cell), &facts, case)
        });
        Ok(evidence.collect())
    }

    /// Has one agent attempt a batch; what it was asked, and what came of it.
    async fn run_agent(&self, batch: &Batch) -> Result<(Vec<AgentCase>, AgentRun), SuiteError> {
        let mut cases = Vec::new();
        for (number, (cell, action)) in batch.cells.iter().enumerate() {
            let action = fill(action, self.keys)?;
            cases.push(AgentCase {
                case: format!("{number}-{}-{}", cell.cell.probe, cell.cell.case),
                nonce: fresh_nonce(),
                ok: fresh_nonce(),
                limit_ms: limit_ms(&action),
                patience: patience(),
                action,
            });
        }
        // Names that change their answer begin anew, and nobody else asks meanwhile; a witness that is gone shows in the proofs.
        let _names = if batch.asks_changing_names {
            let held = self.lab.names.lock().await;
            self.lab.outside.reset_names().await;
            Some(held)
        } else {
            None
        };
        let work: u64 = cases.iter().map(|case| case.limit_ms).sum();
        let longest = cases.iter().map(|case| case.limit_ms).max().unwrap_or_default();
        let limit = Duration::from_millis(work / batch.parallel as u64 + longest + patient_ms(5_000));
        let list = AgentList {
            cases,
            parallel: batch.parallel,
        };
        let run = attempt(
            self.fixture.place(),
            &list,
            &fresh_nonce(),
            limit.min(patient(Duration::from_secs(540))),
        )
        .await;
        Ok((list.cases, run))
    }

    /// The cell, with the leak of this bottle.
    pub fn cell(&self, cell: &CaseCell) -> probe_spec::Cell {
        probe_spec::Cell {
            leak: self.fixture.leak,
            ..cell.cell.clone()
        }
    }

    /// The planted secrets that a case is about.
    pub fn secrets(&self, cell: &CaseCell) -> Vec<Nonce> {
        match cell.case.spec.oracle {
            Oracle::SecretUnseen => vec![self.fixture.token.clone(), self.peer.token.clone()],
            Oracle::Unseen | Oracle::Facts(_) => Vec::new(),
        }
    }

    /// What any witness saw of a nonce, the peer's decision log included.
    pub fn seen(&self, nonce: &Nonce) -> Vec<probe_spec::Sighting> {
        let mut seen = self.lab.sightings.of(nonce);
        seen.extend(
            self.peer
                .decisions(nonce)
                .into_iter()
                .map(|decision| probe_spec::Sighting {
                    at: Vantage::PeerBundle,
                    nonces: vec![nonce.clone()],
                    from: self.fixture.bottle.slug().to_owned(),
                    to: self.peer.bottle.slug().to_owned(),
                    what: format!("decision by {}: {}", decision.by, decision.rule),
                    at_ms: 0,
                }),
        );
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> Action {
        Action::Tcp {
            to: String::new(),
            send: String::new(),
            from: None,
        }
    }

    #[test]
    fn what_tampers_is_attempted_alone() {
        let tampering = Action::Sequence {
            actions: vec![
                Action::Tamper {
                    what: probe_spec::Tamper::Route,
                },
                tcp(),
            ],
        };
        assert_eq!(weight(&tampering), Weight::Alone);
        assert_eq!(weight(&tcp()), Weight::Light);
    }

    #[test]
    fn limits_grow_with_what_is_asked() {
        let repeat = Action::Repeat {
            times: 10,
            pause_ms: 100,
            action: Box::new(tcp()),
        };
        assert_eq!(limit_ms(&repeat), 11_000 + LIMIT_MS);
        assert_eq!(
            limit_ms(&Action::Sequence {
                actions: vec![tcp(), tcp()]
            }),
            2 * LIMIT_MS
        );
    }
}
