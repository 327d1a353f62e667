//! `bottle-probe hammer`: the main command of a guest whose way out must be shut from its very first instruction.
//!
//! Attempts go on without a pause worth the name; lines are rationed, since a witness sees every attempt and a reader needs few.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use probe_spec::AgentCase;

use crate::{list, wait};

/// Where the cases are: base64 of the JSON of a list of cases. They hold nonces, no secrets.
const VARIABLE: &str = "BOTTLE_HAMMER";
/// Least time between two lines: twenty a second.
const LINE_TIME: Duration = Duration::from_millis(50);
/// Pause after a round, so that a guest with one processor still does something else.
const PAUSE: Duration = Duration::from_millis(2);

/// Attempts the cases in order, again and again, until TERM.
pub fn main(args: &[String]) -> ExitCode {
    let cases = match cases(args) {
        Ok(cases) => cases,
        Err(reason) => {
            eprintln!("bottle-probe: {reason}");
            return ExitCode::from(64);
        }
    };
    let mut last_line: Option<Instant> = None;
    let mut signals_watched = false;
    loop {
        for case in &cases {
            let attempt = list::attempt_one(case);
            if last_line.is_none_or(|last| last.elapsed() >= LINE_TIME) {
                last_line = Some(Instant::now());
                if list::write_line(&attempt).is_err() {
                    return ExitCode::from(74);
                }
            }
            if !signals_watched {
                // Only now: the first attempt is the first thing that happens.
                signals_watched = true;
                wait::end_on_signal();
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// From the environment, or from the file that the argument names.
fn cases(args: &[String]) -> Result<Vec<AgentCase>, String> {
    let json = match (std::env::var(VARIABLE), args) {
        (Ok(text), []) => STANDARD
            .decode(text.trim())
            .map_err(|error| format!("expected base64 in {VARIABLE}: {error}"))?,
        (_, [file]) => std::fs::read(file).map_err(|error| format!("cannot read cases from {file}: {error}"))?,
        _ => return Err(format!("expected cases in {VARIABLE}, or one argument: a file of them")),
    };
    let cases: Vec<AgentCase> =
        serde_json::from_slice(&json).map_err(|error| format!("expected a JSON list of cases: {error}"))?;
    if cases.is_empty() {
        Err("expected at least one case".to_owned())
    } else {
        Ok(cases)
    }
}
