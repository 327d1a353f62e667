//! `bottle-probe list`: attempts a list of cases, and answers each with exactly one line.
//!
//! Every case runs in a thread of its own that is abandoned when its time is over; only the waiting worker writes the case's
//! line, so that a late case can never add a second one.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use probe_spec::{AgentCase, AgentList, AgentReady, Attempt, Nonce};
use serde::Serialize;

use crate::attempt;
use crate::notes::{Done, NotIssued, Notes, Run};
use crate::template::Words;

/// Longest list that is read.
const LIST_BYTES: u64 = 8 << 20;
/// Most cases at a time, whatever the list says.
const MOST_PARALLEL: usize = 64;
/// Exit status for bad input (EX_USAGE).
const BAD_INPUT: u8 = 64;
/// Exit status when standard output is gone (EX_IOERR).
const NO_OUTPUT: u8 = 74;

/// Reads the list from standard input and attempts it. `args` is what follows `list`.
pub fn main(args: &[String]) -> ExitCode {
    let batch_fits = match args {
        [] => true,
        [flag, batch] => flag == "--batch" && Nonce::try_from(batch.clone()).is_ok(),
        _ => false,
    };
    if !batch_fits {
        return bad_input("expected no arguments or `--batch NONCE`");
    }
    if write_line(&AgentReady {
        ready: std::process::id(),
    })
    .is_err()
    {
        return ExitCode::from(NO_OUTPUT);
    }
    let list = match read_list() {
        Ok(list) => list,
        Err(reason) => return bad_input(&reason),
    };
    match attempt_all(&list) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The reader is gone, and with it everybody who could be told.
            let _ = writeln!(
                io::stderr(),
                "bottle-probe: cannot write an answer to standard output: {error}"
            );
            ExitCode::from(NO_OUTPUT)
        }
    }
}

/// Writes one JSON line to standard output, as a whole and at once. The lock on standard output serialises all writers.
pub fn write_line(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// Attempts one case within its limit.
pub fn attempt_one(case: &AgentCase) -> Attempt {
    let notes = Notes::default();
    let limit = Duration::from_millis(case.limit_ms);
    let run = Run {
        notes: notes.clone(),
        words: Words {
            nonce: case.nonce.clone(),
            ok: case.ok.clone(),
        },
        deadline: Instant::now() + limit,
        patience: case.patience,
    };
    let (send, receive) = mpsc::sync_channel::<Done>(1);
    let action = case.action.clone();
    let started = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        // The worker may have given up on this case: then nobody listens.
        let _ = send.send(attempt::attempt(&run, &action));
    });
    let done = match started {
        Err(error) => Err(NotIssued::Agent(format!("no thread: {error}"))),
        Ok(_) => match receive.recv_timeout(limit) {
            Ok(done) => done,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(NotIssued::CutOff("its end by limit_ms")),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(NotIssued::Agent("its thread ended without an answer".into()))
            }
        },
    };
    if let Err(reason) = &done {
        notes.trace(format!("not issued: {reason}"));
    }
    let content = notes.content();
    Attempt {
        case: case.case.clone(),
        nonce: case.nonce.clone(),
        issued: done.is_ok(),
        trace: content.trace,
        findings: content.findings,
        marker_found: content.marker_found,
    }
}

/// Attempts all cases, at most `parallel` at a time.
fn attempt_all(list: &AgentList) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some(case) = list.cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            write_line(&attempt_one(case))?;
        }
        Ok(())
    };
    let workers = list.parallel.clamp(1, MOST_PARALLEL).min(list.cases.len().max(1));
    std::thread::scope(|scope| {
        // A worker that cannot be started is done without: this thread works too.
        let others: Vec<_> = (1..workers)
            .filter_map(|_| {
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, work)
                    .ok()
            })
            .collect();
        let mut result = work();
        for other in others {
            result = result.and(
                other
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a worker ended early"))),
            );
        }
        result
    })
}

/// The list on standard input.
fn read_list() -> Result<AgentList, String> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(LIST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read the list from standard input: {error}"))?;
    if text.len() as u64 > LIST_BYTES {
        return Err(format!(
            "expected a list of at most {LIST_BYTES} bytes on standard input"
        ));
    }
    let list: AgentList = serde_json::from_slice(&text)
        .map_err(|error| format!("expected an agent's list (JSON) on standard input: {error}"))?;
    let mut keys: Vec<&str> = list.cases.iter().map(|case| case.case.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("expected every case once, found `{}` twice", pair[0])),
        None => Ok(list),
    }
}

fn bad_input(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "bottle-probe: {reason}");
    ExitCode::from(BAD_INPUT)
}
