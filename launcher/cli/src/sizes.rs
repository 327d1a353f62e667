//! Terminal sizes.

use std::sync::Arc;

use bottle_backend::{Backend, Role};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::terminal;

/// Tells a guest's terminal (an exec's, when one is named) the size of ours, now and whenever it changes.
pub fn follow_size(backend: Arc<dyn Backend>, guest: String, exec: Option<String>) -> Result<JoinHandle<()>, Failure> {
    let mut changes = signal(SignalKind::window_change()).map_err(Failure::system("listening for signals"))?;
    Ok(tokio::spawn(async move {
        loop {
            if let Some((columns, rows)) = terminal::size() {
                let told = backend
                    .resize(Role::Guest, &guest, exec.as_deref(), columns, rows)
                    .await;
                if let Err(error) = told {
                    tracing::debug!(%error, "resizing the guest's terminal");
                }
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    }))
}
