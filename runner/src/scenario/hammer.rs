//! Hammering on the way out while something is done to the bundle.

use std::time::{Duration, Instant};

use bottle_backend::{Labels, Resource, ResourceKind};
use probe_spec::{Action, AgentCase, AgentEnd, AgentList, Disturbance, Evidence, Nonce};

use super::{Observation, Seen, evidence, plan_like};
use crate::agent::{AgentRun, Place, attempt};
use crate::assemble::Heard;
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::launch_plan;
use crate::lab::Lab;
use crate::processes;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;
use crate::template::fill;

/// How often the action is repeated, and the pause between: two seconds at least.
const TIMES: u32 = 12;
const PAUSE_MS: u64 = 150;
/// Limit of the whole.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the hammering goes on before something is done to the bundle.
const RUN_UP: Duration = Duration::from_millis(400);
/// How long a bundle or daemon stays stopped.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Within what time a guest whose bundle is gone must have ended.
const GUEST_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Launches a bottle of its own, hammers from the first moment its guest can run something, disturbs, and reports.
pub async fn perform(
    target: &Target<'_>,
    cell: &CaseCell,
    action: &Action,
    meanwhile: Disturbance,
    nonce: Nonce,
) -> Result<Evidence, SuiteError> {
    let lab = target.lab;
    let wanted = cell.case.spec.alive.iter().copied().collect();
    let before = target.prove(&wanted).await?;
    let started = crate::clock::now();
    let clock = Instant::now();
    let planned = plan_like(target, cell).await?;
    let guest = planned.plan.guest.name.clone();
    let repeat = Action::Repeat {
        times: TIMES,
        pause_ms: PAUSE_MS,
        action: Box::new(fill(action, target.keys)?),
    };
    let batch = fresh_nonce();
    let list = list(repeat, &nonce);
    let launching = launch_plan(lab, planned);
    let (fixture, run, disturbed) = if meanwhile == Disturbance::Start {
        // The agent is started as soon as the engine lets it, also when the launch is still going on.
        let (fixture, run) = tokio::join!(launching, hammer_when_possible(lab, &guest, &list, &batch));
        (fixture?, run, Ok("nothing but the start".to_owned()))
    } else {
        let fixture = launching.await?;
        let place = Place {
            backend: &*lab.backend,
            id: &fixture.bottle.guest().id,
            prefix: &[],
        };
        let disturb = async {
            tokio::time::sleep(RUN_UP).await;
            disturb(lab, &fixture, meanwhile).await
        };
        let (run, disturbed) = tokio::join!(attempt(place, &list, &batch, LIMIT), disturb);
        (fixture, run, disturbed)
    };
    // An agent that was cut off may have been faster than the end of its guest is seen.
    let guest_ended = run.end != AgentEnd::Clean
        && tokio::time::timeout(GUEST_ENDS_WITHIN, fixture.bottle.wait_guest())
            .await
            .is_ok();
    let observed = observe(&list, run, disturbed, guest_ended);
    let settled = target.settle().await;
    let after = target.prove(&wanted).await?;
    let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let seen = Seen {
        nonce,
        started,
        took_ms,
        settled,
        decisions: &fixture,
    };
    let evidence = evidence(target, cell, observed, &before, &after, seen);
    for left in fixture.close(lab).await {
        tracing::warn!(left, "after a disturbed bottle");
    }
    Ok(evidence)
}

fn list(action: Action, nonce: &Nonce) -> AgentList {
    let limit_ms = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
    let case = AgentCase {
        case: "case".to_owned(),
        nonce: nonce.clone(),
        ok: fresh_nonce(),
        action,
        limit_ms,
    };
    AgentList {
        cases: vec![case],
        parallel: 1,
    }
}

