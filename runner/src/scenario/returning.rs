//! LC-07: a bottle that comes back under the name of one that was stopped.

use bollard::query_parameters::RenameContainerOptions;
use bottle_backend::{ResourceKind, Role};
use bottle_plan::BackendKind;
use probe_spec::{Action, DecisionSeen, Nonce, Place as Search, ReturnCheck, RunnerCase, Vantage, world};

use super::asking::{ask, ask_with};
use super::together::Member;
use super::{Observation, Together, attempt_at, death, lifecycle, plan_like, secrets};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::{Fixture, launch_plan};
use crate::images::MARKER;
use crate::lab::Lab;
use crate::leaks::Planned;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// Launches a bottle, has it ask and write, renames and closes it, launches its plan again and looks. Two bottles serve all cases.
pub async fn perform(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let returned = target.shared.returned.get_or_try_init(|| returned(target, cell));
    Ok(returned.await?.of(cell))
}

/// What the former was told of its own requests.
struct Before {
    policy: Nonce,
    address: Nonce,
}

async fn returned(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let lab = target.lab;
    let (mut together, cases) = Together::begin(cell);
    let planned = plan_like(target, cell).await?;
    let again = Planned {
        plan: planned.plan.clone(),
        removed: planned.removed.clone(),
        token: planned.token.clone(),
        ..planned
    };
    let slug = again.plan.slug.clone();
    // A name whose address changes after the first look-up, and that nobody else asks for.
    let changing = format!("{slug}.flip.{}", world::REBIND);
    let before = Before {
        policy: fresh_nonce(),
        address: fresh_nonce(),
    };
    let former = launch_plan(lab, planned).await?;
    let actions = cases.iter().filter_map(|case| {
        let (nonce, action) = match check(case)? {
            ReturnCheck::Policy => (before.policy.clone(), ask(world::DENIED)),
            ReturnCheck::Address => (before.address.clone(), ask(&changing)),
            ReturnCheck::Data => (case.nonce.clone(), write()),
            ReturnCheck::Renamed => return None,
        };
        Some((case, nonce, action))
    });
    together.attempt(&former, actions.collect()).await;
    rename_and_close(lab, &former, &cases, &mut together).await?;
    let heir = launch_plan(lab, again).await?;
    let listener = lab.listener_in(heir.bottle.id(Role::Bundle)).await?;
    let actions = cases.iter().filter_map(|case| {
        let (nonce, action) = match check(case)? {
            ReturnCheck::Policy => (case.nonce.clone(), ask(world::DENIED)),
            ReturnCheck::Address => (case.nonce.clone(), look_up(&changing)),
            ReturnCheck::Data => (fresh_nonce(), search(&case.nonce)),
            ReturnCheck::Renamed => return None,
        };
        Some((case, nonce, action))
    });
    {
        // A run that has the names begin anew meanwhile would have the last look-up be a first one.
        let _names = lab.names.lock().await;
        together.attempt(&heir, actions.collect()).await;
    }
    let hears = hears(lab, &listener).await;
    target.settle().await;
    for case in &cases {
        let Some(observed) = together.member(case) else {
            continue;
        };
        match check(case) {
            Some(ReturnCheck::Policy) => compare(
                &former.decisions(&before.policy),
                &heir.decisions(&case.nonce),
                observed,
            ),
            Some(ReturnCheck::Address) => {
                let was_public = former.decisions(&before.address).iter().any(|one| !one.denied);
                let now = heir.decisions(&case.nonce);
                observed.note(format!("the former was led there: {was_public}; now: {now:?}"));
                observed.issued &= was_public && !now.is_empty();
                if hears {
                    observed.alive.push(Vantage::OwnBundle);
                }
            }
            _ => {}
        }
    }
    lifecycle::complain(lab.remove_container(&listener).await.into_iter().collect());
    let left = lifecycle::close(&*lab.backend, &heir).await?;
    together
        .each()
        .for_each(|observed| observed.trace.extend(left.iter().cloned()));
    lifecycle::sweep_up(&*lab.backend, &slug).await;
    Ok(together)
}

