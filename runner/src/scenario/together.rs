//! All cases of a probe performed with the same bottles, each with a nonce of its own.

use std::collections::BTreeMap;

use probe_spec::{Action, Nonce, RunnerCase};

use super::{Observation, attempt_all_in};
use crate::fixture::Fixture;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// What each case came to, by its name.
pub struct Together(BTreeMap<String, Observation>);

impl Together {
    /// Nothing done yet, for each case of the probe; every one has a nonce of its own.
    pub fn begin(cell: &CaseCell) -> (Self, Vec<Member>) {
        let cases = probe_spec::probe(&cell.cell.probe).map(|probe| (probe.cases)());
        let mut observations = BTreeMap::new();
        let mut members = Vec::new();
        for case in cases.into_iter().flatten() {
            let probe_spec::How::Runner(what) = case.how else {
                continue;
            };
            let nonce = fresh_nonce();
            let observed = Observation {
                issued: true,
                nonce: Some(nonce.clone()),
                ..Observation::default()
            };
            observations.insert(case.name.clone(), observed);
            members.push(Member {
                name: case.name,
                what,
                nonce,
            });
        }
        (Self(observations), members)
    }

    /// Has one agent attempt the cases' actions one after another, and takes over what it reports of each.
    pub async fn attempt(&mut self, fixture: &Fixture, actions: Vec<(&Member, Nonce, Action)>) {
        let (cases, attempts): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .map(|(member, nonce, action)| (&member.name, (nonce, action)))
            .unzip();
        let answers = attempt_all_in(fixture, attempts).await;
        for (name, answer) in cases.into_iter().zip(answers) {
            if let Some(observed) = self.0.get_mut(name) {
                observed.take(answer);
            }
        }
    }

    /// Every case that is being observed.
    pub fn each(&mut self) -> impl Iterator<Item = &mut Observation> {
        self.0.values_mut()
    }

    /// One case that is being observed.
    pub fn member(&mut self, member: &Member) -> Option<&mut Observation> {
        self.0.get_mut(&member.name)
    }

    /// What a case came to.
    pub fn of(&self, cell: &CaseCell) -> Observation {
        let observed = self.0.get(&cell.cell.case).cloned();
        observed.unwrap_or_else(|| Observation::not_issued("the case was not performed with the others of its probe"))
    }
}

/// A case, what it does, and its nonce.
pub struct Member {
    name: String,
    /// What it does.
    pub what: RunnerCase,
    /// Its nonce.
    pub nonce: Nonce,
}
