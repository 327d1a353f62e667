//! The directory of a run: its launcher's state and whatever else it writes lies below.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::SuiteError;

const PREFIX: &str = "bottle-conform-";
/// Locked by its run for as long as it lives.
const LOCK: &str = "lock";

/// A directory of one run.
pub struct RunDirectory {
    /// Where.
    pub path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// Makes it, mode 0700, and removes those of runs that were killed.
    pub fn make(run: &str) -> Result<Self, SuiteError> {
        Self::make_below(&std::env::temp_dir(), run)
    }

    fn make_below(parent: &Path, run: &str) -> Result<Self, SuiteError> {
        remove_stale(parent);
        let path = parent.join(format!("{PREFIX}{run}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&path).and_then(|()| {
            let lock = File::create_new(path.join(LOCK))?;
            lock.lock()?;
            Ok(lock)
        });
        match made {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(source) => Err(SuiteError::Path { path, source }),
        }
    }
}

/// Removes what killed runs of this user left. What cannot be looked at or removed is another's, and stays.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let own: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_own).collect();
    let stale = own.iter().filter(|path| is_dead(path).unwrap_or(false));
    for dead in stale {
        let dead = dead.to_string_lossy();
        // Guests enter some of its directories, which are beside it for that.
        let beside = own.iter().filter(|path| {
            let rest = path.to_str().and_then(|path| path.strip_prefix(&*dead));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        for path in beside {
            match fs::remove_dir_all(path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what a killed run left"),
                Err(error) => tracing::debug!(path = %path.display(), %error, "a killed run left this"),
            }
        }
    }
}

/// A directory, no link to one, with such a name and of this user.
fn is_own(path: &PathBuf) -> bool {
    let is_named = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let user = rustix::process::geteuid().as_raw();
    is_named && fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user)
}

/// Whether nobody holds the lock of a run. One that is just being made has none.
fn is_dead(path: &Path) -> io::Result<bool> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let lock = OpenOptions::new()
        .read(true)
        .custom_flags(no_link)
        .open(path.join(LOCK))?;
    Ok(lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_runs_are_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let dead = RunDirectory::make_below(parent.path(), "dead").unwrap();
        let living = RunDirectory::make_below(parent.path(), "living").unwrap();
        for name in [
            "bottle-conform-dead-shared",
            "bottle-conform-deadly",
            "bottle-conform-living-shared",
            "bottle-conform-unlocked",
            "other",
        ] {
            fs::create_dir(at(name)).unwrap();
        }
        std::os::unix::fs::symlink(at("other"), at("bottle-conform-dead-link")).unwrap();
        fs::write(dead.path.join("state"), "x").unwrap();
        drop(dead);
        let next = RunDirectory::make_below(parent.path(), "next").unwrap();
        let mut left: Vec<String> = fs::read_dir(parent.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "bottle-conform-dead-link",
                "bottle-conform-deadly",
                "bottle-conform-living",
                "bottle-conform-living-shared",
                "bottle-conform-next",
                "bottle-conform-unlocked",
                "other"
            ]
        );
        assert_eq!(fs::metadata(&next.path).unwrap().mode() & 0o7777, 0o700);
        assert!(RunDirectory::make_below(parent.path(), "living").is_err());
        drop(living);
    }
}
