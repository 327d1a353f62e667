//! What the cases of one bottle share, so that a run costs no more than it must: proofs of the witnesses, and one bottle that is
//! stopped for all who look at what is left.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use probe_spec::Vantage;
use tokio::sync::OnceCell;

use crate::assemble::Proof;
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::lab::Lab;
use crate::proof::prove;
use crate::scenario::Stopped;

/// How old a proof may be that stands for "the witness worked before".
const FRESH: Duration = Duration::from_secs(15);

/// Shared by the cases of one bottle.
pub struct Shared {
    wanted: BTreeSet<Vantage>,
    latest: Mutex<Option<Round>>,
    turn: tokio::sync::Mutex<()>,
    /// Held while an agent attempts a batch in the guest.
    pub guest: tokio::sync::Mutex<()>,
    /// A bottle of this kind that was launched and stopped, when the first case needs it.
    pub stopped: OnceCell<Stopped>,
}

/// One proof of all witnesses.
#[derive(Clone)]
struct Round {
    begun: Instant,
    ended: Instant,
    proof: Proof,
}

impl Shared {
    /// Nothing proved yet. `wanted` are the witnesses that any case of the bottle needs.
    pub fn new(wanted: BTreeSet<Vantage>) -> Self {
        Self {
            wanted,
            latest: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            guest: tokio::sync::Mutex::default(),
            stopped: OnceCell::new(),
        }
    }

    /// A proof that ended before now: a recent one, when it shows every witness that is `wanted`; else a new one.
    pub async fn before(
        &self,
        lab: &Lab,
        fixture: &Fixture,
        peer: &Fixture,
        wanted: &BTreeSet<Vantage>,
    ) -> Result<Proof, SuiteError> {
        let recent = self
            .latest()
            .filter(|round| round.ended.elapsed() < FRESH && shows(&round.proof, wanted));
        match recent {
            Some(round) => Ok(round.proof),
            None => self.after(lab, fixture, peer).await,
        }
    }

    /// A proof that was begun after now. All who ask while one is under way share the next.
    pub async fn after(&self, lab: &Lab, fixture: &Fixture, peer: &Fixture) -> Result<Proof, SuiteError> {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(round) = self.latest().filter(|round| round.begun >= asked) {
            return Ok(round.proof);
        }
        let begun = Instant::now();
        let proof = prove(lab, fixture, peer, &self.wanted).await?;
        let ended = Instant::now();
        tracing::debug!(took = ?ended - begun, missing = ?self.wanted.difference(&proof).collect::<Vec<_>>(), "witnesses proved");
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Round {
            begun,
            ended,
            proof: proof.clone(),
        });
        Ok(proof)
    }

    fn latest(&self) -> Option<Round> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Witnesses that the life-cycle cases prove by themselves are in no proof, and not waited for.
fn shows(proof: &Proof, wanted: &BTreeSet<Vantage>) -> bool {
    let by_themselves = [Vantage::Inventory, Vantage::HostFiles];
    wanted.iter().all(|at| proof.contains(at) || by_themselves.contains(at))
}
