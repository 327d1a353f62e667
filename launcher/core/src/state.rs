//! The launcher's directory of one bottle: `STATE/bottles/SLUG/`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bottle_plan::Plan;

use crate::error::LaunchFailure;
use crate::owner::Owner;

/// File with the owner's process id, start and place, one a line.
pub(crate) const OWNER_FILE: &str = "owner";
/// File with the plan, as JSON.
pub(crate) const PLAN_FILE: &str = "plan.json";

/// Directory of a bottle's state below the launcher's state directory.
pub fn state_path(state_dir: &Path, slug: &str) -> PathBuf {
    state_dir.join("bottles").join(slug)
}

/// Makes the directory (0700) and its files; none may exist before. It has its name once it is whole: until then its name says
/// whose it is, so that what a killed launcher had begun is known for its.
pub(crate) fn make(state_dir: &Path, plan: &Plan) -> Result<(), LaunchFailure> {
    if !is_component(&plan.slug) {
        let problem = std::io::Error::other("a slug must be one path component");
        return Err(fail(state_dir)(problem));
    }
    // The way to the state directory is the operator's and may hold links; it and what is in it is ours.
    let bottles = state_dir.join("bottles");
    for ours in [state_dir, &bottles] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(ours);
        made.and_then(|()| check_owned(ours)).map_err(fail(ours))?;
    }
    let directory = state_path(state_dir, &plan.slug);
    let owner = Owner::current();
    let unfinished = passing(&directory, &owner);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&unfinished)
        .map_err(fail(&unfinished))?;
    let owner = format!("{}\n{}\n{}\n", owner.pid, owner.start, owner.place);
    let made = write(&unfinished.join(OWNER_FILE), owner.as_bytes(), 0o600)
        .and_then(|()| write_plan(&unfinished, plan))
        // Refused by the kernel where there is a file, or a directory with anything in it.
        .and_then(|()| std::fs::rename(&unfinished, &directory).map_err(fail(&directory)));
    if made.is_err() {
        // Where that fails too, the next sweep does it.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    made
}

/// What a bottle's directory is called while this process makes or removes it: `.PID.START.PLACE.SLUG`, the place in hex.
fn passing(directory: &Path, owner: &Owner) -> PathBuf {
    let slug = directory.file_name().unwrap_or_default().to_string_lossy();
    let place = hex::encode(&owner.place);
    directory.with_file_name(format!(".{}.{}.{place}.{slug}", owner.pid, owner.start))
}

/// Whose a directory is by its name alone; `None` for one that is whole.
fn passing_of(directory: &Path) -> Option<Owner> {
    let mut parts = directory.file_name()?.to_str()?.strip_prefix('.')?.splitn(4, '.');
    let (pid, start, place) = (parts.next()?, parts.next()?, parts.next()?);
    Owner::read(pid, start, String::from_utf8(hex::decode(place).ok()?).ok()?)
}

/// Writes the plan and its files again, after [`make`], for a plan that moved to another subnet.
pub(crate) fn rewrite(state_dir: &Path, plan: &Plan) -> Result<(), LaunchFailure> {
    let directory = state_path(state_dir, &plan.slug);
    for name in plan.state.iter().map(|file| file.name.as_str()).chain([PLAN_FILE]) {
        let path = directory.join(name);
        std::fs::remove_file(&path).map_err(fail(&path))?;
    }
    write_plan(&directory, plan)
}

/// Writes the plan and its files; none may be there.
fn write_plan(directory: &Path, plan: &Plan) -> Result<(), LaunchFailure> {
    let json = serde_json::to_vec_pretty(plan).map_err(|error| fail(directory)(error.into()))?;
    write(&directory.join(PLAN_FILE), &json, 0o600)?;
    for file in &plan.state {
        let path = directory.join(&file.name);
        if !is_component(&file.name) || matches!(file.name.as_str(), OWNER_FILE | PLAN_FILE) {
            let problem = "a state file's name must be one path component and none of the launcher's own";
            return Err(fail(&path)(std::io::Error::other(problem)));
        }
        write(&path, file.content.as_bytes(), file.mode)?;
    }
    Ok(())
}

/// Says which path a failure is about.
fn fail(path: &Path) -> impl FnOnce(std::io::Error) -> LaunchFailure {
    let path = path.to_owned();
    move |source| LaunchFailure::State { path, source }
}

/// Removes what [`make`] made, and whatever was added to it, except files that the plan says are kept. Without such it loses its
/// name first: half of one would not say whose it was.
pub(crate) fn remove(directory: &Path, keep: &[String]) -> Result<(), String> {
    let said = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if keep.is_empty() {
        let removed = match passing_of(directory) {
            Some(_) => std::fs::remove_dir_all(directory),
            None => {
                let going = passing(directory, &Owner::current());
                std::fs::rename(directory, &going).and_then(|()| std::fs::remove_dir_all(&going))
            }
        };
        return match removed {
            // Another may have been faster.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(said(directory, error)),
            _ => Ok(()),
        };
    }
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| said(directory, error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| said(directory, error))?;
        if !keep.iter().any(|name| entry.file_name() == name.as_str()) {
            std::fs::remove_file(entry.path()).map_err(|error| said(&entry.path(), error))?;
        }
    }
    Ok(())
}

/// The owner of a bottle's directory: whoever is making or removing it, else the one noted in it.
pub(crate) fn owner_of(directory: &Path) -> Option<Owner> {
    passing_of(directory).or_else(|| noted_in(directory))
}

fn noted_in(directory: &Path) -> Option<Owner> {
    let text = std::fs::read_to_string(directory.join(OWNER_FILE)).ok()?;
    let mut lines = text.lines();
    Owner::read(lines.next()?, lines.next()?, lines.next()?.to_owned())
}

fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Another user's directory, or one that others may write, could have links put into it.
fn check_owned(directory: &Path) -> std::io::Result<()> {
    let found = std::fs::symlink_metadata(directory)?;
    let problem = if found.is_symlink() {
        "a link"
    } else if !found.is_dir() {
        "no directory"
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        "another user's"
    } else if found.mode() & 0o022 != 0 {
        "a directory that others may write to"
    } else {
        return Ok(());
    };
    Err(std::io::Error::other(format!(
        "expected a directory of this user that no one else may write to, found {problem}: set BOTTLE_STATE_DIR to one of \
         yours, or `chmod go-w` this one"
    )))
}

/// Makes a file through no link; none may be there.
///
/// # Errors
/// When something is there, or it cannot be made.
pub fn create_private(path: &Path, mode: u32) -> std::io::Result<File> {
    let file = File::options()
        .append(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    // The process's umask may have taken bits away.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(file)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), LaunchFailure> {
    let make = || create_private(path, mode)?.write_all(content);
    make().map_err(|source| LaunchFailure::State {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_directory_says_whose_it_is_and_is_beside_its_own() {
        let directory = state_path(Path::new("/state"), "dev.1-abc");
        let passing = passing(&directory, &Owner::current());
        assert_eq!(passing.parent(), directory.parent());
        let name = passing.file_name().unwrap().to_str().unwrap();
        assert!(name.len() < 255 && name.ends_with(".dev.1-abc"), "{name}");
        assert_eq!(passing_of(&passing), Some(Owner::current()));
        for whole in ["dev.1-abc", "..", ".1.2", ".1.2.zz.d", ".0.2.61.d", ".-1.2.61.d"] {
            assert_eq!(passing_of(Path::new(whole)), None, "{whole}");
        }
    }
}
