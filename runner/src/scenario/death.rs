//! LC-02: a launcher that dies.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_backend::{Backend, Resource, ResourceKind, patient};
use bottle_docker::Docker;
use bottle_launch::{LaunchOptions, Secrets, Step, SweepScope, launch, sweep};
use bottle_plan::{BackendKind, LABEL_SLUG, Plan};
use probe_spec::{ExitCode, LauncherDeath, Vantage};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::inventory::Marks;
use super::leftovers::{self, Leftovers};
use super::{Observation, lifecycle, plan_like};
use crate::agent::last_words;
use crate::batch::Target;
use crate::cli::LaunchArgs;
use crate::command::{CommandError, smolmachines};
use crate::error::SuiteError;
use crate::fixture::TOKEN_ENV;
use crate::lab::Lab;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// How long a launch may take.
const LAUNCH_LIMIT: Duration = Duration::from_secs(30);
/// Within what time a guest must have ended after its launcher.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Starts of launchers that come after one that died while launching.
const STARTS: u32 = 3;
/// Time between two of them.
const BETWEEN_STARTS: Duration = Duration::from_millis(700);
/// What the launcher says when its bottle is up.
const UP: &str = "up";

/// `__launch`: launches a plan, says so, and closes it when standard input ends or a signal comes. Never outlives the suite that
/// started it.
pub async fn launcher(args: &LaunchArgs) -> Result<ExitCode, CommandError> {
    // A suite that is killed, or leaves at once, stops nobody; a launcher that stopped itself would stay for ever, its bottle with
    // it, since no sweep touches a living owner's. prctl(2) refuses only what is no signal.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let failed = |source: std::io::Error| SuiteError::Path {
        path: args.plan.clone(),
        source,
    };
    let text = std::fs::read(&args.plan).map_err(failed)?;
    let plan: Plan = serde_json::from_slice(&text)?;
    let secrets = Secrets::from_env(&plan.token_env);
    let docker = Arc::new(Docker::connect().await.map_err(CommandError::NoEngine)?);
    let backend: Arc<dyn Backend> = match plan.backend {
        BackendKind::Docker => docker,
        BackendKind::Smolmachines => smolmachines(docker).await.map_err(CommandError::NoEngine)?,
    };
    let stop = signals();
    let mut options = LaunchOptions::new(args.run.clone(), &args.state);
    options.cancel = Some(stop.clone());
    if let Some(step) = args.stop_after.clone() {
        stop_after(&mut options, step);
    }
    let bottle = launch(plan, secrets, backend, options)
        .await
        .map_err(SuiteError::from)?;
    println!("{UP}");
    crate::interrupt::stopped(stop).await;
    let report = bottle.close().await;
    Ok(if report.is_clean() {
        ExitCode::Held
    } else {
        ExitCode::HarnessError
    })
}

/// Turns `true` at SIGINT, SIGTERM or SIGHUP, and when standard input ends, as it does with the suite where no signal tells of that.
fn signals() -> tokio::sync::watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let stop = stop.clone();
        if let Ok(mut signal) = signal(kind) {
            tokio::spawn(async move {
                signal.recv().await;
                stop.send_replace(true);
            });
        }
    }
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
        stop.send_replace(true);
    });
    stopped
}

/// Launchers of machines that may be on their way at once.
static LAUNCHERS: Semaphore = Semaphore::const_new(1);

/// Starts a launcher of its own, ends it in this way, and looks for what is left: the guest must end by itself, the rest must
/// be gone after what the next launcher does at its start.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, death: LauncherDeath) -> Result<Observation, SuiteError> {
    let lab = target.lab;
    let planned = plan_like(target, cell).await?;
    let (plan, removed) = (planned.plan, planned.removed);
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    // Each machine wants a processor for itself until it is up, and the time to wait for is one launch's.
    let turn = match plan.backend {
        BackendKind::Smolmachines => LAUNCHERS.acquire().await.ok(),
        BackendKind::Docker => None,
    };
    let mut child = match start(target, &plan, death) {
        Ok(child) => child,
        Err(error) => {
            return Ok(Observation::not_issued(format!(
                "no launcher could be started: {error}"
            )));
        }
    };
    let slug = plan.slug.as_str();
    let there = match death {
        LauncherDeath::KillWhileLaunching => wait_for_first_object(&*lab.backend, slug).await,
        _ if stops_after(death).is_some() => wait_until_stopped(&mut child, &mut observed).await,
        _ => wait_until_up(&mut child).await,
    };
    drop(turn);
    if !there {
        let words = end_early(&mut child).await;
        lifecycle::sweep_up(&*lab.backend, slug).await;
        return Ok(Observation::not_issued(format!(
            "the launcher did not come so far; it said `{words}`"
        )));
    }
    let seen = by_label(&*lab.backend, slug).await?;
    let state = bottle_launch::state_path(&lab.state_dir(), slug);
    observed.note(format!("{} objects before the launcher's end", seen.len()));
    if death == LauncherDeath::KillByName {
        see_others(lab, &mut observed).await;
    } else if !seen.is_empty() || sees_living(target).await? {
        observed.alive.push(Vantage::Inventory);
    }
    if death == LauncherDeath::KillBeforeReadiness {
        let running = running(&*lab.backend, slug).await.into_iter();
        let guests = running.filter(|name| name.ends_with("-guest"));
        observed
            .findings
            .extend(guests.map(|name| format!("runs though its bundle was never ready: {name}")));
    }
    let leftovers = if removed.leaves_by_name {
        Some(Leftovers::make(lab, slug).await)
    } else {
        None
    };
    end(&mut child, death, &mut observed).await;
    let containers = wait_for_containers(&*lab.backend, slug).await;
    let mut findings: Vec<String> = containers
        .into_iter()
        .map(|name| format!("runs on after its launcher: {name}"))
        .collect();
    if plan.lifecycle.sweep {
        next_starts(target, death, &mut observed).await?;
    }
    let left = by_label(&*lab.backend, slug).await?;
    findings.extend(left.into_iter().map(|one| format!("left: {:?} {}", one.kind, one.name)));
    if state.exists() {
        findings.push("left: the state directory".to_owned());
    }
    if death != LauncherDeath::KillByName {
        observed.findings.append(&mut findings);
    }
    // The state directory is counted above; it bears the name too.
    let _ = std::fs::remove_dir_all(state);
    let _ = std::fs::remove_file(plan_file(target, &plan));
    by_name(&*lab.backend, slug, &mut observed).await;
    lifecycle::sweep_up(&*lab.backend, slug).await;
    if let Some(leftovers) = leftovers {
        lifecycle::complain(leftovers.remove(&*lab.backend).await);
    }
    Ok(observed)
}

