//! What is going on, when it takes longer than a second and somebody looks.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_launch::Progress;
use tokio::task::JoinHandle;

/// Nothing is shown before.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);

/// A line on standard error that is rewritten in place and is gone at the end.
pub struct ProgressLine {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    doing: String,
    shown: String,
    is_over: bool,
}

impl ProgressLine {
    /// Starts one; `None` when standard error is no terminal, or logs are written there.
    pub fn start(verbose: bool) -> Option<Self> {
        if verbose || !std::io::stderr().is_terminal() {
            return None;
        }
        let state = Arc::new(Mutex::new(State::default()));
        let seen = state.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            loop {
                show(&seen);
                tokio::time::sleep(STEP).await;
            }
        });
        Some(Self { state, task })
    }

    /// Where the launch tells what it does.
    pub fn progress(&self) -> Progress {
        let state = self.state.clone();
        Arc::new(move |what: &str| locked(&state).doing = what.to_owned())
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.task.abort();
        let mut state = locked(&self.state);
        state.is_over = true;
        if !state.shown.is_empty() {
            write("\r\x1b[K");
        }
    }
}

fn show(state: &Mutex<State>) {
    let mut state = locked(state);
    if !state.is_over && state.shown != state.doing {
        write(&format!("\r\x1b[Kbottle: {}", state.doing));
        state.shown = state.doing.clone();
    }
}

fn locked(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Progress that cannot be shown is no reason to stop.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
