//! `bottle run`.

use std::sync::Arc;
use std::time::Duration;

use bottle_backend::{Backend, Role};
use bottle_docker::BuiltImage;
use bottle_launch::{Bottle, LaunchOptions, Secrets, launch};
use bottle_plan::Plan;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::args::RunArgs;
use crate::backend;
use crate::failure::{EXIT_INTERRUPTED, Failure, say};
use crate::host::{Loaded, options, state_dir};
use crate::leave::{Orders, Remains};
use crate::parts::bundle_image;
use crate::progress::ProgressLine;
use crate::streams::{self, Joined};
use crate::terminal::{self, RawMode};

/// How long a guest that was sent a signal may take to end before it is removed.
const GRACE: Duration = Duration::from_secs(10);

/// How long the guest's last output may take to come after its end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Exit code of a guest that ended because its bundle did (`bottle-guest`'s; a command can have it for reasons of its own).
const LEASE_LOST: u8 = 143;

/// How much later than the guest the engine may tell us of the bundle's end.
const NEWS_OF_THE_BUNDLE: Duration = Duration::from_secs(1);

/// Launches, runs, removes; the command's exit code.
pub async fn run(args: &RunArgs, verbose: bool) -> Result<u8, Failure> {
    let remains = Remains::default();
    let orders = Orders::listen(remains.clone())?;
    let line = ProgressLine::start(verbose);
    let (plan, backend, image) = planned(args).await?;
    remains.set(objects(&plan));
    let secrets = Secrets::from_env(&plan.token_env);
    let mut options = LaunchOptions::new(format!("run-{}", plan.slug), state_dir());
    options.bundle_archive = Some((image.reference, image.archive));
    options.progress = line.as_ref().map(ProgressLine::progress);
    options.guest_stdio = true;
    options.cancel = Some(orders.cancel());
    let bottle = launch(plan, secrets, backend, options).await?;
    drop(line);
    remains.set(bottle.steps().iter().map(ToString::to_string).collect());
    let bottle = Arc::new(bottle);
    let outcome = attend(&bottle, &orders).await;
    let report = bottle.close().await;
    for (step, problem) in report.errors() {
        say(&format!(
            "{step} is left behind: {problem}; `bottle cleanup` will try again"
        ));
    }
    outcome
}

/// What the second signal says is left, while the launch is under way.
fn objects(plan: &Plan) -> Vec<String> {
    let networks = plan.networks.iter().map(|network| format!("network {}", network.name));
    let volumes = plan.volumes.iter().map(|volume| format!("volume {}", volume.name));
    let containers = [&plan.guest, &plan.bundle].map(|container| format!("container {}", container.name));
    containers.into_iter().chain(networks).chain(volumes).collect()
}

/// Refuses what can be refused without an engine first, then asks it.
async fn planned(args: &RunArgs) -> Result<(Plan, Arc<dyn Backend>, BuiltImage), Failure> {
    let loaded = Loaded::read(&args.chosen.manifest)?;
    let bottle = &args.chosen.bottle;
    let mut options = options(&args.chosen, &args.command)?;
    options.stdin = true;
    options.tty = terminal::is_interactive();
    options.bundle_image = "bottle-bundle".to_owned();
    let mut facts = loaded.facts(bottle)?;
    let kind = loaded.prepare(bottle, &facts, &options)?.backend;
    if options.tty
        && let Some(manifest) = loaded.manifest.bottle(bottle)
        && !manifest.env.contains_key("TERM")
        && let Ok(term) = std::env::var("TERM")
    {
        options.extra_env.insert("TERM".to_owned(), term);
    }
    let image = tokio::task::spawn_blocking(bundle_image);
    let backend = backend::open(kind, args.chosen.smolvm.clone()).await?;
    facts.subnets = backend.facts().await?.subnets;
    let image = image
        .await
        .map_err(|error| Failure::system("building the bundle's image")(error.into()))??;
    options.bundle_image.clone_from(&image.reference);
    let plan = loaded.prepare(bottle, &facts, &options)?;
    Ok((plan, backend, image))
}

/// Joins terminals, follows sizes, passes signals on, and waits for the end of the command.
async fn attend(bottle: &Arc<Bottle>, orders: &Orders) -> Result<u8, Failure> {
    let raw = bottle.plan().guest.tty.then(RawMode::enter).transpose()?;
    let sizes = raw.is_some().then(|| follow_size(bottle.clone())).transpose()?;
    let mut joined = bottle.guest_streams().map(streams::join);
    let code = ended(bottle, orders, joined.as_mut()).await;
    if let Some(joined) = joined
        && tokio::time::timeout(LAST_WORDS, joined.finish()).await.is_err()
    {
        tracing::warn!("the guest's output did not end with it");
    }
    if let Some(sizes) = sizes {
        sizes.abort();
    }
    drop(raw);
    code
}

/// The exit code of the command, whatever ends it.
async fn ended(bottle: &Bottle, orders: &Orders, joined: Option<&mut Joined>) -> Result<u8, Failure> {
    let deaf = async {
        if let Some(joined) = joined
            && (&mut joined.deaf).await.is_ok()
        {
            return;
        }
        // The output ended, or there was none: nobody misses any.
        std::future::pending().await
    };
    let signal = tokio::select! {
        biased;
        _ = bottle.wait_bundle() => return Err(Failure::BundleEnded(bottle.bundle_stderr_tail())),
        code = bottle.wait_guest() => return by_itself(bottle, low_byte(code?)).await,
        name = orders.first() => name,
        // As a pipeline would: `bottle run ... | head -1` ends.
        () = deaf => "TERM",
    };
    if let Err(error) = bottle.signal_guest(signal).await {
        tracing::warn!(%error, signal, "passing the signal on");
    }
    match tokio::time::timeout(GRACE, bottle.wait_guest()).await {
        Ok(code) => Ok(low_byte(code?)),
        Err(_) => Ok(EXIT_INTERRUPTED),
    }
}

/// The exit code of a command that nobody here ended. When it may be because of the bundle's end, that is waited for: the
/// guest notices it before the engine tells us.
async fn by_itself(bottle: &Bottle, code: u8) -> Result<u8, Failure> {
    if code == LEASE_LOST
        && tokio::time::timeout(NEWS_OF_THE_BUNDLE, bottle.wait_bundle())
            .await
            .is_ok()
    {
        return Err(Failure::BundleEnded(bottle.bundle_stderr_tail()));
    }
    Ok(code)
}

/// Exit codes of processes are bytes.
fn low_byte(code: i64) -> u8 {
    code.to_le_bytes()[0]
}

/// Tells the guest's terminal the size of ours, now and whenever it changes.
fn follow_size(bottle: Arc<Bottle>) -> Result<JoinHandle<()>, Failure> {
    let mut changes = signal(SignalKind::window_change()).map_err(Failure::system("listening for signals"))?;
    Ok(tokio::spawn(async move {
        loop {
            if let Some((columns, rows)) = terminal::size() {
                let told = bottle
                    .backend()
                    .resize(Role::Guest, bottle.id(Role::Guest), None, columns, rows)
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