pub(super) async fn by_label(backend: &dyn Backend, slug: &str) -> Result<Vec<Resource>, SuiteError> {
    let found = backend.inventory(LABEL_SLUG, Some(slug)).await;
    found.map_err(SuiteError::engine("listing a bottle"))
}

/// Shows that a bottle would be seen: the one under test is. One whose launch was cut off may have made nothing yet, or was swept
/// by any other launcher of the run meanwhile.
async fn sees_living(target: &Target<'_>) -> Result<bool, SuiteError> {
    let living = &target.fixture.bottle;
    let seen = by_label(&*target.lab.backend, living.slug()).await?;
    Ok(!seen.is_empty() && living.state().exists())
}

/// Shows that what bears a name without a label would be seen.
async fn see_others(lab: &Lab, observed: &mut Observation) {
    let mut all = true;
    for (kind, found) in lifecycle::seen_of_others(lab).await {
        all &= found.as_ref().is_ok_and(|found| !found.is_empty());
        observed.note(format!("{kind:?} under another name: {found:?}"));
    }
    if all {
        observed.alive.push(Vantage::Inventory);
    }
}

/// Finds what bears the bottle's name, in the engine without its label, and on the host.
async fn by_name(backend: &dyn Backend, slug: &str, observed: &mut Observation) {
    let marks = Marks::named(slug);
    for kind in leftovers::KINDS {
        match marks.inventory(backend, kind).await {
            Ok(left) => observed
                .findings
                .extend(left.into_iter().map(|left| format!("left by name: {kind:?} {left}"))),
            Err(problem) => {
                observed.issued = false;
                observed.note(format!("{kind:?}: {problem}"));
            }
        }
    }
}

/// Sweeps as the launchers do that are started next.
async fn next_starts(target: &Target<'_>, death: LauncherDeath, observed: &mut Observation) -> Result<(), SuiteError> {
    // A launcher that dies in the middle of a call leaves what the engine completes after that: the start after the next
    // finds it. One that was up had no call under way, and its next start must find all.
    for start in 0..STARTS {
        if start > 0 {
            tokio::time::sleep(patient(BETWEEN_STARTS)).await;
        }
        let scope = SweepScope::all(target.lab.state_dir());
        let swept = sweep(&*target.lab.backend, &scope)
            .await
            .map_err(SuiteError::engine("sweeping"))?;
        observed.note(format!(
            "the next launcher's sweep removed {} objects",
            swept.removed.len()
        ));
        let was_up = death != LauncherDeath::KillWhileLaunching && stops_after(death).is_none();
        if was_up && swept.failed.is_empty() {
            break;
        }
    }
    Ok(())
}

pub(super) fn plan_file(target: &Target<'_>, plan: &Plan) -> PathBuf {
    target.lab.directory.join(format!("{}.plan.json", plan.slug))
}

