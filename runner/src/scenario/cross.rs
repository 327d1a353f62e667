//! XB-09, XB-10, XB-13, XB-14: what passes from one bottle to another.

use probe_spec::{Action, Nonce, Place as Search, RunnerCase};

use super::{Observation, Together, attempt_in, launch_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::images::MARKER;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;
use crate::template::fill;

fn write(places: &[&'static str]) -> Action {
    let below = places.iter().map(|place| (*place).to_owned()).collect();
    Action::WriteEverywhere {
        text: "{nonce}".to_owned(),
        below,
    }
}

fn search(nonce: &Nonce) -> Action {
    Action::Find {
        place: Search::Files,
        needles: vec![nonce.to_string()],
        marker: MARKER.to_owned(),
    }
}

/// The guest writes the nonce, a neighbour searches all its files.
pub async fn write_then_peer(
    target: &Target<'_>,
    cell: &CaseCell,
    places: &[&'static str],
    nonce: &Nonce,
) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    observed.take(attempt_in(target.fixture, nonce, write(places)).await);
    // A leak between bottles needs both to be leaky; as shipped, the run's own neighbour is one of them.
    if target.fixture.leak.is_some() {
        let other = launch_like(target, cell).await?;
        observed.take(attempt_in(&other, &fresh_nonce(), search(nonce)).await);
        observed.trace.extend(other.close(target.lab).await);
    }
    observed.take(attempt_in(target.peer, &fresh_nonce(), search(nonce)).await);
    Ok(observed)
}

/// The guest of one bottle writes a nonce for each case, is closed, and the guest of a fresh one of the same image searches.
/// Two bottles serve all cases.
pub async fn write_then_fresh(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let next = target.shared.next.get_or_try_init(|| written_then_fresh(target, cell));
    Ok(next.await?.of(cell))
}

async fn written_then_fresh(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let (mut next, cases) = Together::begin(cell);
    let writes = cases.iter().filter_map(|case| match &case.what {
        RunnerCase::WriteThenFreshSearches(places) => Some((case, case.nonce.clone(), write(places))),
        _ => None,
    });
    let first = launch_like(target, cell).await?;
    next.attempt(&first, writes.collect()).await;
    let mut left = first.close(target.lab).await;
    let fresh = launch_like(target, cell).await?;
    let searches = cases.iter().map(|case| (case, fresh_nonce(), search(&case.nonce)));
    next.attempt(&fresh, searches.collect()).await;
    left.extend(fresh.close(target.lab).await);
    next.each()
        .for_each(|observed| observed.trace.extend(left.iter().cloned()));
    Ok(next)
}

/// The peer does what its policy and token allow, then the bottle under test tries to profit from it.
pub async fn peer_then_self(
    target: &Target<'_>,
    peer: &Action,
    own: &Action,
    nonce: &Nonce,
) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    observed.take(attempt_in(target.peer, &fresh_nonce(), fill(peer, target.keys)?).await);
    observed.take(attempt_in(target.fixture, nonce, fill(own, target.keys)?).await);
    Ok(observed)
}
