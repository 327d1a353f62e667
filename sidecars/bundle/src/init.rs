//! Process 1 of the bundle: starts the daemons, starts them again, and ends.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bottle_policy::{BundleConfig, BundleEvent, Daemon, Tokens};
use bottle_wire::Authority;
use rustix::process::{Pid, WaitOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::events::Events;
use crate::handover::Secrets;
use crate::process::{Listening, Process, name_of};
use crate::start::Input;
use crate::{EXIT_SOFTWARE, EXIT_USAGE, publish};

/// First wait before a daemon is started again; doubled with each failure in a row.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Longest wait.
const MAX_BACK_OFF: Duration = Duration::from_secs(5);
/// A daemon that served this long has no failures in a row behind it.
const STEADY: Duration = Duration::from_secs(10);
/// Starts that may fail before the bundle was ever ready.
const FIRST_STARTS: u32 = 3;
/// Time in which a started daemon must listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);
/// Time that daemons have for ending.
const STOP_WITHIN: Duration = Duration::from_millis(1500);

/// Runs the bundle; its exit status.
pub fn main() -> u8 {
    let started = Instant::now();
    // The memory of init holds the tokens and the authority's key.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, events) = match (runtime, Events::open()) {
        (Ok(runtime), Ok(events)) => (runtime, events),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("bottle-bundle: cannot start: {error}");
            return EXIT_SOFTWARE;
        }
    };
    let local = tokio::task::LocalSet::new();
    let status = local.block_on(&runtime, run(started, &events));
    // Relays and their senders end with their runtime, and only then does the queue of events.
    drop(local);
    drop(runtime);
    events.close();
    status
}

async fn run(started: Instant, events: &Events) -> u8 {
    let (config, secrets, input) = match prepare().await {
        Ok(prepared) => prepared,
        Err((bottle, reason, status)) => {
            eprintln!("bottle-bundle: {reason}");
            events.say(&BundleEvent::Failed { bottle, reason }).await;
            return status;
        }
    };
    let mut supervisor = match Supervisor::new(config, secrets, started, events) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            eprintln!("bottle-bundle: cannot handle signals: {error}");
            return EXIT_SOFTWARE;
        }
    };
    let lease = supervisor.config.lease;
    let lease_ends = async move {
        input.ended().await;
        if !lease {
            std::future::pending::<()>().await;
        }
    };
    let status = tokio::select! {
        status = supervisor.supervise() => status,
        () = lease_ends => 0,
    };
    supervisor.stop().await;
    status
}

type Prepared = (BundleConfig, Secrets, Input);

