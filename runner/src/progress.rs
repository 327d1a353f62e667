//! Progress on a terminal, for what takes longer than a second.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// After how long a bar appears.
const APPEARS_AFTER: Duration = Duration::from_secs(1);

/// A bar over `total` cells on standard error; never drawn when that is no terminal.
pub fn bar(total: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what.to_owned());
    if std::io::stderr().is_terminal() {
        let later = bar.downgrade();
        tokio::spawn(async move {
            tokio::time::sleep(APPEARS_AFTER).await;
            if let Some(bar) = later.upgrade()
                && !bar.is_finished()
            {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(Duration::from_millis(200));
            }
        });
    }
    bar
}
