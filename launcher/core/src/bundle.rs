//! The bundle from its start to its readiness, and the end of its lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bottle_backend::{Input, RelaySecret, Role, patient};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::bottle::Exit;
use crate::error::LaunchFailure;
use crate::events::{Heard, Phase};
use crate::launch::Site;
use crate::made::Half;
use crate::secrets::Secrets;
use crate::teardown::{STEP_LIMIT, StepKind};

/// How long a bundle may take to end by itself when its lease does. Its last events come in this time; after it the bundle
/// is ended by force.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The bundle's standard input. While it is open the bundle may live.
pub(crate) type Lease = Arc<Mutex<Option<Input>>>;

/// The guest's end, which the end of its bundle's lease waits for: the bundle judges everything that the guest still
/// asked for. The removal of the guest takes longer than its end and need not be waited for.
#[derive(Default)]
pub(crate) struct GuestEnd {
    /// Set when the guest is started.
    exit: Mutex<Option<Exit>>,
    gone: watch::Sender<bool>,
}

/// Says, when dropped, that the guest's undo is over.
pub(crate) struct Gone(Arc<GuestEnd>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.send_replace(true);
    }
}

impl GuestEnd {
    /// The guest is about to be started, and this tells its end.
    pub(crate) fn started(&self, exit: Exit) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    }

    /// To be held by the guest's undo.
    pub(crate) fn gone(self: &Arc<Self>) -> Gone {
        Gone(self.clone())
    }

    /// Waits until the guest has ended; not at all for one that was never started.
    async fn over(&self) {
        let Some(mut exit) = self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return;
        };
        let ended = async {
            // An engine that cannot say when it ends leaves only the undo to wait for.
            if exit.wait_for(|end| matches!(end, Some(Ok(_)))).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut gone = self.gone.subscribe();
        tokio::select! {
            () = ended => {}
            _ = gone.wait_for(|gone| *gone) => {}
        }
    }
}

/// A bundle that was started and has been sent its configuration.
pub(crate) struct RunningBundle {
    pub(crate) half: Half,
    pub(crate) lease: Lease,
    pub(crate) heard: Arc<Heard>,
    ready: OnceLock<(String, u64)>,
    relay_secret: Mutex<Option<RelaySecret>>,
}

impl RunningBundle {
    /// What its `ready` event said.
    pub(crate) fn ready(&self) -> (String, u64) {
        self.ready.get().cloned().unwrap_or_default()
    }

    /// What its relay asks for; `None` the second time, or when it has none.
    pub(crate) fn take_relay_secret(&self) -> Option<RelaySecret> {
        self.relay_secret.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The failure to report when it is found to have ended.
    pub(crate) async fn ended(&self) -> LaunchFailure {
        // The exit code and the last words may come a moment after the end of one stream.
        let mut exit = self.half.exit.clone();
        let ended = async { exit.wait_for(Option::is_some).await.ok().and_then(|code| code.clone()) };
        let both = async { tokio::join!(ended, self.heard.finished()).0 };
        let status = match tokio::time::timeout(patient(LAST_WORDS), both).await.ok().flatten() {
            Some(Ok(code)) => format!("exit code {code}"),
            Some(Err(error)) => format!("exit code unknown: {error}"),
            None => "exit code unknown".to_owned(),
        };
        let stderr = last(&self.heard);
        match &*self.heard.phase().borrow() {
            Phase::Failed { reason } => LaunchFailure::BundleFailed {
                reason: reason.clone(),
                stderr,
            },
            _ => LaunchFailure::BundleEnded { status, stderr },
        }
    }
}

/// The last lines of the bundle's standard error that an error message can bear.
fn last(heard: &Heard) -> Vec<String> {
    let mut lines = heard.stderr();
    let first = lines.len().saturating_sub(10);
    lines.split_off(first)
}

impl Site {
    /// Creates and starts the bundle and sends it its configuration and tokens. They are on their way while the engine still
    /// starts it, so that it need not wait for them.
    pub(crate) async fn start_bundle(
        &self,
        secrets: Secrets,
        subnets: &BTreeMap<String, String>,
    ) -> Result<RunningBundle, LaunchFailure> {
        let half = self.create_half(Role::Bundle, subnets).await?;
        let heard = Heard::new(self.options.observer.clone());
        let Some(streams) = half.take_streams() else {
            let source = std::io::Error::other("the bundle was not attached to");
            return Err(LaunchFailure::BundleInput {
                source,
                stderr: Vec::new(),
            });
        };
        self.keep_task(tokio::spawn(heard.clone().read_stdout(streams.stdout)));
        self.keep_task(tokio::spawn(heard.clone().read_stderr(streams.stderr)));
        let mut input = streams.stdin;
        let relay_secret = self.relay_secret().map_err(|source| LaunchFailure::BundleInput {
            source,
            stderr: Vec::new(),
        })?;
        let sent = {
            let mut start = std::pin::pin!(self.start_half(Role::Bundle, &half));
            let mut send = std::pin::pin!(self.send_configuration(&mut input, &secrets, relay_secret.as_ref()));
            let mut sent = None;
            loop {
                tokio::select! {
                    biased;
                    started = &mut start => break started?,
                    outcome = &mut send, if sent.is_none() => sent = Some(outcome),
                }
            }
            match sent {
                Some(outcome) => outcome,
                None => send.await,
            }
        };
        let lease = Lease::default();
        let wait = self.plan().config.lease;
        let undo = end_lease(lease.clone(), heard.clone(), self.guest_end.clone(), wait);
        self.teardown.push(StepKind::Lease, &*self.plan().slug, undo);
        let bundle = RunningBundle {
            half,
            lease,
            heard,
            ready: OnceLock::new(),
            relay_secret: Mutex::new(relay_secret),
        };
        if let Err(source) = sent {
            // A bundle that ends before it has read everything is the cause, not the broken pipe.
            if source.kind() != std::io::ErrorKind::TimedOut
                && tokio::time::timeout(patient(LAST_WORDS), bundle.heard.finished())
                    .await
                    .is_ok()
            {
                return Err(bundle.ended().await);
            }
            let stderr = last(&bundle.heard);
            return Err(LaunchFailure::BundleInput { source, stderr });
        }
        *bundle.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(input);
        Ok(bundle)
    }

