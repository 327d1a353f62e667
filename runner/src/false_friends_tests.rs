//! Two false friends that must not make anything green: an agent that dies, and a witness that is down or deaf.

use std::collections::BTreeMap;

use probe_spec::{AgentEnd, Attempt, Cell, Evidence, Expectation, Nonce, Oracle, Vantage, Verdict, judge};

use crate::assemble::{BatchFacts, CaseFacts, Heard, Proof, assemble};
use crate::sightings::fresh_nonce;

struct Scene {
    nonce: Nonce,
    lines: Vec<Vec<u8>>,
    end: AgentEnd,
    before: Proof,
    after: Proof,
    settled: bool,
}

impl Scene {
    /// A case that is held.
    fn held() -> Self {
        let nonce = fresh_nonce();
        let alive = Proof::from([Vantage::InternetTcp]);
        Self {
            lines: vec![line("a", &nonce)],
            nonce,
            end: AgentEnd::Clean,
            before: alive.clone(),
            after: alive,
            settled: true,
        }
    }

    fn evidence(&self) -> Evidence {
        let asked = BTreeMap::from([("a".to_owned(), self.nonce.clone())]);
        let mut heard = Heard::read(&asked, self.lines.iter().map(Vec::as_slice));
        heard.close(&asked, &self.end);
        let facts = BatchFacts {
            heard: &heard,
            end: &self.end,
            before: &self.before,
            after: &self.after,
            settled: self.settled,
            facts: &[],
        };
        let cell = Cell {
            probe: "EG-01".to_owned(),
            case: "a".to_owned(),
            backend: "docker".to_owned(),
            topology: "sealed".to_owned(),
            leak: None,
        };
        let expectation = Expectation {
            oracle: Oracle::Unseen,
            alive: vec![Vantage::InternetTcp],
            decision: false,
        };
        let case = CaseFacts {
            key: "a".to_owned(),
            nonce: self.nonce.clone(),
            secrets: Vec::new(),
            sightings: Vec::new(),
            decisions: Vec::new(),
            started: String::new(),
            took_ms: 0,
        };
        assemble(cell, expectation, &facts, case)
    }

    fn verdict(&self) -> Verdict {
        judge(&self.evidence()).verdict
    }
}

fn line(case: &str, nonce: &Nonce) -> Vec<u8> {
    let attempt = Attempt {
        case: case.to_owned(),
        nonce: nonce.clone(),
        issued: true,
        trace: Vec::new(),
        findings: Vec::new(),
        marker_found: None,
    };
    serde_json::to_vec(&attempt).unwrap()
}

#[test]
fn a_complete_proof_is_held() {
    assert_eq!(Scene::held().verdict(), Verdict::Held);
}

#[test]
fn an_agent_that_crashed_or_was_killed_proves_nothing() {
    let unseen = AgentEnd::Unseen("no such exec".to_owned());
    for end in [
        AgentEnd::Crashed(139),
        AgentEnd::Crashed(137),
        AgentEnd::TimedOut,
        unseen,
    ] {
        for lines in [Vec::new(), Scene::held().lines] {
            let mut scene = Scene {
                end: end.clone(),
                ..Scene::held()
            };
            if lines.is_empty() {
                scene.lines = lines;
            }
            assert_eq!(scene.verdict(), Verdict::Inconclusive, "{end:?}");
        }
    }
}

#[test]
fn a_witness_that_is_down_before_or_after_proves_nothing() {
    assert_eq!(
        Scene {
            before: Proof::new(),
            ..Scene::held()
        }
        .verdict(),
        Verdict::Inconclusive
    );
    assert_eq!(
        Scene {
            after: Proof::new(),
            ..Scene::held()
        }
        .verdict(),
        Verdict::Inconclusive
    );
    let deaf = Proof::from([Vantage::InternetUdp]);
    assert_eq!(
        Scene {
            before: deaf.clone(),
            after: deaf,
            ..Scene::held()
        }
        .verdict(),
        Verdict::Inconclusive
    );
    assert_eq!(
        Scene {
            settled: false,
            ..Scene::held()
        }
        .verdict(),
        Verdict::Inconclusive
    );
}

#[test]
fn lines_that_are_missing_double_malformed_or_a_strangers_are_errors() {
    let good = Scene::held();
    let twice = vec![good.lines[0].clone(), good.lines[0].clone()];
    let stranger = vec![good.lines[0].clone(), line("b", &fresh_nonce())];
    let malformed = vec![good.lines[0].clone(), b"{\"case\":".to_vec()];
    let forged = vec![line("a", &fresh_nonce())];
    for lines in [Vec::new(), twice, stranger, malformed, forged] {
        let scene = Scene {
            lines,
            nonce: good.nonce.clone(),
            ..Scene::held()
        };
        assert_eq!(scene.verdict(), Verdict::Error, "{:?}", scene.evidence().faults);
    }
}
