//! Ctrl-C: once stops cleanly, twice leaves at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Watches for SIGINT and SIGTERM. The receiver turns `true` at the first; at the second the process leaves with 130 and
/// says what stays behind.
pub fn watch(run: String) -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    // From here on, before anything is made that would have to be taken down, no signal is missed.
    let mut signals = Signals::listen();
    tokio::spawn(async move {
        let mut times = 0;
        while signals.next().await {
            times += 1;
            if times == 1 {
                eprintln!("stopping: taking everything down, then reporting what was judged (again to leave at once)");
                stop.send_replace(true);
            } else {
                eprintln!(
                    "left at once: containers, networks and volumes with the label bottle.run={run} stay; \
                     `bottle cleanup` removes them"
                );
                std::process::exit(i32::from(probe_spec::ExitCode::Interrupted.code()));
            }
        }
    });
    stopped
}

/// The signals that stop a run; those that cannot be listened to keep what they do by default.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    fn listen() -> Self {
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Waits for a signal; `false` when none can come.
    async fn next(&mut self) -> bool {
        if self.interrupt.is_none() && self.terminate.is_none() {
            return false;
        }
        tokio::select! {
            came = of(&mut self.interrupt) => came,
            came = of(&mut self.terminate) => came,
        }
    }
}

async fn of(signal: &mut Option<Signal>) -> bool {
    match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// Waits until the run is to stop.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody can stop it any more.
        std::future::pending::<()>().await;
    }
}