    async fn send_configuration(
        &self,
        input: &mut Input,
        secrets: &Secrets,
        relay: Option<&RelaySecret>,
    ) -> std::io::Result<()> {
        let mut config = serde_json::to_vec(&self.plan().config)?;
        config.push(b'\n');
        let tokens = secrets.line(&self.plan().token_env, relay)?;
        let send = async {
            input.write_all(&config).await?;
            input.write_all(&tokens).await?;
            input.flush().await
        };
        match tokio::time::timeout(patient(self.options.ready_within), send).await {
            Ok(outcome) => outcome,
            Err(_) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "the bundle does not read",
            )),
        }
    }

    /// Waits until the bundle says that it is ready.
    pub(crate) async fn await_ready(&self, bundle: &RunningBundle) -> Result<(), LaunchFailure> {
        let mut phase = bundle.heard.phase();
        let limit = patient(self.options.ready_within);
        // The clone is made inside: what `wait_for` lends cannot be held over an await.
        let found = async {
            let found = phase.wait_for(|phase| *phase != Phase::Starting).await;
            found.map_or(Phase::Ended, |phase| phase.clone())
        };
        let Ok(found) = tokio::time::timeout(limit, found).await else {
            let stderr = last(&bundle.heard);
            return Err(LaunchFailure::BundleLate { limit, stderr });
        };
        match found {
            Phase::Ready { ca_pem, after_ms } => {
                let _ = bundle.ready.set((ca_pem, after_ms));
                Ok(())
            }
            Phase::Starting | Phase::Failed { .. } | Phase::Ended => Err(bundle.ended().await),
        }
    }
}

/// Ends the lease when the guest has ended, and hears the bundle out. One that has no lease, or does not end with it, is
/// left to the next step.
async fn end_lease(lease: Lease, heard: Arc<Heard>, guest: Arc<GuestEnd>, wait: bool) -> Result<(), String> {
    // Half of the limit: the lease must end even when the guest does not.
    if tokio::time::timeout(patient(STEP_LIMIT / 2), guest.over())
        .await
        .is_err()
    {
        tracing::debug!("the guest is still there when its bundle's lease ends");
    }
    drop(lease.lock().unwrap_or_else(PoisonError::into_inner).take());
    if wait
        && tokio::time::timeout(patient(LAST_WORDS), heard.finished())
            .await
            .is_err()
    {
        tracing::debug!("the bundle did not end with its lease");
    }
    Ok(())
}