async fn hammer_when_possible(lab: &Lab, guest: &str, list: &AgentList, batch: &Nonce) -> AgentRun {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let run = attempt(
            Place {
                backend: &*lab.backend,
                id: guest,
                prefix: &[],
            },
            list,
            batch,
            LIMIT,
        )
        .await;
        if !matches!(run.end, AgentEnd::NotStarted(_)) || Instant::now() > deadline {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the hammering came to. A guest that ended together with its bundle is the design's own answer: its agent was attempting
/// until then, and can attempt nothing any more.
fn observe(list: &AgentList, run: AgentRun, disturbed: Result<String, String>, guest_ended: bool) -> Observation {
    let asked = crate::proof::asked(&list.cases);
    let mut heard = Heard::read(&asked, run.lines.iter().map(Vec::as_slice));
    heard.close(&asked, &run.end);
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    match disturbed {
        Ok(done) => observed.note(format!("done meanwhile: {done}")),
        Err(problem) => {
            observed.issued = false;
            observed.note(format!("could not be done: {problem}"));
        }
    }
    let started = !matches!(run.end, AgentEnd::NotStarted(_));
    if guest_ended && started {
        // Told to end by its init (143) or killed (137): what it had found by then counts all the same.
        observed.findings.extend(
            heard
                .attempts
                .remove("case")
                .into_iter()
                .flat_map(|attempt| attempt.findings),
        );
        observed.note(format!(
            "the guest ended with its bundle while the agent was hammering ({:?})",
            run.end
        ));
        return observed;
    }
    let attempt = heard.attempts.remove("case");
    let faults = heard
        .faults
        .into_values()
        .flatten()
        .chain(heard.shared_faults)
        .collect();
    observed.take(super::Answer {
        attempt,
        faults,
        end: run.end,
    });
    observed
}

/// Does it; in words what was done, or why it could not be.
async fn disturb(lab: &Lab, fixture: &crate::fixture::Fixture, what: Disturbance) -> Result<String, String> {
    let bundle = fixture.bottle.bundle();
    let pid = bundle.pid.ok_or("the bundle has no process id on this host")?;
    let daemon = |name: &str| processes::daemon_of(pid, name).ok_or(format!("the bundle runs no {name}"));
    let signal = |pids: &[i32], signal| processes::signal(pids, signal).map_err(|error| error.to_string());
    use rustix::process::Signal;
    match what {
        Disturbance::Start => Ok("nothing but the start".to_owned()),
        Disturbance::KillPipelock => {
            signal(&[daemon("pipelock")?], Signal::KILL).map(|()| "killed pipelock".to_owned())
        }
        Disturbance::KillEgress => signal(&[daemon("egress")?], Signal::KILL).map(|()| "killed egress".to_owned()),
        Disturbance::KillInit => signal(&[pid], Signal::KILL).map(|()| "killed the bundle's init".to_owned()),
        Disturbance::Reload => signal(&[pid], Signal::HUP).map(|()| "sent HUP to the bundle's init".to_owned()),
        Disturbance::FreezePipelock => standstill(&[daemon("pipelock")?]).await,
        Disturbance::PauseBundle => standstill(&processes::tree(pid)).await,
        Disturbance::RemoveBundle => {
            let resource = Resource {
                kind: ResourceKind::Container,
                name: bundle.applied.name.clone(),
                id: bundle.id.clone(),
                labels: Labels::new(),
            };
            let removed = lab.backend.remove(&resource).await;
            removed
                .map(|()| "removed the bundle's container".to_owned())
                .map_err(|error| error.to_string())
        }
    }
}

async fn standstill(pids: &[i32]) -> Result<String, String> {
    use rustix::process::Signal;
    let told = |error: rustix::io::Errno| error.to_string();
    processes::signal(pids, Signal::STOP).map_err(told)?;
    tokio::time::sleep(STANDSTILL).await;
    processes::signal(pids, Signal::CONT).map_err(told)?;
    Ok(format!(
        "stopped {} processes for {} s",
        pids.len(),
        STANDSTILL.as_secs()
    ))
}
