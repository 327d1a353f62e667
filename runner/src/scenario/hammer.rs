//! Hammering on the way out while something is done to the bundle.

use std::time::{Duration, Instant};

use base64::Engine as _;
use bollard::query_parameters::RestartContainerOptions;
use bottle_backend::{Labels, Resource, ResourceKind, Streams, patient, patient_ms};
use bottle_policy::BundleEvent;
use probe_spec::{Action, AgentCase, AgentEnd, AgentList, Attempt, Disturbance, Evidence, Nonce};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::search::contains;
use super::{Observation, Seen, attempt_in, evidence, plan_like, secrets};
use crate::agent::{AgentRun, attempt};
use crate::assemble::Heard;
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::{Fixture, launch_attached, launch_plan};
use crate::lab::Lab;
use crate::leaks::Planned;
use crate::processes;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;
use crate::template::fill;

/// How often the action is repeated, and the pause between. One takes the agent's patience, half a second at least, so all
/// after the first take longer than the standstill.
const TIMES: u32 = 4;
const PAUSE_MS: u64 = 50;
/// Limit of the whole.
const LIMIT: Duration = Duration::from_secs(60);
/// Within what time the bundle must have told of a first attempt, before something is done to it.
const RUN_UP: Duration = Duration::from_secs(15);
/// How long a bundle or daemon stays stopped.
const STANDSTILL: Duration = Duration::from_millis(500);
/// What a guest that hammers from its first instruction runs, and where it finds its cases.
const HAMMER: [&str; 2] = ["/bottle-probe", "hammer"];
const HAMMER_ENV: &str = "BOTTLE_HAMMER";
/// How long it hammers on after its bottle is up, and how many attempts it must have told of; an attempt that nobody refuses
/// takes the agent's whole patience.
const HAMMER_ON: Duration = Duration::from_millis(500);
const ATTEMPTS_HEARD: usize = 2;
/// Within what time.
const HEARD_WITHIN: Duration = Duration::from_secs(6);
/// Most that is read of it.
const OUTPUT_LIMIT: u64 = 4 << 20;
/// Within what time killed daemons must serve again, and must have told of an attempt.
const SERVES_WITHIN: Duration = Duration::from_secs(10);
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// What the engine's processes that keep containers have in their command line.
const KEEPER: &[u8] = b"containerd-shim";
/// Within what time a guest whose bundle is gone must have ended.
const GUEST_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Launches a bottle of its own, hammers, disturbs, and reports.
pub async fn perform(
    target: &Target<'_>,
    cell: &CaseCell,
    action: &Action,
    meanwhile: Disturbance,
    nonce: Nonce,
) -> Result<Evidence, SuiteError> {
    let lab = target.lab;
    let wanted = cell.case.spec.alive.iter().copied().collect();
    let before = target.prove_before(&wanted).await?;
    let started = crate::clock::now();
    let clock = Instant::now();
    let planned = plan_like(target, cell).await?;
    let action = fill(action, target.keys)?;
    let (fixture, observed) = if meanwhile == Disturbance::Start {
        from_first_instruction(lab, planned, case(action, &nonce)).await?
    } else {
        let fixture = launch_plan(lab, planned).await?;
        let observed = while_disturbed(lab, &fixture, meanwhile, action, &nonce).await;
        (fixture, observed)
    };
    let settled = target.settle().await;
    let after = target.prove_after(&wanted).await?;
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

/// Hammers in a bottle that is up while something is done to its bundle.
async fn while_disturbed(
    lab: &Lab,
    fixture: &Fixture,
    meanwhile: Disturbance,
    action: Action,
    nonce: &Nonce,
) -> Observation {
    let repeat = Action::Repeat {
        times: TIMES,
        pause_ms: patient_ms(PAUSE_MS),
        action: Box::new(action.clone()),
    };
    let list = AgentList {
        cases: vec![case(repeat, nonce)],
        parallel: 1,
    };
    let disturb = async {
        if is_hammered(fixture, nonce).await {
            disturb(lab, fixture, meanwhile).await
        } else {
            Err(format!(
                "the bundle told of no attempt within {} s, so nothing was done to it",
                patient(RUN_UP).as_secs()
            ))
        }
    };
    let batch = fresh_nonce();
    let (run, disturbed) = tokio::join!(attempt(fixture.place(), &list, &batch, patient(LIMIT)), disturb);
    // An agent that was cut off may have been faster than the end of its guest is seen.
    let guest_ended = run.end != AgentEnd::Clean
        && tokio::time::timeout(patient(GUEST_ENDS_WITHIN), fixture.bottle.wait_guest())
            .await
            .is_ok();
    let is_up_again = meanwhile == Disturbance::RestartDaemons && disturbed.is_ok() && !guest_ended;
    let mut observed = observe(&list, run, disturbed, guest_ended);
    if is_up_again {
        once_more(fixture, action, nonce, &mut observed).await;
    }
    observed
}

/// Whether an attempt has come to the bundle: then the agent is at work, however long the engine took to start it.
async fn is_hammered(fixture: &Fixture, nonce: &Nonce) -> bool {
    let deadline = Instant::now() + patient(RUN_UP);
    while Instant::now() < deadline {
        if !fixture.decisions(nonce).is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

fn case(action: Action, nonce: &Nonce) -> AgentCase {
    AgentCase {
        case: "case".to_owned(),
        nonce: nonce.clone(),
        ok: fresh_nonce(),
        action,
        limit_ms: u64::try_from(patient(LIMIT).as_millis()).unwrap_or(u64::MAX),
        // As short everywhere: of many attempts one is enough, and one that waits is one less.
        patience: 1,
    }
}

/// Launches a bottle whose guest hammers from its very first instruction, and listens until a while after the launch.
async fn from_first_instruction(
    lab: &Lab,
    mut planned: Planned,
    case: AgentCase,
) -> Result<(Fixture, Observation), SuiteError> {
    let json = serde_json::to_vec(&[&case]).unwrap_or_default();
    let guest = &mut planned.plan.guest;
    let hammer = HAMMER.map(str::to_owned).to_vec();
    // A leaky guest may have no init: its program is then the entry point.
    if guest.command.is_empty() {
        guest.entrypoint = hammer;
    } else {
        guest.command = hammer;
    }
    guest.env.insert(
        HAMMER_ENV.to_owned(),
        base64::engine::general_purpose::STANDARD.encode(json),
    );
    let fixture = launch_attached(lab, planned, true).await?;
    let lines = match fixture.bottle.guest_streams() {
        Some(streams) => heard(streams).await,
        None => Vec::new(),
    };
    Ok((fixture, observe_from_start(&case.nonce, &lines)))
}

/// The lines of a guest that never ends: those since its start, and those of a while after.
async fn heard(streams: Streams) -> Vec<Vec<u8>> {
    let Streams {
        stdin: _stdin,
        stdout,
        stderr: _stderr,
    } = streams;
    let mut lines = BufReader::new(stdout.take(OUTPUT_LIMIT)).split(b'\n');
    let begun = Instant::now();
    let mut heard = Vec::new();
    // Ends by its time: the guest goes on.
    let _ = tokio::time::timeout(patient(HEARD_WITHIN), async {
        while let Ok(Some(line)) = lines.next_segment().await {
            heard.push(line);
            if heard.len() >= ATTEMPTS_HEARD && begun.elapsed() >= patient(HAMMER_ON) {
                break;
            }
        }
    })
    .await;
    heard
}

/// What the lines of a guest that hammered from its first instruction came to.
fn observe_from_start(nonce: &Nonce, lines: &[Vec<u8>]) -> Observation {
    let mut observed = Observation::default();
    let mut attempts = Vec::new();
    for line in lines {
        match serde_json::from_slice::<Attempt>(line) {
            Ok(attempt) if attempt.nonce == *nonce => attempts.push(attempt),
            _ => {
                let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                observed
                    .faults
                    .push(format!("expected an attempt of the guest, found: {line}"));
            }
        }
    }
    let issued = attempts.iter().filter(|attempt| attempt.issued).count();
    // The first attempt is the one that this is about; by a later one the hammering is known to have gone on.
    observed.issued = issued > 1 && attempts.first().is_some_and(|attempt| attempt.issued);
    observed.note(format!(
        "hammered from the guest's first instruction: told of {} attempts, {issued} of them issued",
        attempts.len()
    ));
    let findings = attempts.iter().flat_map(|attempt| attempt.findings.iter().cloned());
    observed.findings.extend(findings);
    observed.findings.dedup();
    observed
        .trace
        .extend(attempts.into_iter().next().into_iter().flat_map(|first| first.trace));
    observed.agent = Some(if lines.is_empty() {
        AgentEnd::NotStarted("the guest printed nothing".to_owned())
    } else {
        AgentEnd::Clean
    });
    observed
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
    observed.take(super::Answer {
        faults: heard.faults_of("case"),
        attempt: heard.attempts.remove("case"),
        end: run.end,
    });
    observed
}

/// Does it; in words what was done, or why it could not be.
async fn disturb(lab: &Lab, fixture: &Fixture, what: Disturbance) -> Result<String, String> {
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
        Disturbance::RestartDaemons => {
            signal(&[daemon("pipelock")?, daemon("egress")?], Signal::KILL)?;
            served_again(fixture, 2).await
        }
        Disturbance::RestartBundle => {
            let options = RestartContainerOptions {
                t: Some(1),
                ..RestartContainerOptions::default()
            };
            let restarted = secrets::engine()?.restart_container(&bundle.id, Some(options)).await;
            what_a_restart_came_to(
                restarted.map_err(|error| error.to_string()),
                processes::parent(pid).is_some(),
            )
        }
        Disturbance::KillKeeper => {
            let keeper = processes::parent(pid).ok_or("the bundle's process has no parent")?;
            let line = std::fs::read(format!("/proc/{keeper}/cmdline")).unwrap_or_default();
            if !contains(&line, KEEPER) {
                return Err(format!(
                    "process {keeper}, the parent of the bundle's, is no process of the engine"
                ));
            }
            signal(&[keeper], Signal::KILL).map(|()| "killed the engine's process for the bundle".to_owned())
        }
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

/// A bundle is removed at its end, and its launcher takes down what is left of a bottle: either may come before the engine starts
/// it again, which then says that it cannot (20.10: "marked for removal"). That is an end of the bundle like any other.
fn what_a_restart_came_to(restarted: Result<(), String>, first_process_is_there: bool) -> Result<String, String> {
    match restarted {
        Ok(()) => Ok("restarted the bundle's container".to_owned()),
        Err(why) if !first_process_is_there => Ok(format!(
            "had the bundle's container restarted: it ended and was not started again ({why})"
        )),
        Err(why) => Err(why),
    }
}

/// Waits until the bundle has told of so many daemons that they serve again.
async fn served_again(fixture: &Fixture, daemons: usize) -> Result<String, String> {
    let deadline = Instant::now() + patient(SERVES_WITHIN);
    loop {
        let log = fixture.bottle.event_log();
        let again = log
            .iter()
            .filter(|event| matches!(event, BundleEvent::DaemonRestarted { .. }));
        let again = again.count();
        if again >= daemons {
            return Ok(format!("killed {daemons} daemons, which serve again"));
        }
        if Instant::now() > deadline {
            return Err(format!("{again} of {daemons} daemons serve again"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Attempts once more what was hammered: the proxy that came back must have refused this one, too.
async fn once_more(fixture: &Fixture, action: Action, nonce: &Nonce, observed: &mut Observation) {
    let before = fixture.decisions(nonce).len();
    observed.take(attempt_in(fixture, nonce, action).await);
    let deadline = Instant::now() + patient(TOLD_WITHIN);
    while fixture.decisions(nonce).len() == before {
        if Instant::now() > deadline {
            observed.issued = false;
            observed.note("the daemons that came back told of no further attempt");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    observed.note("the daemons that came back told of one more attempt");
}

async fn standstill(pids: &[i32]) -> Result<String, String> {
    use rustix::process::Signal;
    let told = |error: rustix::io::Errno| error.to_string();
    processes::signal(pids, Signal::STOP).map_err(told)?;
    tokio::time::sleep(patient(STANDSTILL)).await;
    processes::signal(pids, Signal::CONT).map_err(told)?;
    Ok(format!(
        "stopped {} processes for {} ms",
        pids.len(),
        patient(STANDSTILL).as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::told_to_end(AgentEnd::Crashed(143), true)]
    #[case::forgotten_by_the_engine(AgentEnd::Unseen("no such exec".to_owned()), true)]
    #[case::never_there(AgentEnd::NotStarted("no such file".to_owned()), false)]
    fn an_agent_that_went_with_its_guest_had_attempted_until_then(#[case] end: AgentEnd, #[case] attempted: bool) {
        let list = AgentList {
            cases: Vec::new(),
            parallel: 1,
        };
        let run = AgentRun {
            lines: Vec::new(),
            end,
            facts: Vec::new(),
        };
        let observed = observe(&list, run, Ok("killed the bundle's init".to_owned()), true);
        assert_eq!(observed.issued && observed.agent.is_none(), attempted);
    }

    #[rstest]
    #[case::restarted(Ok(()), true, true)]
    #[case::ended_and_removed(Err("marked for removal"), false, true)]
    #[case::never_touched(Err("no such container"), true, false)]
    fn a_bundle_that_ended_by_its_restart_was_disturbed(
        #[case] restarted: Result<(), &str>,
        #[case] first_process_is_there: bool,
        #[case] done: bool,
    ) {
        let came_to = what_a_restart_came_to(restarted.map_err(str::to_owned), first_process_is_there);
        assert_eq!(came_to.is_ok(), done, "{came_to:?}");
    }
}
