//! LC-05: what a launcher keeps in files.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bottle_backend::Role;
use bottle_plan::Plan;
use probe_spec::{StateCheck, Vantage};

use super::search::contains;
use super::{Observation, images, lifecycle, plan_like, secrets};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::launch_below;
use crate::images::MARKER;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

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
                match secrets::described(bottle, role).await {
                    Ok(more) => texts.extend(more),
                    Err(problem) => return Ok(Observation::not_issued(problem)),
                }
            }
            secrets::search(target, Ok(texts), &mut observed);
        }
        StateCheck::NotInLayers => {
            if let Err(problem) = in_layers(target, &mut observed).await {
                observed.issued = false;
                observed.note(problem);
            }
        }
        StateCheck::NoImageKept => no_image_kept(target, cell, &mut observed).await?,
        StateCheck::GoneAfterStop => gone_after_stop(target, cell, &mut observed).await?,
        StateCheck::NoFollow
        | StateCheck::NoFollowParent
        | StateCheck::WritableParent
        | StateCheck::WritableStateDirectory => hostile_place(target, cell, check, &mut observed).await?,
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
    // STATE/bottles and STATE: whoever may write there may put something else in the bottle's place.
    state.ancestors().skip(1).take(2).for_each(|above| check(above, 0o700));
    let files = files_of(state);
    files.iter().for_each(|file| check(file, 0o600));
    observed.note(format!("{} files in {}", files.len(), state.display()));
    if !files.is_empty() {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
}

