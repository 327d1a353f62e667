//! TX-12 and TX-18: planted secrets in outputs, and in what the engine tells.

use bollard::query_parameters::{DownloadFromContainerOptions, InspectContainerOptions, LogsOptions};
use bottle_backend::Role;
use bottle_launch::Bottle;
use bottle_plan::BackendKind;
use bottle_reports::{
    CaseJudged, Ending, Event, ExpectedCell, Report, RunStarted, TableStyle, to_json, to_junit, to_table,
};
use futures_util::TryStreamExt;
use probe_spec::{Action, EnginePlace, Nonce, OutputPlace, Step, Vantage, world};
use tokio_util::io::ReaderStream;

use super::search::{contains, find};
use super::{Observation, Seen, asking, attempt_in, evidence};
use crate::assemble::Proof;
use crate::batch::Target;
use crate::error::SuiteError;
use crate::images::MARKER;
use crate::selection::CaseCell;

/// Longest output that is searched.
const LIMIT: usize = 64 << 20;
/// Longest file that is taken for a note about a machine; its disks are longer.
const LONGEST_NOTE: u64 = 16 << 20;

/// Uses the token's route in ways that succeed and that fail, then searches an output.
pub async fn in_output(target: &Target<'_>, place: OutputPlace) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let sent = use_token(target, &mut observed).await;
    let texts = match place {
        OutputPlace::BundleLogs => bundle_logs(target).await,
        OutputPlace::Evidence | OutputPlace::Junit | OutputPlace::Terminal => rendered(target, place, &observed, &sent),
    };
    search(target, texts, &mut observed);
    Ok(observed)
}

/// Has the guest use the token's route; the nonce of these requests, which is not the case's: the route's origin is meant to see
/// them.
async fn use_token(target: &Target<'_>, observed: &mut Observation) -> Nonce {
    let sent = crate::sightings::fresh_nonce();
    for action in uses() {
        observed.take(attempt_in(target.fixture, &sent, action).await);
    }
    target.settle().await;
    sent
}

/// Takes whatever comes.
const READ: Step = Step::Read { ms: 500 };

/// Requests that make the bundle handle the token: one whose origin sends back what it was sent, one that succeeds, and some that
/// fail on the way.
fn uses() -> Vec<Action> {
    let inside = |request: &str, answer: Step| asking::inside(world::ROUTE, request.to_owned(), answer);
    let get = format!(
        "GET /{{nonce}} HTTP/1.1\r\nhost: {}\r\nx-bottle-nonce: {{nonce}}\r\nconnection: close\r\n\r\n",
        world::ROUTE
    );
    let echo = format!(
        "GET /echo HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        world::ROUTE
    );
    let other = get.replace(world::ROUTE, world::DENIED);
    let broken = format!("{}GET / HTTP/9.9\r\n\r\n", get.replace("connection: close\r\n", ""));
    vec![
        inside(&echo, Step::Response),
        inside(&get, READ),
        inside(&other, READ),
        inside(&broken, READ),
    ]
}

/// Everything that the bundle and the launcher said of this bottle.
async fn bundle_logs(target: &Target<'_>) -> Result<Vec<(String, Vec<u8>)>, String> {
    let bottle = &target.fixture.bottle;
    let events = serde_json::to_vec(&bottle.event_log()).map_err(|error| error.to_string())?;
    let (_, unparsed) = bottle.unparsed_lines();
    Ok(vec![
        ("the bundle's events".to_owned(), events),
        ("the bundle's other output".to_owned(), unparsed.join("\n").into_bytes()),
        (
            "the bundle's standard error".to_owned(),
            bottle.bundle_stderr_tail().join("\n").into_bytes(),
        ),
        (
            "the engine's log of the bundle".to_owned(),
            logs(bottle.id(Role::Bundle)).await?,
        ),
    ])
}

