//! LC-06: processes of a guest after its bottle's stop.

use std::time::{Duration, Instant};

use probe_spec::{Action, Nonce, RunnerCase, Vantage};

use super::{Observation, Together, launch_like, lifecycle};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::processes;
use crate::selection::CaseCell;

/// Within what time the host must see a process that the agent says it started, and must not see it any more after the stop.
const BOUND: Duration = Duration::from_secs(5);

/// Starts the processes, closes the bottle and looks for them. One bottle serves all cases.
pub async fn perform(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let survivors = target.shared.survivors.get_or_try_init(|| stopped(target, cell));
    Ok(survivors.await?.of(cell))
}

async fn stopped(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let (mut together, cases) = Together::begin(cell);
    let fixture = launch_like(target, cell).await?;
    let starts = cases.iter().filter_map(|case| match case.what {
        RunnerCase::Survivor(how) => {
            let text = case.nonce.to_string();
            Some((case, case.nonce.clone(), Action::Survive { how, text }))
        }
        _ => None,
    });
    together.attempt(&fixture, starts.collect()).await;
    for case in &cases {
        let seen = wait(&case.nonce, |seen| !seen.is_empty()).await;
        if let Some(observed) = together.member(case) {
            observed.note(format!("while it was up: {seen:?}"));
            if !seen.is_empty() {
                observed.alive.push(Vantage::HostProcess);
            }
        }
    }
    let problems = lifecycle::close(&*target.lab.backend, &fixture).await?;
    for case in &cases {
        let left = wait(&case.nonce, <[String]>::is_empty).await;
        if let Some(observed) = together.member(case) {
            observed.trace.extend(problems.iter().cloned());
            let left = left.into_iter().map(|left| format!("runs after the stop: {left}"));
            observed.findings.extend(left);
        }
    }
    lifecycle::sweep_up(&*target.lab.backend, fixture.bottle.slug()).await;
    Ok(together)
}

/// The processes of the host with this nonce in their arguments, as soon as they are as expected, or at the bound.
async fn wait(nonce: &Nonce, is_expected: impl Fn(&[String]) -> bool) -> Vec<String> {
    let deadline = Instant::now() + BOUND;
    loop {
        let seen = bearers(nonce);
        if is_expected(&seen) || Instant::now() > deadline {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn bearers(nonce: &Nonce) -> Vec<String> {
    let bears = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|word| word == nonce.as_str().as_bytes())
    };
    let all = processes::all().into_iter().filter(bears);
    all.map(|pid| format!("process {pid}")).collect()
}