/// Every file below a directory.
pub fn files_of(directory: &Path) -> Vec<PathBuf> {
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
    let stopped = lifecycle::stopped(target, cell).await?;
    observed.note(format!("{} files while it was up", stopped.state_files));
    if stopped.state_files > 0 {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
    let left = stopped.state_left.iter();
    observed
        .findings
        .extend(left.map(|path| format!("left after the stop: {path}")));
    Ok(())
}

/// A state directory in which a launch must not write: a symbolic link is in its way, or others may write to it.
struct Hostile {
    state_dir: PathBuf,
    /// Where nothing may be written.
    watched: PathBuf,
}

impl Hostile {
    fn make(directory: &Path, slug: &str, check: StateCheck) -> std::io::Result<Self> {
        let state_dir = directory.join(format!("{slug}.state"));
        let elsewhere = directory.join(format!("{slug}.elsewhere"));
        let bottles = state_dir.join("bottles");
        let make = |path: &Path, mode: u32| {
            std::fs::create_dir(path)?;
            // The process's umask takes bits away.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        make(&elsewhere, 0o700)?;
        make(&state_dir, 0o700)?;
        let watched = match check {
            StateCheck::NoFollowParent => {
                symlink(&elsewhere, &bottles)?;
                elsewhere
            }
            StateCheck::WritableParent => {
                make(&bottles, 0o777)?;
                bottles
            }
            StateCheck::WritableStateDirectory => {
                make(&bottles, 0o700)?;
                std::fs::set_permissions(&state_dir, std::fs::Permissions::from_mode(0o777))?;
                bottles
            }
            _ => {
                make(&bottles, 0o700)?;
                symlink(&elsewhere, bottle_launch::state_path(&state_dir, slug))?;
                elsewhere
            }
        };
        Ok(Self { state_dir, watched })
    }

    fn remove(&self) {
        for path in [&self.state_dir, &self.watched] {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Launches where a hostile state directory waits: the launch must be refused before it has written anything.
async fn hostile_place(
    target: &Target<'_>,
    cell: &CaseCell,
    check: StateCheck,
    observed: &mut Observation,
) -> Result<(), SuiteError> {
    let lab = target.lab;
    let planned = plan_like(target, cell).await?;
    let slug = planned.plan.slug.clone();
    let place = match Hostile::make(&lab.directory, &slug, check) {
        Ok(place) => place,
        Err(error) => {
            *observed = Observation::not_issued(format!("the place could not be prepared: {error}"));
            return Ok(());
        }
    };
    let canary = place.watched.join("canary");
    if std::fs::write(&canary, b"canary").is_ok() && files_of(&place.watched) == [canary.clone()] {
        observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]);
    }
    let _ = std::fs::remove_file(&canary);
    if planned.removed.writes_anywhere
        && let Err(error) = write_anywhere(&place.state_dir, &planned.plan)
    {
        observed.note(format!("the careless launcher's files: {error}"));
    }
    let launched = launch_below(lab, planned, place.state_dir.clone()).await;
    // Before the stop, which removes them.
    let written = files_of(&place.watched).into_iter();
    observed
        .findings
        .extend(written.map(|path| format!("written ({check:?}): {}", path.display())));
    match launched {
        Ok(fixture) => {
            observed.note("the launch went on");
            let left = fixture.close(lab).await;
            observed.trace.extend(left);
        }
        Err(SuiteError::Launch(error)) => observed.note(format!("the launch was refused: {error}")),
        Err(error) => {
            place.remove();
            return Err(error);
        }
    }
    place.remove();
    lifecycle::sweep_up(&*lab.backend, &slug).await;
    Ok(())
}

/// What a launcher does that looks at nothing: makes the directory wherever the path leads, and writes.
fn write_anywhere(state_dir: &Path, plan: &Plan) -> std::io::Result<()> {
    let directory = bottle_launch::state_path(state_dir, &plan.slug);
    std::fs::create_dir_all(&directory)?;
    plan.state
        .iter()
        .try_for_each(|file| std::fs::write(directory.join(&file.name), &file.content))
}

/// The images that the bottle is made of, and those that were made of it.
async fn in_layers(target: &Target<'_>, observed: &mut Observation) -> Result<(), String> {
    let bottle = &target.fixture.bottle;
    let kept = if target.fixture.removed.keeps_images {
        Some(images::keep(bottle, &target.fixture.token).await?)
    } else {
        None
    };
    let plan = bottle.plan();
    let mut all = vec![plan.guest.image.clone(), plan.bundle.image.clone()];
    all.extend(images::of_bottle(bottle.slug()).await?);
    let mut texts = Ok(Vec::new());
    for image in &all {
        texts = match (texts, secrets::layers(image).await) {
            (Ok(mut texts), Ok(more)) => {
                texts.extend(more);
                Ok(texts)
            }
            (Err(problem), _) | (_, Err(problem)) => Err(problem),
        };
    }
    if let Ok(texts) = &texts
        && !texts.iter().any(|(_, bytes)| contains(bytes, MARKER.as_bytes()))
    {
        texts_without_marker(observed);
    }
    secrets::search(target, texts, observed);
    match kept {
        Some(kept) => images::remove(&kept).await,
        None => Ok(()),
    }
}

/// The marker is planted in the guest's image: a search that does not find it reads something else.
fn texts_without_marker(observed: &mut Observation) {
    observed.issued = false;
    observed.note("the planted marker is not in what was read");
}

/// Looks for an image of the bottle that was stopped for all.
async fn no_image_kept(target: &Target<'_>, cell: &CaseCell, observed: &mut Observation) -> Result<(), SuiteError> {
    let stopped = lifecycle::stopped(target, cell).await?;
    let canary = format!("canary-{}", &fresh_nonce().as_str()[2..10]);
    match images::are_found(&target.lab.images.probe.reference, &canary).await {
        Ok(true) => observed.alive.extend([Vantage::HostFiles, Vantage::Inventory]),
        Ok(false) => observed.note("an image with another name was not found"),
        Err(problem) => observed.note(problem),
    }
    match &stopped.images {
        Ok(images) => observed
            .findings
            .extend(images.iter().map(|image| format!("kept after the stop: image {image}"))),
        Err(problem) => {
            observed.issued = false;
            observed.note(problem.clone());
        }
    }
    Ok(())
}