/// A report over this very case, in the form that is searched. The agent was told the token by an echo, and the origin's witness
/// saw it: both are in the evidence that the report is made of.
fn rendered(
    target: &Target<'_>,
    place: OutputPlace,
    observed: &Observation,
    nonce: &Nonce,
) -> Result<Vec<(String, Vec<u8>)>, String> {
    let cell = self_cell(target);
    let copy = Observation {
        issued: observed.issued,
        // Reports tell most of what was found.
        findings: observed.trace.clone(),
        trace: observed.trace.clone(),
        ..Observation::default()
    };
    let none = Proof::new();
    let seen = Seen {
        nonce: nonce.clone(),
        started: crate::clock::now(),
        took_ms: 0,
        settled: true,
        decisions: target.fixture,
    };
    let mut evidence = evidence(target, &cell, copy, &none, &none, seen);
    evidence.secrets = vec![target.fixture.token.clone(), target.peer.token.clone()];
    // As the session does with every case.
    if !target.fixture.removed.redaction {
        evidence = target.lab.redaction.evidence(evidence);
    }
    let line = serde_json::to_vec(&evidence).map_err(|error| error.to_string())?;
    let judgement = probe_spec::judge(&evidence);
    let expected = ExpectedCell {
        cell: cell.cell.clone(),
        title: String::new(),
        on_breach: String::new(),
    };
    let started = RunStarted {
        run: target.lab.run.clone(),
        at: crate::clock::now(),
        suite: String::new(),
        digest: String::new(),
        engine: target.lab.facts.engine.clone(),
        facts: Vec::new(),
        expected: vec![expected],
    };
    let report = Report::of([
        Event::RunStarted(started),
        Event::CaseJudged(Box::new(CaseJudged {
            cell: cell.cell,
            judgement,
            evidence: Some(evidence),
        })),
        Event::RunEnded {
            at: crate::clock::now(),
            ending: Ending::Complete,
        },
    ]);
    let text = match place {
        OutputPlace::Junit => to_junit(&report).map_err(|error| error.to_string())?,
        OutputPlace::Terminal => to_table(
            &report,
            TableStyle {
                verbose: true,
                ..TableStyle::default()
            },
        ),
        OutputPlace::Evidence | OutputPlace::BundleLogs => to_json(&report, 0).map_err(|error| error.to_string())?,
    };
    Ok(vec![
        ("evidence".to_owned(), line),
        (format!("{place:?}"), text.into_bytes()),
    ])
}

fn self_cell(target: &Target<'_>) -> CaseCell {
    let probe = probe_spec::CATALOGUE[0];
    let spec = probe_spec::CaseSpec {
        name: "rendered".to_owned(),
        how: probe_spec::How::Runner(probe_spec::RunnerCase::SecretInOutput(OutputPlace::Evidence)),
        oracle: probe_spec::Oracle::Unseen,
        alive: Vec::new(),
        decision: false,
        controls: Vec::new(),
        needs: Vec::new(),
    };
    let topology = target.fixture.topology;
    let cell = probe_spec::Cell {
        probe: probe.id.to_owned(),
        case: spec.name.clone(),
        backend: "docker".to_owned(),
        topology: crate::selection::topology_name(topology).to_owned(),
        leak: None,
    };
    CaseCell {
        case: crate::selection::Case { probe, spec },
        cell,
        backend: crate::cli::BackendChoice::Docker,
        topology,
        not_applicable: None,
    }
}

/// Searches what the engine tells of this bottle.
pub async fn in_engine(target: &Target<'_>, place: EnginePlace) -> Result<Observation, SuiteError> {
    let bottle = &target.fixture.bottle;
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    if place == EnginePlace::ContainerLogs {
        // Otherwise there may be nothing to log.
        use_token(target, &mut observed).await;
    }
    let texts = match place {
        EnginePlace::InspectGuest => described(bottle, Role::Guest).await,
        EnginePlace::InspectBundle => described(bottle, Role::Bundle).await,
        EnginePlace::ContainerLogs => both_logs(bottle).await,
        EnginePlace::GuestExport => export(bottle).await,
        EnginePlace::Volumes => mounts(target).await,
    };
    if place == EnginePlace::GuestExport {
        // Planted in the image: an export without it is not of the guest's file system.
        let has_marker = |(_, bytes): &(String, Vec<u8>)| contains(bytes, MARKER.as_bytes());
        observed.marker = texts.as_ref().ok().map(|texts| texts.iter().any(has_marker));
        observed.issued &= observed.marker == Some(true);
    }
    search(target, texts, &mut observed);
    Ok(observed)
}

