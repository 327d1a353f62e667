//! LC-09: what a cleanup removes, and what it leaves alone.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptions;
use bottle_backend::{Backend, Labels, Resource, ResourceKind};
use bottle_launch::{SweepReport, SweepScope, sweep};
use bottle_plan::{LABEL_ROLE, LABEL_SLUG};
use probe_spec::{CleanupCheck, LauncherDeath, RunnerCase, Vantage};

use super::{Observation, Together, death, leftovers, lifecycle, plan_like, secrets};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::lab::{Lab, Made};
use crate::selection::CaseCell;

/// Role of things of others.
const ROLE: &str = "foreign";
/// What stands in files of others.
const CONTENT: &[u8] = b"somebody else's\n";

/// Kills a launcher, cleans up after it twice at once, and looks. One bottle serves all cases.
pub async fn perform(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let cleaned = target.shared.cleaned.get_or_try_init(|| clean(target, cell));
    Ok(cleaned.await?.of(cell))
}

async fn clean(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let lab = target.lab;
    let backend = &*lab.backend;
    let (mut together, cases) = Together::begin(cell);
    let planned = plan_like(target, cell).await?;
    let (plan, removed) = (planned.plan, planned.removed);
    let slug = plan.slug.as_str();
    let death = LauncherDeath::Kill;
    let mut launcher = death::start(target, &plan, death).map_err(|source| SuiteError::Path {
        path: lab.directory.clone(),
        source,
    })?;
    let is_up = death::wait_until_up(&mut launcher).await;
    let own = death::by_label(backend, slug).await?;
    let foreign = Foreign::make(lab, slug).await;
    let mut seen = Observation::default();
    death::end(&mut launcher, death, &mut seen).await;
    death::wait_for_containers(backend, slug).await;
    let scope = SweepScope::all(lab.state_dir());
    let swept = if plan.lifecycle.sweep {
        let (one, other) = tokio::join!(sweep(backend, &scope), sweep(backend, &scope));
        vec![one, other]
    } else {
        Vec::new()
    };
    if removed.reaps_by_name {
        reap_by_name(backend, lab, slug).await;
    }
    let left = death::by_label(backend, slug).await?;
    for case in &cases {
        let (Some(observed), RunnerCase::Cleanup(check)) = (together.member(case), &case.what) else {
            continue;
        };
        observed.issued = is_up && !own.is_empty();
        observed.trace.extend(seen.trace.iter().cloned());
        observed.note(format!("{} objects before, {} after", own.len(), left.len()));
        match check {
            CleanupCheck::ForeignObjects => foreign.missing_objects(backend, observed).await,
            CleanupCheck::ForeignFiles => foreign.missing_files(observed),
            CleanupCheck::TwoAtOnce => {
                let left = left.iter().map(|one| format!("left: {:?} {}", one.kind, one.name));
                observed.findings.extend(left);
                swept.iter().for_each(|swept| failures(swept, slug, observed));
            }
        }
        // They were seen by what looks for them afterwards.
        if observed.issued {
            observed.alive.push(Vantage::Inventory);
        }
    }
    lifecycle::complain(foreign.remove(backend).await);
    let _ = std::fs::remove_dir_all(bottle_launch::state_path(&lab.state_dir(), slug));
    let _ = std::fs::remove_file(death::plan_file(target, &plan));
    lifecycle::sweep_up(backend, slug).await;
    Ok(together)
}

/// What a sweep says it could not remove of this bottle.
fn failures(swept: &Result<SweepReport, bottle_backend::BackendError>, slug: &str, observed: &mut Observation) {
    match swept {
        Ok(report) => {
            let failed = report.failed.iter().filter(|(what, _)| what.contains(slug));
            let failed = failed.map(|(what, problem)| format!("a cleanup beside another failed: {what}: {problem}"));
            observed.findings.extend(failed);
        }
        Err(error) => {
            observed.issued = false;
            observed.note(format!("a cleanup: {error}"));
        }
    }
}

/// Things of others: of a live owner, beside the bottle, with names that begin like its own.
struct Foreign {
    /// Name of each object.
    name: String,
    objects: Made,
    files: Vec<PathBuf>,
    /// A directory of its own and a link to it, which is in the bottle's.
    directories: Vec<PathBuf>,
    /// What could not be made.
    problems: Vec<String>,
}