/// Starts a launcher of its own, which stops by itself where the death is one of a step.
pub(super) fn start(target: &Target<'_>, plan: &Plan, death: LauncherDeath) -> std::io::Result<Child> {
    let file = plan_file(target, plan);
    std::fs::write(&file, serde_json::to_vec(plan)?)?;
    let program = target.lab.program.clone().map_or_else(std::env::current_exe, Ok)?;
    Command::new(program)
        .arg("__launch")
        .arg("--plan")
        .arg(file)
        .arg("--state")
        .arg(target.lab.state_dir())
        .arg("--run")
        .arg(&target.lab.run)
        .args(stops_after(death).into_iter().flat_map(|step| ["--stop-after", step]))
        .env(TOKEN_ENV, fresh_nonce().as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

pub(super) async fn wait_until_up(child: &mut Child) -> bool {
    let Some(stdout) = child.stdout.take() else {
        return false;
    };
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(patient(LAUNCH_LIMIT), lines.next_line()).await;
    matches!(line, Ok(Ok(Some(line))) if line == UP)
}

/// Ends a launcher; what it said of its own end.
async fn end_early(child: &mut Child) -> String {
    let _ = child.kill().await;
    let Some(stderr) = child.stderr.take() else {
        return String::new();
    };
    let words = tokio::time::timeout(Duration::from_secs(1), last_words(stderr)).await;
    words.unwrap_or_default().trim().to_owned()
}

async fn wait_for_first_object(backend: &dyn Backend, slug: &str) -> bool {
    let deadline = Instant::now() + patient(Duration::from_secs(15));
    while Instant::now() < deadline {
        match backend.inventory(LABEL_SLUG, Some(slug)).await {
            Ok(found) if !found.is_empty() => return true,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    false
}

pub(super) async fn end(child: &mut Child, death: LauncherDeath, observed: &mut Observation) {
    use rustix::process::Signal;
    let signal = match death {
        LauncherDeath::Interrupt => Signal::INT,
        LauncherDeath::Hangup => Signal::HUP,
        _ => Signal::KILL,
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let sent = pid.map(|pid| crate::processes::signal(&[pid], signal));
    let ended = tokio::time::timeout(patient(Duration::from_secs(40)), child.wait()).await;
    observed.note(format!("{death:?}: {sent:?}, the launcher ended with {ended:?}"));
    if !matches!(ended, Ok(Ok(_))) {
        observed.findings.push("the launcher did not end".to_owned());
        let _ = child.kill().await;
    }
}

/// Containers that are still there after the time in which they must have ended.
pub(super) async fn wait_for_containers(backend: &dyn Backend, slug: &str) -> Vec<String> {
    let deadline = Instant::now() + patient(ENDS_WITHIN);
    loop {
        let running = running(backend, slug).await;
        if running.is_empty() || Instant::now() > deadline {
            return running;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Containers that run. Those that were created and never started are the sweep's.
async fn running(backend: &dyn Backend, slug: &str) -> Vec<String> {
    let mut running = Vec::new();
    let left = backend.inventory(LABEL_SLUG, Some(slug)).await.unwrap_or_default();
    for container in left.into_iter().filter(|one| one.kind == ResourceKind::Container) {
        let seen = backend.observe(bottle_backend::Role::Guest, &container.id).await;
        if seen.is_ok_and(|seen| seen.running) {
            running.push(container.name);
        }
    }
    running
}

/// The step of its launch after which a launcher stops by itself, to be killed there.
fn stops_after(death: LauncherDeath) -> Option<&'static str> {
    match death {
        LauncherDeath::KillAfterStep(step) => Some(step),
        LauncherDeath::KillBeforeReadiness => Some("bundle"),
        _ => None,
    }
}

/// Waits for a launcher that stops itself; whether it did. It lives until it is killed, so that no other launcher of the run sweeps
/// what is looked at before that.
async fn wait_until_stopped(child: &mut Child, observed: &mut Observation) -> bool {
    let deadline = Instant::now() + patient(LAUNCH_LIMIT);
    while Instant::now() < deadline {
        if child.id().is_some_and(is_stopped) {
            return true;
        }
        if let Ok(Some(ended)) = child.try_wait() {
            observed.note(format!("the launcher ended with {ended}"));
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// proc_pid_stat(5): the state comes after the name in brackets.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Has this process stopped as soon as a launch goes on after having noted a step of this kind: when it notes the next, or says
/// what it does next.
fn stop_after(options: &mut LaunchOptions, step: String) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let is_noted = Arc::new(AtomicBool::new(false));
    let go_on = {
        let is_noted = is_noted.clone();
        move || {
            if is_noted.load(Ordering::SeqCst) {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            }
        }
    };
    options.progress = Some(Arc::new({
        let go_on = go_on.clone();
        move |_: &str| go_on()
    }));
    options.noted = Some(Arc::new(move |noted: &Step| {
        go_on();
        if noted.kind.name() == step {
            is_noted.store(true, Ordering::SeqCst);
        }
    }));
}

#[cfg(test)]
mod tests {
    use bottle_launch::StepKind;

    use super::*;

    #[test]
    fn a_launcher_is_killed_after_every_step_of_its_teardown() {
        let probe = probe_spec::probe("LC-03").unwrap();
        let covered: Vec<&str> = (probe.cases)()
            .iter()
            .filter_map(|case| match case.how {
                probe_spec::How::Runner(probe_spec::RunnerCase::LauncherDeath(LauncherDeath::KillAfterStep(step))) => {
                    Some(step)
                }
                _ => None,
            })
            .collect();
        let steps: Vec<&str> = StepKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(covered, steps);
    }
}