fn check(case: &Member) -> Option<ReturnCheck> {
    match case.what {
        RunnerCase::Return(check) => Some(check),
        _ => None,
    }
}

/// Renames the former's containers, closes it, and looks for what is left.
async fn rename_and_close(
    lab: &Lab,
    former: &Fixture,
    cases: &[Member],
    together: &mut Together,
) -> Result<(), SuiteError> {
    let backend = &*lab.backend;
    let slug = former.bottle.slug();
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    // smolvm has no command that gives a machine another name.
    let roles = match former.bottle.plan().backend {
        BackendKind::Docker => &[Role::Guest, Role::Bundle][..],
        BackendKind::Smolmachines => &[Role::Bundle],
    };
    for &role in roles {
        if let Err(problem) = rename(former.bottle.id(role)).await {
            observed.issued = false;
            observed.note(format!("the {role:?} could not be renamed: {problem}"));
        }
    }
    let there = death::by_label(backend, slug).await?;
    let containers = there.iter().filter(|one| one.kind == ResourceKind::Container);
    let names: Vec<&str> = containers.map(|one| one.name.as_str()).collect();
    observed.note(format!("before the stop: {}", names.join(", ")));
    if names.len() == 2 {
        observed.alive.push(Vantage::Inventory);
    }
    observed.findings.extend(lifecycle::close(backend, former).await?);
    let left = death::by_label(backend, slug).await?;
    observed
        .findings
        .extend(left.iter().map(|one| format!("left: {:?} {}", one.kind, one.name)));
    if !left.is_empty() {
        // Said once; the next bottle of the name is to be launched all the same.
        lifecycle::sweep_up(backend, slug).await;
        let _ = std::fs::remove_dir_all(former.bottle.state());
    }
    for case in cases.iter().filter(|case| check(case) == Some(ReturnCheck::Renamed)) {
        if let Some(renamed) = together.member(case) {
            let nonce = renamed.nonce.take();
            *renamed = Observation {
                nonce,
                ..observed.clone()
            };
        }
    }
    Ok(())
}

async fn rename(id: &str) -> Result<(), String> {
    let options = RenameContainerOptions {
        name: format!("renamed-{}", &id[..id.len().min(12)]),
    };
    let renamed = secrets::engine()?.rename_container(id, options).await;
    renamed.map_err(|error| error.to_string())
}

/// What was refused must be refused again, by the same rule.
fn compare(before: &[DecisionSeen], now: &[DecisionSeen], observed: &mut Observation) {
    observed.note(format!("decided before: {before:?}; now: {now:?}"));
    observed.issued &= !before.is_empty() && !now.is_empty();
    if observed.issued && before != now {
        observed.findings.push("the policy is another than before".to_owned());
    }
}

fn write() -> Action {
    Action::WriteEverywhere {
        text: "{nonce}".to_owned(),
        below: Vec::new(),
    }
}

fn search(nonce: &Nonce) -> Action {
    Action::Find {
        place: Search::Files,
        needles: vec![nonce.to_string()],
        marker: MARKER.to_owned(),
    }
}

/// Asks twice: whatever became of the witness's count meanwhile, the second look-up leads to another address than the former's.
fn look_up(host: &str) -> Action {
    Action::Sequence {
        actions: vec![ask_with(host, "{ok}"), ask(host)],
    }
}

/// Whether what reaches the heir's own loopback would be seen.
async fn hears(lab: &Lab, listener: &str) -> bool {
    let nonce = fresh_nonce();
    let action = Action::Tcp {
        to: format!("127.0.0.1:{}", world::BUNDLE_LOOPBACK_PORT),
        send: "{nonce}".to_owned(),
        from: None,
    };
    attempt_at(lab.control(listener), vec![(nonce.clone(), action)]).await;
    let limit = bottle_backend::patient(std::time::Duration::from_secs(2));
    lab.sightings.wait(&nonce, Vantage::OwnBundle, limit).await
}
