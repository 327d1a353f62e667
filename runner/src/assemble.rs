//! From what was seen and heard to the evidence of one case, pure.

use std::collections::{BTreeMap, BTreeSet};

use probe_spec::{
    AgentEnd, Attempt, Cell, DecisionSeen, EVIDENCE_VERSION, Evidence, Expectation, Liveness, Nonce, Sighting, Vantage,
};

use crate::selection::CaseCell;

/// What the agent printed, read strictly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Good lines by the key of their case.
    pub attempts: BTreeMap<String, Attempt>,
    /// What was wrong, by the key of the case that it is about.
    pub faults: BTreeMap<String, Vec<String>>,
    /// What was wrong with lines of which nobody knows whose they are: every case of the list bears them.
    pub shared_faults: Vec<String>,
}

impl Heard {
    /// Reads the agent's lines against what it was asked. `asked` has the nonce of every case by its key.
    pub fn read<'a>(asked: &BTreeMap<String, Nonce>, lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut heard = Self::default();
        let mut duplicate = BTreeSet::new();
        for line in lines {
            let attempt: Attempt = match serde_json::from_slice(line) {
                Ok(attempt) => attempt,
                Err(error) => {
                    heard
                        .shared_faults
                        .push(format!("a line of the agent is malformed: {error}: {}", shown(line)));
                    continue;
                }
            };
            match asked.get(&attempt.case) {
                None => heard.shared_faults.push(format!(
                    "the agent answered a case that it was not given: {}",
                    shown(line)
                )),
                Some(nonce) if *nonce != attempt.nonce => {
                    let fault = format!("the answer carries nonce {} instead of {nonce}", attempt.nonce);
                    heard.faults.entry(attempt.case).or_default().push(fault);
                }
                Some(_) => {
                    if heard.attempts.contains_key(&attempt.case) {
                        duplicate.insert(attempt.case.clone());
                    } else {
                        heard.attempts.insert(attempt.case.clone(), attempt);
                    }
                }
            }
        }
        for case in duplicate {
            heard
                .faults
                .entry(case)
                .or_default()
                .push("the agent answered this case more than once".to_owned());
        }
        heard
    }

    /// Notes every case without an answer, when the agent says that it answered all.
    pub fn close(&mut self, asked: &BTreeMap<String, Nonce>, end: &AgentEnd) {
        if *end != AgentEnd::Clean {
            return;
        }
        for case in asked.keys().filter(|case| !self.attempts.contains_key(*case)) {
            self.faults
                .entry(case.clone())
                .or_default()
                .push("the agent ended cleanly without answering this case".to_owned());
        }
    }

    /// What was wrong with the answer to a case.
    pub fn faults_of(&self, case: &str) -> Vec<String> {
        let own = self.faults.get(case).into_iter().flatten();
        own.chain(&self.shared_faults).cloned().collect()
    }
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

/// Which witnesses were shown to work, once.
pub type Proof = BTreeSet<Vantage>;

/// What is common to the cases of one batch.
pub struct BatchFacts<'a> {
    /// What the agent said.
    pub heard: &'a Heard,
    /// How it ended.
    pub end: &'a AgentEnd,
    /// Witnesses shown to work before the first case.
    pub before: &'a Proof,
    /// And after the settle window.
    pub after: &'a Proof,
    /// Whether the settle window passed and was acknowledged.
    pub settled: bool,
    /// Facts that the host read about the agent.
    pub facts: &'a [(String, String)],
}

/// What belongs to one case alone.
pub struct CaseFacts {
    /// Its key in the agent's list.
    pub key: String,
    /// Its nonce.
    pub nonce: Nonce,
    /// Planted secrets that it is about.
    pub secrets: Vec<Nonce>,
    /// What any witness saw of the nonce.
    pub sightings: Vec<Sighting>,
    /// Decisions with the nonce.
    pub decisions: Vec<DecisionSeen>,
    /// RFC 3339.
    pub started: String,
    /// Milliseconds.
    pub took_ms: u64,
}

/// What a case must show.
pub fn expectation(case: &CaseCell) -> Expectation {
    let spec = &case.case.spec;
    Expectation {
        oracle: spec.oracle.clone(),
        alive: spec.alive.clone(),
        decision: spec.decision,
    }
}

/// The evidence of one case of a batch.
pub fn assemble(cell: Cell, expectation: Expectation, batch: &BatchFacts<'_>, case: CaseFacts) -> Evidence {
    let attempt = batch.heard.attempts.get(&case.key).cloned();
    let liveness = liveness(&expectation.alive, batch.before, batch.after, attempt.as_ref());
    Evidence {
        version: EVIDENCE_VERSION,
        cell,
        nonce: case.nonce,
        secrets: case.secrets,
        faults: batch.heard.faults_of(&case.key),
        agent: batch.end.clone(),
        liveness,
        settled: batch.settled,
        sightings: case.sightings,
        decisions: case.decisions,
        facts: match &expectation.oracle {
            // Other cases have no use for them.
            probe_spec::Oracle::Facts(_) => batch.facts.to_vec(),
            _ => Vec::new(),
        },
        expectation,
        attempt,
        started: case.started,
        took_ms: case.took_ms,
    }
}

/// The proofs of the witnesses that a case needs. What the agent found inside the guest is proved by the marker that this very
/// attempt found, when it had one to find.
fn liveness(alive: &[Vantage], before: &Proof, after: &Proof, attempt: Option<&Attempt>) -> Vec<Liveness> {
    let marker = attempt.and_then(|attempt| attempt.marker_found);
    alive
        .iter()
        .map(|at| match (at, marker) {
            (Vantage::Guest, Some(found)) => Liveness {
                at: *at,
                before: found,
                after: found,
            },
            _ => Liveness {
                at: *at,
                before: before.contains(at),
                after: after.contains(at),
            },
        })
        .collect()
}