/// Searches texts for the tokens of the bottle and its neighbour. That the search reads something is shown by its length.
pub fn search(target: &Target<'_>, texts: Result<Vec<(String, Vec<u8>)>, String>, observed: &mut Observation) {
    let texts = match texts {
        Ok(texts) => texts,
        Err(problem) => {
            observed.issued = false;
            observed.note(problem);
            return;
        }
    };
    let mut length = 0;
    for (name, bytes) in &texts {
        length += bytes.len();
        observed.note(format!("searched {} bytes of {name}", bytes.len()));
        for (whose, secret) in [
            ("the bottle's", &target.fixture.token),
            ("the peer's", &target.peer.token),
        ] {
            if let Some(form) = find(secret, bytes) {
                observed.findings.push(format!("{whose} token stands in {name} {form}"));
            }
        }
    }
    if length > 0 {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
}

/// The engine, for what no backend needs to do.
pub fn engine() -> Result<bollard::Docker, String> {
    bollard::Docker::connect_with_defaults().map_err(|error| error.to_string())
}

/// What its engine tells of a guest or bundle: of a container the description, of a machine all that smolvm and the backend have
/// written down.
pub async fn described(bottle: &Bottle, role: Role) -> Result<Vec<(String, Vec<u8>)>, String> {
    if is_machine(bottle, role) {
        return of_machines();
    }
    let found = engine()?
        .inspect_container(bottle.id(role), None::<InspectContainerOptions>)
        .await;
    let found = found.map_err(|error| error.to_string())?;
    let text = serde_json::to_vec(&found).map_err(|error| error.to_string())?;
    Ok(vec![("the engine's description".to_owned(), text)])
}

fn is_machine(bottle: &Bottle, role: Role) -> bool {
    role == Role::Guest && bottle.plan().backend == BackendKind::Smolmachines
}

/// Everything below the directory of machines but their disks: journal, configurations, lists and logs.
fn of_machines() -> Result<Vec<(String, Vec<u8>)>, String> {
    let state = bottle_smolvm::Settings::from_env().state;
    let mut texts = Vec::new();
    for path in super::state::files_of(&state) {
        let is_text = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_file() && about.len() < LONGEST_NOTE);
        if !is_text {
            continue;
        }
        match std::fs::read(&path) {
            Ok(bytes) => texts.push((path.display().to_string(), bytes)),
            // Of a machine that is removed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    if texts.is_empty() {
        return Err(format!("{} has no files", state.display()));
    }
    Ok(texts)
}

async fn logs(id: &str) -> Result<Vec<u8>, String> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        ..LogsOptions::default()
    };
    let engine = engine()?;
    let lines = engine
        .logs(id, Some(options))
        .map_ok(bollard::container::LogOutput::into_bytes);
    collect(Box::pin(lines)).await
}

async fn both_logs(bottle: &Bottle) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut texts = Vec::new();
    for role in [Role::Guest, Role::Bundle] {
        if is_machine(bottle, role) {
            texts.extend(of_machines()?);
        } else {
            texts.push((
                format!("the engine's log of the {role:?}"),
                logs(bottle.id(role)).await?,
            ));
        }
    }
    Ok(texts)
}

async fn export(bottle: &Bottle) -> Result<Vec<(String, Vec<u8>)>, String> {
    let bytes = if is_machine(bottle, Role::Guest) {
        archive(bottle, Role::Guest, "/").await?
    } else {
        collect(engine()?.export_container(bottle.id(Role::Guest))).await?
    };
    Ok(vec![("an export of the guest".to_owned(), bytes)])
}

/// What is mounted into both halves, as it is handed out.
async fn mounts(target: &Target<'_>) -> Result<Vec<(String, Vec<u8>)>, String> {
    let bottle = &target.fixture.bottle;
    let mut texts = Vec::new();
    for role in [Role::Guest, Role::Bundle] {
        let seen = bottle.observe(role).await.map_err(|error| error.to_string())?;
        for mount in &seen.applied.mounts {
            let bytes = archive(bottle, role, &mount.target).await?;
            texts.push((format!("{} of the {role:?}", mount.target), bytes));
        }
    }
    Ok(texts)
}

/// What is at a path of a guest or bundle, as a tar archive.
pub async fn archive(bottle: &Bottle, role: Role, path: &str) -> Result<Vec<u8>, String> {
    if !is_machine(bottle, role) {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        return collect(engine()?.download_from_container(bottle.id(role), Some(options))).await;
    }
    let from = bottle.backend().get(role, bottle.id(role), path).await;
    let from = from.map_err(|error| error.to_string())?;
    let bytes = collect(ReaderStream::new(from)).await;
    bytes.map_err(|error| format!("{path}: {error}"))
}

async fn collect<E: std::fmt::Display>(
    mut stream: impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Unpin,
) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await.map_err(|error| error.to_string())? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LIMIT {
            return Err(format!("more than {LIMIT} bytes to search"));
        }
    }
    Ok(bytes)
}

/// The layers of an image, as the engine saves it.
pub async fn layers(reference: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let engine = engine()?;
    let bytes = collect(Box::pin(engine.export_image(reference))).await?;
    Ok(vec![(format!("the layers of {reference}"), bytes)])
}