impl Foreign {
    async fn make(lab: &Lab, slug: &str) -> Self {
        let mut made = Self {
            name: format!("bottle-{slug}-foreign"),
            objects: Made::default(),
            files: Vec::new(),
            directories: Vec::new(),
            problems: Vec::new(),
        };
        made.make_objects(lab).await;
        let state_dir = lab.state_dir();
        let own = bottle_launch::state_path(&state_dir, slug);
        let elsewhere = lab.directory.join(format!("{slug}.foreign"));
        made.problems
            .extend(std::fs::create_dir(&elsewhere).err().map(|error| error.to_string()));
        let beside = own.with_file_name(format!("{slug}.notes"));
        made.file(beside);
        made.file(state_dir.join(format!("{slug}.notes")));
        made.file(elsewhere.join("notes"));
        if let Err(error) = symlink(&elsewhere, own.join("link")) {
            made.problems.push(format!("a link in the bottle's directory: {error}"));
        }
        made.directories.push(elsewhere);
        made
    }

    async fn make_objects(&mut self, lab: &Lab) {
        let container = create_container(&self.name, &lab.images.probe.reference, &lab.labels(ROLE)).await;
        let container = container.map(|id| self.objects.add(ResourceKind::Container, &self.name, &id));
        let others = leftovers::make_objects(&*lab.backend, lab, &self.name, ROLE, &self.objects).await;
        for (kind, outcome) in std::iter::once((ResourceKind::Container, container)).chain(others) {
            let problem = outcome.err();
            self.problems
                .extend(problem.map(|problem| format!("{kind:?} {}: {problem}", self.name)));
        }
    }

    fn file(&mut self, path: PathBuf) {
        match std::fs::write(&path, CONTENT) {
            Ok(()) => self.files.push(path),
            Err(error) => self.problems.push(format!("{}: {error}", path.display())),
        }
    }

    /// Everything must have been made for a case to say something.
    fn check_made(&self, observed: &mut Observation) {
        observed.issued &= self.problems.is_empty();
        observed.trace.extend(self.problems.iter().cloned());
    }

    async fn missing_objects(&self, backend: &dyn Backend, observed: &mut Observation) {
        self.check_made(observed);
        let there = match backend.inventory(LABEL_ROLE, Some(ROLE)).await {
            Ok(there) => there,
            Err(error) => {
                observed.issued = false;
                observed.note(error.to_string());
                return;
            }
        };
        // A volume is made by its name, and has an id of its own where a directory stands for it.
        let is_gone = |made: &Resource| !there.iter().any(|one| (one.kind, &one.name) == (made.kind, &made.name));
        let gone = self.objects.resources().into_iter().filter(is_gone);
        let gone = gone.map(|made| format!("gone: {:?} {}", made.kind, made.name));
        observed.findings.extend(gone);
    }

    fn missing_files(&self, observed: &mut Observation) {
        self.check_made(observed);
        for file in &self.files {
            match std::fs::read(file) {
                Ok(content) if content == CONTENT => {}
                Ok(_) => observed.findings.push(format!("changed: {}", file.display())),
                Err(error) => observed.findings.push(format!("gone: {}: {error}", file.display())),
            }
        }
    }

    async fn remove(self, backend: &dyn Backend) -> Vec<String> {
        let left = self.objects.remove(backend, false).await;
        // A careless cleanup was here before, in a known-leaky bottle.
        self.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        self.directories
            .iter()
            .for_each(|directory| drop(std::fs::remove_dir_all(directory)));
        left
    }
}

/// A container that is never started.
async fn create_container(name: &str, image: &str, labels: &Labels) -> Result<String, String> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/bottle-probe".to_owned()]),
        cmd: Some(vec!["wait".to_owned()]),
        labels: Some(labels.clone().into_iter().collect()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..CreateContainerOptions::default()
    };
    let made = secrets::engine()?.create_container(Some(options), body).await;
    made.map(|made| made.id).map_err(|error| error.to_string())
}

/// The careless cleanup: everything whose name begins like the bottle's, and all that its links lead to.
async fn reap_by_name(backend: &dyn Backend, lab: &Lab, slug: &str) {
    let mine = format!("bottle-{slug}");
    for object in backend.inventory(LABEL_SLUG, None).await.unwrap_or_default() {
        if object.name.starts_with(&mine)
            && let Err(error) = backend.remove(&object).await
        {
            tracing::warn!(name = object.name, %error, "stays after a careless cleanup");
        }
    }
    for directory in [lab.state_dir(), lab.state_dir().join("bottles"), lab.directory.clone()] {
        remove_by_name(&directory, slug);
    }
}

fn remove_by_name(directory: &Path, slug: &str) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(slug) {
            let _ = std::fs::remove_file(entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
