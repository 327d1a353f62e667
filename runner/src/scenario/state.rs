//! LC-05: what a launcher keeps in files.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use bottle_backend::Role;
use probe_spec::{StateCheck, Vantage};

use super::search::contains;
use super::{Observation, launch_like, lifecycle, plan_like, secrets};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::launch_plan;
use crate::selection::CaseCell;

/// Performs one check.
pub async fn perform(target: &Target<'_>, cell: &CaseCell, check: StateCheck) -> Result<Observation, SuiteError> {
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    let bottle = &target.fixture.bottle;
    match check {
        StateCheck::Modes => modes(bottle.state(), &mut observed),
        StateCheck::NoSecretWhileAlive => {
            let files = read_all(bottle.state());
            for (name, bytes) in files.iter().flatten() {
                if contains(bytes, b"PRIVATE KEY") {
                    observed.findings.push(format!("a private key stands in {name}"));
                }
            }
            secrets::search(target, files, &mut observed);
        }
        StateCheck::NotInInspect => {
            let mut texts = Vec::new();
            for role in [Role::Guest, Role::Bundle] {
                match secrets::inspect(bottle.id(role)).await {
                    Ok(more) => texts.extend(more),
                    Err(problem) => return Ok(Observation::not_issued(problem)),
                }
            }
            secrets::search(target, Ok(texts), &mut observed);
        }
        StateCheck::NotInLayers => {
            let plan = bottle.plan();
            let mut texts = secrets::layers(&plan.guest.image).await;
            if let Ok(texts) = &mut texts {
                match secrets::layers(&plan.bundle.image).await {
                    Ok(more) => texts.extend(more),
                    Err(problem) => return Ok(Observation::not_issued(problem)),
                }
            }
            secrets::search(target, texts, &mut observed);
        }
        StateCheck::GoneAfterStop => gone_after_stop(target, cell, &mut observed).await?,
        StateCheck::NoFollow => no_follow(target, cell, &mut observed).await?,
    }
    Ok(observed)
}

/// Directory 0700, files 0600, all of this user.
fn modes(state: &Path, observed: &mut Observation) {
    let own = rustix::process::getuid().as_raw();
    let mut check = |path: &Path, wanted: u32| match std::fs::symlink_metadata(path) {
        Ok(found) => {
            let mode = found.mode() & 0o7777;
            if mode != wanted || found.uid() != own {
                observed
                    .findings
                    .push(format!("{}: mode {mode:o}, owner {}", path.display(), found.uid()));
            }
        }
        Err(error) => {
            observed.issued = false;
            observed.trace.push(format!("{}: {error}", path.display()));
        }
    };
    check(state, 0o700);
    let files = files_of(state);
    files.iter().for_each(|file| check(file, 0o600));
    observed.note(format!("{} files in {}", files.len(), state.display()));
    if !files.is_empty() {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
}

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_of(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

fn read_all(directory: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let files = files_of(directory).into_iter();
    files
        .map(|path| {
            let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((path.display().to_string(), bytes))
        })
        .collect()
}

async fn gone_after_stop(target: &Target<'_>, cell: &CaseCell, observed: &mut Observation) -> Result<(), SuiteError> {
    let fixture = launch_like(target, cell).await?;
    let state = fixture.bottle.state().to_owned();
    let alive = files_of(&state);
    observed.note(format!("{} files while it was up", alive.len()));
    if !alive.is_empty() {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
    fixture.bottle.close().await;
    let left = files_of(&state).into_iter();
    observed
        .findings
        .extend(left.map(|path| format!("left after the stop: {}", path.display())));
    if state.exists() {
        observed
            .findings
            .push(format!("left after the stop: {}", state.display()));
    }
    lifecycle::sweep_up(&*target.lab.backend, fixture.bottle.slug()).await;
    Ok(())
}

/// Plants a symbolic link where the launcher makes its directory: nothing may be written through it.
async fn no_follow(target: &Target<'_>, cell: &CaseCell, observed: &mut Observation) -> Result<(), SuiteError> {
    let lab = target.lab;
    let planned = plan_like(target, cell).await?;
    let slug = planned.plan.slug.clone();
    let place = bottle_launch::state_path(&lab.state_dir(), &slug);
    let elsewhere = lab.directory.join(format!("{slug}.elsewhere"));
    let planted = std::fs::create_dir_all(&elsewhere).and_then(|()| symlink(&elsewhere, &place));
    if let Err(error) = planted {
        *observed = Observation::not_issued(format!("the link could not be planted: {error}"));
        return Ok(());
    }
    observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    match launch_plan(lab, planned).await {
        Ok(fixture) => {
            observed.note("the launch went on");
            let left = fixture.close(lab).await;
            observed.trace.extend(left);
        }
        Err(SuiteError::Launch(error)) => observed.note(format!("the launch was refused: {error}")),
        Err(error) => return Err(error),
    }
    let through = files_of(&elsewhere).into_iter();
    observed
        .findings
        .extend(through.map(|path| format!("written through a symbolic link: {}", path.display())));
    let _ = std::fs::remove_file(&place);
    let _ = std::fs::remove_dir_all(&elsewhere);
    lifecycle::sweep_up(&*lab.backend, &slug).await;
    Ok(())
}
