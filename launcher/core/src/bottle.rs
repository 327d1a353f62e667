//! A running bottle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bottle_backend::{Backend, BackendError, BackendErrorKind, Exec, ExecSpec, Observed, Role, Streams};
use bottle_plan::Plan;
use bottle_policy::BundleEvent;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::bundle::Lease;
use crate::events::Heard;
use crate::teardown::{Step, Teardown, TeardownReport};
use crate::tree::Listing;

/// How a container ended; `None` while it runs.
pub(crate) type Exit = watch::Receiver<Option<Result<i64, BackendError>>>;

/// A running bottle. [`close`](Bottle::close) it: dropping it only logs what is left (the lease then ends the bundle, and
/// the next sweep after this process's end removes the rest).
pub struct Bottle {
    pub(crate) plan: Plan,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) guest: Observed,
    pub(crate) bundle: Observed,
    pub(crate) subnets: BTreeMap<String, String>,
    pub(crate) workspace: Option<Listing>,
    pub(crate) ca_pem: String,
    pub(crate) ready_after_ms: u64,
    pub(crate) state: PathBuf,
    pub(crate) streams: Mutex<Option<Streams>>,
    /// Ended by its step of the teardown, or with this.
    pub(crate) lease: Lease,
    pub(crate) heard: Arc<Heard>,
    pub(crate) guest_exit: Exit,
    pub(crate) bundle_exit: Exit,
    pub(crate) tasks: Vec<JoinHandle<()>>,
    pub(crate) teardown: Teardown,
    pub(crate) closed: AtomicBool,
}

impl Bottle {
    /// Its unique name.
    pub fn slug(&self) -> &str {
        &self.plan.slug
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the guest was given, seen after its start.
    pub fn guest(&self) -> &Observed {
        &self.guest
    }

    /// What the bundle was given, seen after its start.
    pub fn bundle(&self) -> &Observed {
        &self.bundle
    }

    /// IPv4 subnet (CIDR) of each of its networks, by name.
    pub fn subnets(&self) -> &BTreeMap<String, String> {
        &self.subnets
    }

    /// The certificate of its own authority, that the guest is to trust. Empty when a plan without `bundle_first` was not
    /// ready when asked: see [`events`](Self::event_log).
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Milliseconds that the bundle's daemons took to listen, by its own clock.
    pub fn ready_after_ms(&self) -> u64 {
        self.ready_after_ms
    }

    /// The launcher's directory of this bottle.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The backend that it runs on.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Runs a program in the guest.
    pub async fn exec(&self, spec: &ExecSpec) -> Result<Exec, BackendError> {
        self.backend.exec(Role::Guest, &self.guest.id, spec).await
    }

    /// Runs a program in either half.
    pub async fn exec_in(&self, role: Role, spec: &ExecSpec) -> Result<Exec, BackendError> {
        self.backend.exec(role, self.id(role), spec).await
    }

    /// The engine's id of a half.
    pub fn id(&self, role: Role) -> &str {
        match role {
            Role::Guest => &self.guest.id,
            Role::Bundle => &self.bundle.id,
        }
    }

    /// What a half has been given as of now.
    pub async fn observe(&self, role: Role) -> Result<Observed, BackendError> {
        self.backend.observe(role, self.id(role)).await
    }

    /// Takes the guest's own streams; `None` the second time, or when the launch was not asked to attach.
    pub fn guest_streams(&self) -> Option<Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the guest's end; its exit code.
    pub async fn wait_guest(&self) -> Result<i64, BackendError> {
        wait(self.guest_exit.clone()).await
    }

    /// Waits for the bundle's end; its exit code. In a healthy bottle this does not come before [`close`](Self::close).
    pub async fn wait_bundle(&self) -> Result<i64, BackendError> {
        wait(self.bundle_exit.clone()).await
    }

    /// Sends a signal (by name, `TERM`) to the guest's first process.
    pub async fn signal_guest(&self, signal: &str) -> Result<(), BackendError> {
        self.backend.signal(Role::Guest, &self.guest.id, signal).await
    }

    /// Events of the bundle from now on. A receiver that falls more than 4096 events behind loses some and is told so.
    pub fn events(&self) -> broadcast::Receiver<BundleEvent> {
        self.heard.subscribe()
    }

    /// All events so far (the last [`EVENT_LOG_LIMIT`](crate::EVENT_LOG_LIMIT)).
    pub fn event_log(&self) -> Vec<BundleEvent> {
        self.heard.events()
    }

    /// How many events were dropped from the log because it was full. Evidence that relies on an absence must see 0.
    pub fn events_dropped(&self) -> u64 {
        self.heard.dropped()
    }

    /// Lines of the bundle's standard output that were no events: how many in all, and the last of them.
    pub fn unparsed_lines(&self) -> (u64, Vec<String>) {
        self.heard.unparsed()
    }

    /// The last lines of the bundle's standard error.
    pub fn bundle_stderr_tail(&self) -> Vec<String> {
        self.heard.stderr()
    }

    /// What [`close`](Self::close) would undo, first undone first.
    pub fn steps(&self) -> Vec<Step> {
        self.teardown.names()
    }

    /// Ends the bottle and removes everything that was made for it; goes on after errors and reports them. A second call
    /// does nothing. With `lifecycle.teardown` off only the streams end.
    pub async fn close(&self) -> TeardownReport {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.guest_streams());
        let report = if self.plan.lifecycle.teardown {
            self.teardown.run().await
        } else {
            TeardownReport::default()
        };
        drop(self.lease.lock().unwrap_or_else(PoisonError::into_inner).take());
        for task in &self.tasks {
            task.abort();
        }
        for (step, problem) in report.errors() {
            tracing::warn!(bottle = self.slug(), %step, problem, "left behind");
        }
        report
    }
}

async fn wait(mut exit: Exit) -> Result<i64, BackendError> {
    let ended = exit
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|ended| ended.clone());
    ended.unwrap_or_else(|| Err(unwatched()))
}

fn unwatched() -> BackendError {
    BackendError {
        call: "wait".to_owned(),
        problem: "the bottle was closed before its end was seen".to_owned(),
        kind: BackendErrorKind::NotFound,
    }
}

impl Drop for Bottle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let left = self.teardown.names();
        if !self.closed.load(Ordering::SeqCst) && !left.is_empty() {
            let left: Vec<String> = left.iter().map(ToString::to_string).collect();
            tracing::warn!(
                bottle = self.plan.slug,
                left = left.join(", "),
                "dropped without close: `bottle cleanup` removes it"
            );
        }
    }
}
