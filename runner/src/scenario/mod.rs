//! Cases that the runner performs or accompanies from outside.

mod asking;
mod authority;
mod certificates;
mod cleanup;
mod cross;
mod crowd;
mod death;
mod hammer;
mod images;
mod inventory;
mod leftovers;
mod lifecycle;
mod machine;
mod recorded;
mod returning;
mod reuse;
mod search;
mod secrets;
mod state;
mod survivors;
mod together;

use std::time::{Duration, Instant};

use bottle_backend::{patience, patient_ms};
use probe_spec::{
    Action, AgentCase, AgentEnd, AgentList, Attempt, EVIDENCE_VERSION, Evidence, How, Liveness, Nonce, RunnerCase,
    StateCheck, Vantage,
};

pub use death::launcher;
pub use lifecycle::{Stopped, sweep_up};
pub use together::Together;

use crate::agent::{Place, attempt};
use crate::assemble::{Heard, Proof, expectation};
use crate::batch::{Target, limit_ms};
use crate::error::SuiteError;
use crate::fixture::{Fixture, Kind, launch_plan};
use crate::leaks::{self, Planned};
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// What a scenario came to.
#[derive(Clone, Default)]
pub struct Observation {
    /// What was attempted with, where it is not the nonce that the case was given: several cases were performed together.
    pub nonce: Option<Nonce>,
    /// Whether everything that the case asks for was really done.
    pub issued: bool,
    /// What was found that must not be there.
    pub findings: Vec<String>,
    /// What was done, for a person.
    pub trace: Vec<String>,
    /// Whether a planted marker was found, where there was one to find.
    pub marker: Option<bool>,
    /// Witnesses that the scenario itself showed to work.
    pub alive: Vec<Vantage>,
    /// What was wrong with an agent's output.
    pub faults: Vec<String>,
    /// How the agent ended, when one took part.
    pub agent: Option<AgentEnd>,
}

impl Observation {
    /// A scenario that was not carried out, and why.
    pub fn not_issued(why: impl Into<String>) -> Self {
        Self {
            trace: vec![why.into()],
            ..Self::default()
        }
    }

