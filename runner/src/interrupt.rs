//! Ctrl-C: once stops cleanly, twice leaves at once.

use tokio::sync::watch;

/// Watches for SIGINT and SIGTERM. The receiver turns `true` at the first; at the second the process leaves with 130 and
/// says what stays behind.
pub fn watch(run: String) -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let mut times = 0;
        while next().await {
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

/// Waits for a signal; `false` when none can come.
async fn next() -> bool {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return tokio::signal::ctrl_c().await.is_ok();
    };
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.is_ok(),
        asked = terminate.recv() => asked.is_some(),
    }
}

/// Waits until the run is to stop.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody can stop it any more.
        std::future::pending::<()>().await;
    }
}