/// Everything before the first daemon; the error is slug, reason and exit status.
async fn prepare() -> Result<Prepared, (String, String, u8)> {
    let mut input = Input::open().map_err(|error| (String::new(), error.to_string(), EXIT_SOFTWARE))?;
    let (config, tokens) = input
        .start()
        .await
        .map_err(|(bottle, error)| (bottle, error.to_string(), EXIT_USAGE))?;
    let failed = |reason: String| (config.bottle.clone(), reason, EXIT_SOFTWARE);
    let secrets = make_secrets(&config, tokens).map_err(failed)?;
    if let Some(directory) = config.publish.as_deref().map(Path::new) {
        publish::publish(directory, &secrets.certificate).map_err(|error| failed(error.to_string()))?;
        #[cfg(feature = "leaky")]
        if config.removed.contains(&bottle_policy::Control::KeyInMemory) {
            publish::publish_key(directory, &secrets.authority).map_err(|error| failed(error.to_string()))?;
        }
        if config.lease {
            let relayed = config.relay.as_ref().map(|relay| Path::new(&relay.directory));
            publish::hold_leases(relayed.unwrap_or(directory)).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok((config, secrets, input))
}

/// The bottle's authority, and what the guest is to trust.
fn mint(config: &BundleConfig) -> Result<(Authority, String), bottle_wire::AuthorityFault> {
    #[cfg(feature = "leaky")]
    if config.removed.contains(&bottle_policy::Control::NarrowAuthority) {
        let authority = Authority::mint_wide(&config.bottle)?;
        let second = Authority::mint("of another")?;
        let trusted = authority.certificate_pem().to_owned() + second.certificate_pem();
        return Ok((authority, trusted));
    }
    let authority = Authority::mint(&config.bottle)?;
    let trusted = authority.certificate_pem().to_owned();
    Ok((authority, trusted))
}

fn make_secrets(config: &BundleConfig, mut tokens: Tokens) -> Result<Secrets, String> {
    let (authority, certificate) = mint(config).map_err(|error| format!("cannot mint the authority: {error}"))?;
    let mut random = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *random).map_err(|error| format!("cannot get random bytes: {error}"))?;
    let secrets = Secrets {
        hop: Zeroizing::new(hex::encode(*random)),
        relay: tokens.relay.take().map(Zeroizing::new),
        tokens,
        authority: Zeroizing::new(authority.to_secret_pem()),
        certificate,
    };
    Ok(secrets)
}

struct Supervisor<'a> {
    config: BundleConfig,
    secrets: Secrets,
    started: Instant,
    events: &'a Events,
    places: Vec<Place>,
    ready: bool,
    generation: u64,
    listening: (mpsc::UnboundedSender<Listening>, mpsc::UnboundedReceiver<Listening>),
    child_ended: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// One daemon of the configuration, running or not.
struct Place {
    daemon: Daemon,
    process: Option<Process>,
    listens: bool,
    /// Failures in a row.
    failures: u32,
    /// When to start it (while it does not run), or by when it must listen (while it runs and does not).
    due: Instant,
    /// Whether the launcher was told that it ended.
    missed: bool,
}

impl<'a> Supervisor<'a> {
    fn new(config: BundleConfig, secrets: Secrets, started: Instant, events: &'a Events) -> std::io::Result<Self> {
        let place = |&daemon| Place {
            daemon,
            process: None,
            listens: false,
            failures: 0,
            due: started,
            missed: false,
        };
        Ok(Self {
            places: config.daemons.iter().map(place).collect(),
            config,
            secrets,
            started,
            events,
            ready: false,
            generation: 0,
            listening: mpsc::unbounded_channel(),
            child_ended: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Keeps the daemons running until a signal or a failure; the exit status.
    async fn supervise(&mut self) -> u8 {
        loop {
            if let Err(reason) = self.start_due().await {
                eprintln!("bottle-bundle: {reason}");
                self.events
                    .say(&BundleEvent::Failed {
                        bottle: self.config.bottle.clone(),
                        reason,
                    })
                    .await;
                return EXIT_SOFTWARE;
            }
            self.say_ready().await;
            let due = self
                .places
                .iter()
                .filter(|place| !place.listens)
                .map(|place| place.due)
                .min();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.child_ended.recv() => {}
                _ = self.terminate.recv() => return 0,
                _ = self.interrupt.recv() => return 0,
                Some(listening) = self.listening.1.recv() => self.listens(listening).await,
                () = timer => {}
            }
            if let Err(reason) = self.reap().await {
                eprintln!("bottle-bundle: {reason}");
                self.events
                    .say(&BundleEvent::Failed {
                        bottle: self.config.bottle.clone(),
                        reason,
                    })
                    .await;
                return EXIT_SOFTWARE;
            }
        }
    }

    /// Starts what is due; ends what should listen by now and does not.
    async fn start_due(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for place in self
            .places
            .iter_mut()
            .filter(|place| !place.listens && place.due <= now)
        {
            if let Some(process) = &place.process {
                eprintln!(
                    "bottle-bundle: {} does not listen after {LISTEN_WITHIN:?}",
                    name_of(place.daemon)
                );
                process.kill();
                place.due = now + LISTEN_WITHIN;
                continue;
            }
            self.generation += 1;
            let line = self
                .secrets
                .line_for(place.daemon, &self.config)
                .map_err(|error| format!("cannot write the handover of {}: {error}", name_of(place.daemon)))?;
            let relayed = self.events.relayed();
            let process = Process::start(place.daemon, self.generation, line, relayed, self.listening.0.clone())
                .map_err(|error| format!("cannot start {}: {error}", name_of(place.daemon)))?;
            place.process = Some(process);
            place.due = now + LISTEN_WITHIN;
        }
        Ok(())
    }

    async fn listens(&mut self, listening: Listening) {
        let of = |place: &&mut Place| {
            place
                .process
                .as_ref()
                .is_some_and(|p| p.generation == listening.generation)
        };
        let Some(place) = self.places.iter_mut().find(of) else {
            return;
        };
        place.listens = true;
        if std::mem::take(&mut place.missed) {
            let (bottle, daemon) = (self.config.bottle.clone(), place.daemon);
            self.events.say(&BundleEvent::DaemonRestarted { bottle, daemon }).await;
        }
    }

    async fn say_ready(&mut self) {
        if self.ready || !self.places.iter().all(|place| place.listens) {
            return;
        }
        self.ready = true;
        let event = BundleEvent::Ready {
            bottle: self.config.bottle.clone(),
            ca_pem: self.secrets.certificate.clone(),
            after_ms: self.started.elapsed().as_millis() as u64,
        };
        self.events.say(&event).await;
    }

    /// Reaps every process that ended: daemons, and orphans that became ours as process 1.
    async fn reap(&mut self) -> Result<(), String> {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let of = |place: &Place| place.process.as_ref().map(Process::pid) == Some(pid);
            if let Some(index) = self.places.iter().position(of) {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                self.ended(index, status.to_string()).await?;
            }
        }
        Ok(())
    }

    async fn ended(&mut self, index: usize, status: String) -> Result<(), String> {
        let place = &mut self.places[index];
        let process = place.process.take().expect("found by its process");
        let steady = std::mem::take(&mut place.listens) && process.started.elapsed() >= STEADY;
        place.failures = if steady { 1 } else { place.failures + 1 };
        place.missed = true;
        let last_words = process.last_words().await;
        let wait = (BACK_OFF * 2u32.saturating_pow(place.failures.min(16) - 1)).min(MAX_BACK_OFF);
        let given_up = !self.ready && place.failures >= FIRST_STARTS;
        place.due = Instant::now() + wait;
        let daemon = place.daemon;
        let event = BundleEvent::DaemonExited {
            bottle: self.config.bottle.clone(),
            daemon,
            status: status.clone(),
            restart_in_ms: (!given_up).then_some(wait.as_millis() as u64),
        };
        self.events.say(&event).await;
        if !given_up {
            return Ok(());
        }
        let said = if last_words.is_empty() {
            "it said nothing".into()
        } else {
            last_words.join("\n")
        };
        Err(format!(
            "{} did not start in {FIRST_STARTS} attempts ({status}): {said}",
            name_of(daemon)
        ))
    }

    /// Ends the daemons within [`STOP_WITHIN`].
    async fn stop(&mut self) {
        // Dropping a process ends its standard input.
        let mut left: Vec<Pid> = self
            .places
            .iter_mut()
            .filter_map(|place| Some(place.process.take()?.pid()))
            .collect();
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        while !left.is_empty() {
            let late = tokio::time::timeout_at(deadline, self.child_ended.recv())
                .await
                .is_err();
            while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
                left.retain(|&other| other != pid);
            }
            if late {
                for &pid in &left {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                return;
            }
        }
    }
}
