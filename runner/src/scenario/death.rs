//! LC-02: a launcher that dies.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_backend::{Backend, ResourceKind};
use bottle_docker::Docker;
use bottle_launch::{LaunchOptions, Secrets, SweepScope, launch, sweep};
use bottle_plan::{LABEL_SLUG, Plan};
use probe_spec::{ExitCode, LauncherDeath, Vantage};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Observation, lifecycle, plan_like};
use crate::batch::Target;
use crate::cli::LaunchArgs;
use crate::command::CommandError;
use crate::error::SuiteError;
use crate::fixture::TOKEN_ENV;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// Within what time a guest must have ended after its launcher.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Starts of launchers that come after one that died while launching.
const STARTS: u32 = 3;
/// Time between two of them.
const BETWEEN_STARTS: Duration = Duration::from_millis(700);
/// What the launcher says when its bottle is up.
const UP: &str = "up";

/// `__launch`: launches a plan, says so, and closes it when standard input ends or a signal comes.
pub async fn launcher(args: &LaunchArgs) -> Result<ExitCode, CommandError> {
    let failed = |source: std::io::Error| SuiteError::Path {
        path: args.plan.clone(),
        source,
    };
    let text = std::fs::read(&args.plan).map_err(failed)?;
    let plan: Plan = serde_json::from_slice(&text)?;
    let secrets = Secrets::from_env(&plan.token_env);
    let backend = Arc::new(Docker::connect().await.map_err(CommandError::NoEngine)?);
    let stop = signals();
    let mut options = LaunchOptions::new(args.run.clone(), &args.state);
    options.cancel = Some(stop.clone());
    let bottle = launch(plan, secrets, backend, options)
        .await
        .map_err(SuiteError::from)?;
    println!("{UP}");
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    tokio::select! {
        () = crate::interrupt::stopped(stop) => {}
        () = async { while matches!(input.read(&mut ignored).await, Ok(1..)) {} } => {}
    }
    let report = bottle.close().await;
    Ok(if report.is_clean() {
        ExitCode::Held
    } else {
        ExitCode::HarnessError
    })
}

/// Turns `true` at SIGINT, SIGTERM or SIGHUP.
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
    stopped
}

/// Starts a launcher of its own, ends it in this way, and looks for what is left: the guest must end by itself, the rest must
/// be gone after what the next launcher does at its start.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, death: LauncherDeath) -> Result<Observation, SuiteError> {
    let lab = target.lab;
    let plan = plan_like(target, cell).await?.plan;
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let mut child = match start(target, &plan) {
        Ok(child) => child,
        Err(error) => {
            return Ok(Observation::not_issued(format!(
                "no launcher could be started: {error}"
            )));
        }
    };
    let slug = plan.slug.as_str();
    let there = if death == LauncherDeath::KillWhileLaunching {
        wait_for_first_object(&*lab.backend, slug).await
    } else {
        wait_until_up(&mut child).await
    };
    if !there {
        let _ = child.kill().await;
        lifecycle::sweep_up(&*lab.backend, slug).await;
        return Ok(Observation::not_issued("the launcher did not come so far"));
    }
    let seen = lab
        .backend
        .inventory(LABEL_SLUG, Some(slug))
        .await
        .map_err(SuiteError::engine("listing a bottle"))?;
    observed.note(format!("{} objects before the launcher's end", seen.len()));
    if !seen.is_empty() {
        observed.alive.push(Vantage::Inventory);
    }
    end(&mut child, death, &mut observed).await;
    let containers = wait_for_containers(&*lab.backend, slug).await;
    observed.findings.extend(
        containers
            .into_iter()
            .map(|name| format!("runs on after its launcher: {name}")),
    );
    if plan.lifecycle.sweep {
        // A launcher that dies in the middle of a call leaves what the engine completes after that: the start after the next
        // finds it. One that was up had no call under way, and its next start must find all.
        for start in 0..STARTS {
            if start > 0 {
                tokio::time::sleep(BETWEEN_STARTS).await;
            }
            let scope = SweepScope {
                state_dir: Some(lab.state_dir()),
                run: None,
            };
            let swept = sweep(&*lab.backend, &scope)
                .await
                .map_err(SuiteError::engine("sweeping"))?;
            observed.note(format!(
                "the next launcher's sweep removed {} objects",
                swept.removed.len()
            ));
            if death != LauncherDeath::KillWhileLaunching && swept.failed.is_empty() {
                break;
            }
        }
    }
    let left = lab
        .backend
        .inventory(LABEL_SLUG, Some(slug))
        .await
        .map_err(SuiteError::engine("listing a bottle"))?;
    observed
        .findings
        .extend(left.into_iter().map(|one| format!("left: {:?} {}", one.kind, one.name)));
    let state = bottle_launch::state_path(&lab.state_dir(), slug);
    if state.exists() {
        observed.findings.push("left: the state directory".to_owned());
    }
    lifecycle::sweep_up(&*lab.backend, slug).await;
    let _ = std::fs::remove_dir_all(state);
    Ok(observed)
}

fn start(target: &Target<'_>, plan: &Plan) -> std::io::Result<Child> {
    let file = target.lab.directory.join(format!("{}.plan.json", plan.slug));
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
        .env(TOKEN_ENV, fresh_nonce().as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

async fn wait_until_up(child: &mut Child) -> bool {
    let Some(stdout) = child.stdout.take() else {
        return false;
    };
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
    matches!(line, Ok(Ok(Some(line))) if line == UP)
}

async fn wait_for_first_object(backend: &dyn Backend, slug: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(15);
    while Instant::now() < deadline {
        match backend.inventory(LABEL_SLUG, Some(slug)).await {
            Ok(found) if !found.is_empty() => return true,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    false
}

async fn end(child: &mut Child, death: LauncherDeath, observed: &mut Observation) {
    use rustix::process::Signal;
    let signal = match death {
        LauncherDeath::Kill | LauncherDeath::KillWhileLaunching => Signal::KILL,
        LauncherDeath::Interrupt => Signal::INT,
        LauncherDeath::Hangup => Signal::HUP,
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let sent = pid.map(|pid| crate::processes::signal(&[pid], signal));
    let ended = tokio::time::timeout(Duration::from_secs(40), child.wait()).await;
    observed.note(format!("{death:?}: {sent:?}, the launcher ended with {ended:?}"));
    if !matches!(ended, Ok(Ok(_))) {
        observed.findings.push("the launcher did not end".to_owned());
        let _ = child.kill().await;
    }
}

/// Containers that are still there after the time in which they must have ended.
async fn wait_for_containers(backend: &dyn Backend, slug: &str) -> Vec<String> {
    let deadline = Instant::now() + ENDS_WITHIN;
    loop {
        let left = backend.inventory(LABEL_SLUG, Some(slug)).await.unwrap_or_default();
        let mut running = Vec::new();
        for container in left.into_iter().filter(|one| one.kind == ResourceKind::Container) {
            // Created and never started: the sweep's.
            let seen = backend.observe(bottle_backend::Role::Guest, &container.id).await;
            if seen.is_ok_and(|seen| seen.running) {
                running.push(container.name);
            }
        }
        if running.is_empty() || Instant::now() > deadline {
            return running;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