    /// Notes a step.
    pub fn note(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    /// The attempt was not made, for this reason.
    fn fails(&mut self, problem: String) {
        self.issued = false;
        self.note(problem);
    }

    /// Takes over what an agent reported.
    pub fn take(&mut self, answer: Answer) {
        self.issued &= answer.attempt.as_ref().is_some_and(|attempt| attempt.issued);
        if let Some(attempt) = answer.attempt {
            self.findings.extend(attempt.findings);
            self.trace.extend(attempt.trace);
            if let Some(found) = attempt.marker_found {
                self.marker = Some(found && self.marker != Some(false));
            }
        }
        self.faults.extend(answer.faults);
        if self.agent.is_none() || answer.end != AgentEnd::Clean {
            self.agent = Some(answer.end);
        }
    }
}

/// What one agent answered to one case.
pub struct Answer {
    /// Its line.
    pub attempt: Option<Attempt>,
    /// What was wrong with its output.
    pub faults: Vec<String>,
    /// How it ended.
    pub end: AgentEnd,
}

/// Has the agent in a bottle's guest attempt one action, filled in already.
pub async fn attempt_in(fixture: &Fixture, nonce: &Nonce, action: Action) -> Answer {
    let answers = attempt_all_in(fixture, vec![(nonce.clone(), action)]).await;
    answers.into_iter().next().unwrap_or_else(|| Answer {
        attempt: None,
        faults: Vec::new(),
        end: AgentEnd::NotStarted("nothing was asked".to_owned()),
    })
}

/// Has one agent in a bottle's guest attempt actions one after another, filled in already; an answer for each.
pub async fn attempt_all_in(fixture: &Fixture, actions: Vec<(Nonce, Action)>) -> Vec<Answer> {
    attempt_at(fixture.place(), actions).await
}

/// As [`attempt_all_in`], wherever agents can be started.
pub async fn attempt_at(place: Place<'_>, actions: Vec<(Nonce, Action)>) -> Vec<Answer> {
    let mut limit = Duration::from_millis(patient_ms(5_000));
    let mut cases = Vec::new();
    for (number, (nonce, action)) in actions.into_iter().enumerate() {
        let limit_ms = limit_ms(&action);
        limit += Duration::from_millis(limit_ms);
        cases.push(AgentCase {
            case: format!("case-{number}"),
            nonce,
            ok: fresh_nonce(),
            action,
            limit_ms,
            patience: patience(),
        });
    }
    let asked = crate::proof::asked(&cases);
    let list = AgentList { cases, parallel: 1 };
    let run = attempt(place, &list, &fresh_nonce(), limit).await;
    let mut heard = Heard::read(&asked, run.lines.iter().map(Vec::as_slice));
    heard.close(&asked, &run.end);
    let answers = list.cases.iter().map(|case| Answer {
        faults: heard.faults_of(&case.case),
        attempt: heard.attempts.remove(&case.case),
        end: run.end.clone(),
    });
    answers.collect()
}

/// Whether a case is about bottles of its own only: then it may be performed beside whatever goes on in the bottle under test.
pub fn stands_alone(how: &How) -> bool {
    match how {
        How::Hammer { .. } => true,
        How::Runner(case) => matches!(
            case,
            RunnerCase::InventoryAfterStop(_)
                | RunnerCase::LauncherDeath(_)
                | RunnerCase::Survivor(_)
                | RunnerCase::Cleanup(_)
                | RunnerCase::AddressReuse(_)
                | RunnerCase::Return(_)
                | RunnerCase::Record(_)
                | RunnerCase::Crowd
                | RunnerCase::WriteThenFreshSearches(_)
                | RunnerCase::StateFiles(
                    StateCheck::GoneAfterStop
                        | StateCheck::NoFollow
                        | StateCheck::NoFollowParent
                        | StateCheck::WritableParent
                        | StateCheck::WritableStateDirectory
                        | StateCheck::NoImageKept
                )
        ),
        How::Agent(_) => false,
    }
}

/// Performs a case that is more than an agent's attempt.
pub async fn perform(target: &Target<'_>, cell: &CaseCell) -> Result<Evidence, SuiteError> {
    let started = crate::clock::now();
    let clock = Instant::now();
    let nonce = fresh_nonce();
    let wanted = cell.case.spec.alive.iter().copied().collect();
    let before = target.prove_before(&wanted).await?;
    let observed = match &cell.case.spec.how {
        How::Agent(action) => {
            let action = crate::template::fill(action, target.keys)?;
            let mut observed = Observation {
                issued: true,
                ..Observation::default()
            };
            observed.take(attempt_in(target.fixture, &nonce, action).await);
            observed
        }
        How::Hammer { action, meanwhile } => return hammer::perform(target, cell, action, *meanwhile, nonce).await,
        How::Runner(case) => runner_case(target, cell, case, &nonce).await?,
    };
    let settled = target.settle().await;
    let after = target.prove_after(&wanted).await?;
    let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let seen = Seen {
        nonce: observed.nonce.clone().unwrap_or(nonce),
        started,
        took_ms,
        settled,
        decisions: target.fixture,
    };
    Ok(evidence(target, cell, observed, &before, &after, seen))
}

async fn runner_case(
    target: &Target<'_>,
    cell: &CaseCell,
    case: &RunnerCase,
    nonce: &Nonce,
) -> Result<Observation, SuiteError> {
    match case {
        RunnerCase::InventoryAfterStop(kind) => lifecycle::after_stop(target, cell, *kind).await,
        RunnerCase::LauncherDeath(death) => death::perform(target, cell, *death).await,
        RunnerCase::Survivor(_) => survivors::perform(target, cell).await,
        RunnerCase::Cleanup(_) => cleanup::perform(target, cell).await,
        RunnerCase::StateFiles(check) => state::perform(target, cell, *check).await,
        RunnerCase::SecretInOutput(place) => secrets::in_output(target, *place).await,
        RunnerCase::SecretInEngine(place) => secrets::in_engine(target, *place).await,
        RunnerCase::Authority(check) => authority::perform(target, cell, *check, nonce).await,
        RunnerCase::ReadOnlyShare(_) => machine::share(target, cell).await,
        RunnerCase::MachineProcess(check) => machine::process(target, *check),
        RunnerCase::AddressReuse(_) => reuse::perform(target, cell).await,
        RunnerCase::Return(_) => returning::perform(target, cell).await,
        RunnerCase::Record(check) => recorded::perform(target, cell, *check).await,
        RunnerCase::Crowd => crowd::perform(target, cell, nonce).await,
        RunnerCase::WriteThenPeerSearches(places) => cross::write_then_peer(target, cell, places, nonce).await,
        RunnerCase::WriteThenFreshSearches(_) => cross::write_then_fresh(target, cell).await,
        RunnerCase::PeerThenSelf { peer, own } => cross::peer_then_self(target, peer, own, nonce).await,
    }
}

/// Launches one more bottle of this target's kind, with the same control removed.
pub async fn launch_like(target: &Target<'_>, cell: &CaseCell) -> Result<Fixture, SuiteError> {
    launch_plan(target.lab, plan_like(target, cell).await?).await
}

/// The plan of one more bottle of this target's kind, with the same control removed.
pub async fn plan_like(target: &Target<'_>, cell: &CaseCell) -> Result<Planned, SuiteError> {
    leaks::plan(
        target.lab,
        Kind::Attacked,
        cell.topology,
        target.fixture.leak,
        Some(target.peer),
    )
    .await
}

/// What was seen of a case from outside.
pub struct Seen<'a> {
    /// Its nonce.
    pub nonce: Nonce,
    /// RFC 3339.
    pub started: String,
    /// Milliseconds.
    pub took_ms: u64,
    /// Whether the settle window passed and was acknowledged.
    pub settled: bool,
    /// The bottle whose decisions count.
    pub decisions: &'a Fixture,
}

/// The evidence of a scenario.
pub fn evidence(
    target: &Target<'_>,
    cell: &CaseCell,
    observed: Observation,
    before: &Proof,
    after: &Proof,
    seen: Seen<'_>,
) -> Evidence {
    let expectation = expectation(cell);
    let liveness = expectation.alive.iter().map(|at| {
        let own = observed.alive.contains(at) || (*at == Vantage::Guest && observed.marker == Some(true));
        Liveness {
            at: *at,
            before: own || before.contains(at),
            after: own || after.contains(at),
        }
    });
    let mut trace = observed.trace;
    trace.truncate(64);
    Evidence {
        version: EVIDENCE_VERSION,
        cell: target.cell(cell),
        nonce: seen.nonce.clone(),
        secrets: target.secrets(cell),
        attempt: Some(Attempt {
            case: cell.cell.case.clone(),
            nonce: seen.nonce.clone(),
            issued: observed.issued,
            trace,
            findings: observed.findings,
            marker_found: observed.marker,
        }),
        faults: observed.faults,
        agent: observed.agent.unwrap_or(AgentEnd::NoAgent),
        liveness: liveness.collect(),
        settled: seen.settled,
        sightings: target.seen(&seen.nonce),
        decisions: seen.decisions.decisions(&seen.nonce),
        facts: Vec::new(),
        started: seen.started,
        took_ms: seen.took_ms,
        expectation,
    }
}
