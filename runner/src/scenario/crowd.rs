//! XB-15: several bottles that start, work and stop at once.

use bottle_policy::AllowRule;
use futures_util::future::join_all;
use probe_spec::{Action, Nonce, Vantage, world};

use super::asking::{ask, tunnel};
use super::{Observation, attempt_all_in, death, lifecycle, plan_like};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::{Fixture, launch_plan};
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// How many, beside the bottle under test and its neighbour.
const CROWD: usize = 3;
/// Port of each one's own host.
const PORT: u16 = 80;

/// One of them, with the nonces that it must be served for.
struct One {
    fixture: Fixture,
    host: String,
    own: Nonce,
    route: Nonce,
}

/// Launches them at once, has them ask at once, closes them at once.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, nonce: &Nonce) -> Result<Observation, SuiteError> {
    let lab = target.lab;
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let mut planned = Vec::new();
    for _ in 0..CROWD {
        let mut one = plan_like(target, cell).await?;
        one.plan.config.policy.allow = vec![AllowRule {
            host: host_of(&one.plan.slug),
            ports: vec![PORT],
        }];
        planned.push(one);
    }
    let launched = join_all(planned.into_iter().map(|planned| launch_plan(lab, planned))).await;
    let mut crowd = Vec::new();
    let mut failure = None;
    for fixture in launched {
        match fixture {
            Ok(fixture) => crowd.push(One {
                host: host_of(fixture.bottle.slug()),
                fixture,
                own: fresh_nonce(),
                route: fresh_nonce(),
            }),
            Err(error) => failure = Some(error),
        }
    }
    if failure.is_none() {
        join_all(
            crowd
                .iter()
                .map(|one| attempt_all_in(&one.fixture, actions(one, &crowd, nonce))),
        )
        .await
        .into_iter()
        .flatten()
        .for_each(|answer| observed.take(answer));
        target.settle().await;
        for one in &crowd {
            judge(target, one, &crowd, nonce, &mut observed);
        }
    }
    let closed = join_all(crowd.iter().map(|one| lifecycle::close(&*lab.backend, &one.fixture))).await;
    for (one, problems) in crowd.iter().zip(closed) {
        observed.findings.extend(problems?);
        observed.trace.extend(one.fixture.disconnect(lab).await);
        let left = death::by_label(&*lab.backend, one.fixture.bottle.slug()).await?;
        let left = left
            .into_iter()
            .map(|left| format!("left: {:?} {}", left.kind, left.name));
        observed.findings.extend(left);
    }
    failure.map_or(Ok(observed), Err)
}

/// A host that only the bottle of this name may reach.
fn host_of(slug: &str) -> String {
    format!("{slug}.{}", world::WILDCARD)
}

/// What one asks for: its own host, its own route, and what only the others may.
fn actions(one: &One, crowd: &[One], nonce: &Nonce) -> Vec<(Nonce, Action)> {
    let others = crowd.iter().filter(|other| other.host != one.host);
    let others = others.map(|other| other.host.as_str()).chain([world::PEER_ROUTE]);
    let mut actions = vec![
        (one.own.clone(), ask(&one.host)),
        (one.route.clone(), tunnel(world::ROUTE)),
    ];
    actions.extend(others.map(|host| (nonce.clone(), ask(host))));
    actions
}

/// Who decided on what one asked for, and which token arrived with it.
fn judge(target: &Target<'_>, one: &One, crowd: &[One], nonce: &Nonce, observed: &mut Observation) {
    let slug = one.fixture.bottle.slug();
    let all = crowd.iter().map(|other| &other.fixture);
    let others = all.chain([target.fixture, target.peer]);
    let others: Vec<&Fixture> = others.filter(|other| other.bottle.slug() != slug).collect();
    for asked in [&one.own, &one.route] {
        for other in &others {
            if !other.decisions(asked).is_empty() {
                let whose = other.bottle.slug();
                observed
                    .findings
                    .push(format!("a request of {slug} was decided on by the bundle of {whose}"));
            }
        }
        if !target.lab.sightings.has(asked, Vantage::Origin) {
            observed.issued = false;
            observed.note(format!("an allowed request of {slug} was not seen"));
        }
    }
    let arrived = target.lab.sightings.of(&one.route);
    let with = |token: &Nonce| arrived.iter().any(|seen| seen.nonces.contains(token));
    if !with(&one.fixture.token) {
        observed.issued = false;
        observed.note(format!("the token of {slug} was not seen on its route"));
    }
    let borrowed = others.iter().filter(|other| with(&other.token));
    let borrowed = borrowed.map(|other| format!("{slug} was served with the token of {}", other.bottle.slug()));
    observed.findings.extend(borrowed);
    let refused = one.fixture.decisions(nonce);
    observed.note(format!("{slug} was told: {refused:?}"));
    if refused.is_empty() {
        observed.issued = false;
    } else if refused.iter().any(|decision| !decision.denied) {
        observed
            .findings
            .push(format!("{slug} was allowed what only others are"));
    }
}
