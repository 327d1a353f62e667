//! Signals to `bottle` itself: the first is an order to stop cleanly, the second to leave at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{EXIT_INTERRUPTED, Failure, say};
use crate::terminal;

/// What `bottle cleanup` would remove, told by the second signal.
#[derive(Clone, Default)]
pub struct Remains(Arc<Mutex<Vec<String>>>);

impl Remains {
    /// Notes what there is now.
    pub fn set(&self, steps: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = steps;
    }

    fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The first signal that came.
#[derive(Clone)]
pub struct Orders {
    first: watch::Receiver<Option<&'static str>>,
    cancel: watch::Receiver<bool>,
}

impl Orders {
    /// Listens from now on.
    pub fn listen(remains: Remains) -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(Failure::system("listening for signals"));
        let mut caught = Caught {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            quit: catch(SignalKind::quit())?,
        };
        let (first_sender, first) = watch::channel(None);
        let (cancel_sender, cancel) = watch::channel(false);
        tokio::spawn(async move {
            let name = caught.next().await;
            first_sender.send_replace(Some(name));
            cancel_sender.send_replace(true);
            caught.next().await;
            leave(&remains);
        });
        Ok(Self { first, cancel })
    }

    /// Becomes `true` with the first signal.
    pub fn cancel(&self) -> watch::Receiver<bool> {
        self.cancel.clone()
    }

    /// Waits for the first signal; its name without `SIG`.
    pub async fn first(&self) -> &'static str {
        let mut first = self.first.clone();
        let name = first.wait_for(Option::is_some).await.map(|name| *name);
        match name {
            Ok(Some(name)) => name,
            // Nobody can send one any more.
            _ => std::future::pending().await,
        }
    }
}

struct Caught {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Caught {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "INT",
            _ = self.terminate.recv() => "TERM",
            _ = self.hangup.recv() => "HUP",
            _ = self.quit.recv() => "QUIT",
        }
    }
}

/// Leaves without tearing down.
fn leave(remains: &Remains) -> ! {
    terminal::restore();
    let remains = remains.get();
    if remains.is_empty() {
        say("left at once; `bottle cleanup` removes what may be left");
    } else {
        say(&format!(
            "left at once; `bottle cleanup` removes: {}",
            remains.join(", ")
        ));
    }
    std::process::exit(i32::from(EXIT_INTERRUPTED))
}
