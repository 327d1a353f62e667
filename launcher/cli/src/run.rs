//! `bottle run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_backend::{Backend, Role};
use bottle_launch::record::Record;
use bottle_launch::{Bottle, BundleImage, LaunchOptions, Secrets, WorkspaceSource, launch, state_path};
use bottle_plan::{Plan, PrepareOptions};

use crate::args::{ResumeArgs, RunArgs};
use crate::backend;
use crate::failure::{EXIT_INTERRUPTED, Failure, say};
use crate::host::{Choice, Loaded, home, options, state_dir};
use crate::journal::Journal;
use crate::kept::{self, Kept};
use crate::leave::{Orders, Remains};
use crate::live::RUN_PREFIX;
use crate::parts::bundle_image;
use crate::preflight;
use crate::progress::ProgressLine;
use crate::provided::provided;
use crate::sizes::follow_size;
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

/// What is to be launched.
pub struct Order {
    /// Its manifest.
    pub loaded: Loaded,
    /// Which agent and bottle of it.
    pub choice: Choice,
    /// What the command line said.
    pub options: PrepareOptions,
    /// The smolvm program, when it was named.
    pub smolvm: Option<PathBuf>,
    /// Where a copied project comes from.
    pub workspace: WorkspaceSource,
    /// Launches without a question.
    pub yes: bool,
    /// Where what the bundle says is recorded.
    pub record: Option<PathBuf>,
    /// The plan's [`policy_digest`](kept::policy_digest), when it must be a certain one.
    pub policy: Option<String>,
}

/// Launches, runs, removes; the command's exit code.
pub async fn run(args: &RunArgs, verbose: bool) -> Result<u8, Failure> {
    let loaded = Loaded::read(&args.chosen.manifest)?;
    let choice = loaded.choose(&args.chosen)?;
    let options = options(&args.chosen, &choice, &args.command)?;
    let order = Order {
        loaded,
        choice,
        options,
        smolvm: args.chosen.smolvm.clone(),
        workspace: WorkspaceSource::Directory,
        yes: args.yes,
        record: args.record.clone(),
        policy: None,
    };
    launch_and_attend(order, verbose).await
}

/// Goes on with the work of a bottle that has ended.
pub async fn resume(args: &ResumeArgs, verbose: bool) -> Result<u8, Failure> {
    let Some(kept) = kept::find(&args.name) else {
        let known: Vec<String> = kept::all().into_iter().map(|kept| kept.slug).collect();
        return Err(Failure::NothingKept {
            name: args.name.clone(),
            known,
        });
    };
    let loaded = Loaded::read(&kept.manifest)?;
    let choice = Choice {
        agent: kept.agent.clone(),
        bottle: kept.bottle.clone(),
    };
    let command = if args.command.is_empty() {
        &kept.command
    } else {
        &args.command
    };
    let options = PrepareOptions {
        backend: Some(kept.backend),
        topology: Some(kept.topology),
        slug: Some(kept.slug.clone()),
        agent: kept.agent.clone(),
        system_trust: true,
        command: command.clone(),
        ..PrepareOptions::default()
    };
    let order = Order {
        loaded,
        choice,
        options,
        smolvm: None,
        workspace: WorkspaceSource::Archive(kept.archive()),
        yes: args.yes,
        record: None,
        policy: (!args.accept_changes).then_some(kept.policy),
    };
    launch_and_attend(order, verbose).await
}

