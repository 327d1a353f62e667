//! What the cases of one bottle share, so that a run costs no more than it must: proofs of the witnesses, and bottles that are
//! launched and stopped once for all who look at what is left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use probe_spec::Vantage;
use tokio::sync::OnceCell;

use crate::assemble::Proof;
use crate::batch::Target;
use crate::error::SuiteError;
use crate::proof::prove;
use crate::scenario::{Stopped, Together};

/// How old a proof may be that stands for "the witness worked before".
const FRESH: Duration = Duration::from_secs(15);

/// Shared by the cases of one bottle.
#[derive(Default)]
pub struct Shared {
    /// The latest proof of each witness.
    proved: Mutex<BTreeMap<Vantage, Proved>>,
    /// Witnesses whose proof is waited for.
    asked: Mutex<BTreeSet<Vantage>>,
    turn: tokio::sync::Mutex<()>,
    /// Held while an agent attempts a batch in the guest.
    pub guest: tokio::sync::Mutex<()>,
    /// A bottle of this kind that was launched and stopped, when the first case needs it.
    pub stopped: OnceCell<Stopped>,
    /// A bottle that came after another at the same address.
    pub heir: OnceCell<Together>,
    /// A bottle that came after another of the same image.
    pub next: OnceCell<Together>,
    /// A bottle that was stopped with processes in it that try to survive.
    pub survivors: OnceCell<Together>,
    /// A bottle that was cleaned up after.
    pub cleaned: OnceCell<Together>,
    /// Attacks on what this bottle shares.
    pub attacked_share: OnceCell<Together>,
}

/// One proof of one witness.
#[derive(Clone, Copy)]
struct Proved {
    begun: Instant,
    ended: Instant,
    works: bool,
}

impl Shared {
    /// A proof that ended before now of the `wanted` witnesses: a recent one, when it shows all of them; else a new one.
    pub async fn before(&self, target: &Target<'_>, wanted: &BTreeSet<Vantage>) -> Result<Proof, SuiteError> {
        let recent = self.proof_of(wanted, |proved| proved.ended.elapsed() < FRESH);
        match recent.filter(|proof| to_prove(wanted).all(|at| proof.contains(at))) {
            Some(proof) => Ok(proof),
            None => self.after(target, wanted).await,
        }
    }

    /// A proof of the `wanted` witnesses that was begun after now. All who ask while one is under way share the next.
    pub async fn after(&self, target: &Target<'_>, wanted: &BTreeSet<Vantage>) -> Result<Proof, SuiteError> {
        let now = Instant::now();
        lock(&self.asked).extend(to_prove(wanted));
        let _turn = self.turn.lock().await;
        if let Some(proof) = self.proof_of(wanted, |proved| proved.begun >= now) {
            return Ok(proof);
        }
        // Another's round that failed took the question with it.
        let mut asked = std::mem::take(&mut *lock(&self.asked));
        asked.extend(to_prove(wanted));
        let begun = Instant::now();
        let proof = prove(target.lab, target.fixture, target.peer, &asked).await?;
        let ended = Instant::now();
        tracing::debug!(took = ?ended - begun, missing = ?asked.difference(&proof).collect::<Vec<_>>(), "witnesses proved");
        let rounds = asked.iter().map(|at| {
            let works = proof.contains(at);
            (*at, Proved { begun, ended, works })
        });
        lock(&self.proved).extend(rounds);
        Ok(proof)
    }

    /// Which of the `wanted` witnesses work, when there is a proof of each that is good enough.
    fn proof_of(&self, wanted: &BTreeSet<Vantage>, is_good: impl Fn(&Proved) -> bool) -> Option<Proof> {
        let proved = lock(&self.proved);
        let mut proof = Proof::new();
        for at in to_prove(wanted) {
            let latest = proved.get(at).filter(|proved| is_good(proved))?;
            if latest.works {
                proof.insert(*at);
            }
        }
        Some(proof)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Witnesses that the life-cycle cases prove by themselves are not asked for.
fn to_prove(wanted: &BTreeSet<Vantage>) -> impl Iterator<Item = &Vantage> {
    let by_themselves = [Vantage::Inventory, Vantage::HostFiles];
    wanted.iter().filter(move |at| !by_themselves.contains(at))
}
