//! XB-09, XB-10, XB-13, XB-14: what passes from one bottle to another.

use probe_spec::{Action, Nonce, Place as Search};

use super::{Observation, attempt_in, launch_like};
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

/// The guest of one bottle writes the nonce, is closed, and the guest of a fresh one of the same image searches.
pub async fn write_then_fresh(
    target: &Target<'_>,
    cell: &CaseCell,
    places: &[&'static str],
    nonce: &Nonce,
) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let first = launch_like(target, cell).await?;
    observed.take(attempt_in(&first, nonce, write(places)).await);
    observed.trace.extend(first.close(target.lab).await);
    let fresh = launch_like(target, cell).await?;
    observed.take(attempt_in(&fresh, &fresh_nonce(), search(nonce)).await);
    observed.trace.extend(fresh.close(target.lab).await);
    Ok(observed)
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