async fn launch_and_attend(order: Order, verbose: bool) -> Result<u8, Failure> {
    let remains = Remains::default();
    let orders = Orders::listen(remains.clone())?;
    let command = order.options.command.clone();
    let (plan, backend, image) = planned(&order).await?;
    let secrets = Secrets::from_env(&plan.token_env);
    let missing = secrets.missing(&plan.token_env);
    if !missing.is_empty() {
        return Err(Failure::TokensMissing(missing));
    }
    let resolve = |written: &str| order.loaded.resolve(written, &home());
    let provided = plan.agent.as_ref().map(|agent| provided(agent, resolve)).transpose()?;
    if !preflight::agreed(&plan, order.yes, &orders).await? {
        preflight::declined();
        return Ok(EXIT_INTERRUPTED);
    }
    let record = order.record.as_deref().map(recorded).transpose()?;
    remains.set(objects(&plan));
    let line = ProgressLine::start(verbose);
    let note = Kept::of(&plan, order.loaded.path(), &command);
    let mut options = LaunchOptions::new(format!("{RUN_PREFIX}{}", plan.slug), state_dir());
    options.bundle_image = Some(image);
    options.progress = line.as_ref().map(ProgressLine::progress);
    options.provided = provided.unwrap_or_default();
    options.workspace = order.workspace;
    let journal = Arc::new(Journal::new(&state_path(&state_dir(), &plan.slug)).recording(record));
    options.observer = Some(journal.clone());
    options.guest_stdio = true;
    options.cancel = Some(orders.cancel());
    let bottle = launch(plan, secrets, backend, options).await?;
    drop(line);
    remains.set(bottle.steps().iter().map(ToString::to_string).collect());
    let bottle = Arc::new(bottle);
    let outcome = attend(&bottle, &orders).await;
    if let Some(note) = &note
        && let Err(failure) = kept::keep(&bottle, note).await
    {
        say(&format!("the agent's work could not be kept: {failure}"));
    }
    let report = bottle.close().await;
    for (step, problem) in report.errors() {
        say(&format!(
            "{step} is left behind: {problem}; `bottle cleanup` will try again"
        ));
    }
    let summary = journal.blocked().summary();
    if !summary.is_empty() {
        say(&summary);
    }
    outcome
}

fn recorded(path: &Path) -> Result<Record, Failure> {
    Record::create(path).map_err(|error| Failure::Record {
        path: path.to_owned(),
        fault: error.into(),
    })
}

/// What the second signal says is left, while the launch is under way.
fn objects(plan: &Plan) -> Vec<String> {
    let networks = plan.networks.iter().map(|network| format!("network {}", network.name));
    let volumes = plan.volumes.iter().map(|volume| format!("volume {}", volume.name));
    let containers = [&plan.guest, &plan.bundle].map(|container| format!("container {}", container.name));
    containers.into_iter().chain(networks).chain(volumes).collect()
}

/// Refuses what can be refused without an engine first, then asks it.
async fn planned(order: &Order) -> Result<(Plan, Arc<dyn Backend>, BundleImage), Failure> {
    let (loaded, bottle) = (&order.loaded, &order.choice.bottle);
    let mut options = order.options.clone();
    options.stdin = true;
    options.tty = terminal::is_interactive();
    options.bundle_image = "bottle-bundle".to_owned();
    let mut facts = loaded.facts(bottle)?;
    let plan = loaded.prepare(bottle, &facts, &options)?;
    if order
        .policy
        .as_ref()
        .is_some_and(|policy| *policy != kept::policy_digest(&plan))
    {
        return Err(Failure::PolicyChanged(plan.slug));
    }
    preflight::somebody_can_answer(order.yes)?;
    let kind = plan.backend;
    if options.tty
        && let Some(manifest) = loaded.manifest.bottle(bottle)
        && !manifest.env.contains_key("TERM")
        && let Ok(term) = std::env::var("TERM")
    {
        options.extra_env.insert("TERM".to_owned(), term);
    }
    let backend = backend::open(kind, order.smolvm.clone()).await?;
    let engine = backend.facts().await?;
    let image = bundle_image(&engine.platform)?;
    engine.add_to(&mut facts);
    options.bundle_image.clone_from(&image.reference);
    let plan = loaded.prepare(bottle, &facts, &options)?;
    Ok((plan, backend, image))
}

/// Joins terminals, follows sizes, passes signals on, and waits for the end of the command.
async fn attend(bottle: &Arc<Bottle>, orders: &Orders) -> Result<u8, Failure> {
    let raw = bottle.plan().guest.tty.then(RawMode::enter).transpose()?;
    let guest = bottle.id(Role::Guest).to_owned();
    let sizes = raw
        .is_some()
        .then(|| follow_size(bottle.backend().clone(), guest, None));
    let sizes = sizes.transpose()?;
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
