//! Copies what the launcher provides into places of the guest's user, before the command starts: the agent's prompt and
//! skills. The launcher cannot do it from outside: only here is known who the user is, and the home is made at the start.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// One copy: a file, or a directory with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// From.
    pub source: PathBuf,
    /// To.
    pub target: PathBuf,
    /// Whether every user of the guest may read it.
    pub shared: bool,
}

/// Copies. Unless it is shared, only the user may read the result: files get mode 0600 (0700 when they are programs),
/// directories 0700.
pub fn copy(copy: &Copy) -> Result<(), (PathBuf, io::Error)> {
    if let Some(parent) = copy.target.parent() {
        make_directory(parent, copy.shared).map_err(at(parent))?;
    }
    copy_entry(&copy.source, &copy.target, copy.shared)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> (PathBuf, io::Error) {
    let path = path.to_owned();
    move |error| (path, error)
}

fn make_directory(path: &Path, shared: bool) -> io::Result<()> {
    let mode = if shared { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn copy_entry(source: &Path, target: &Path, shared: bool) -> Result<(), (PathBuf, io::Error)> {
    let found = fs::symlink_metadata(source).map_err(at(source))?;
    if found.is_dir() {
        make_directory(target, shared).map_err(at(target))?;
        for entry in fs::read_dir(source).map_err(at(source))? {
            let entry = entry.map_err(at(source))?;
            copy_entry(&entry.path(), &target.join(entry.file_name()), shared)?;
        }
        Ok(())
    } else if found.is_file() {
        let mode = match (found.permissions().mode() & 0o111 != 0, shared) {
            (false, false) => 0o600,
            (true, false) => 0o700,
            (false, true) => 0o644,
            (true, true) => 0o755,
        };
        copy_file(source, target, mode).map_err(at(target))
    } else {
        Err((
            source.to_owned(),
            io::Error::other("expected a file or a directory, found something else"),
        ))
    }
}

fn copy_file(source: &Path, target: &Path, mode: u32) -> io::Result<()> {
    let mut from = fs::File::open(source)?;
    let mut to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(target)?;
    // One that was there keeps its mode otherwise.
    to.set_permissions(fs::Permissions::from_mode(mode))?;
    io::copy(&mut from, &mut to).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_tree_is_copied_for_its_user_only() {
        let room = tempfile::tempdir().unwrap();
        let source = room.path().join("from");
        fs::create_dir_all(source.join("below")).unwrap();
        fs::write(source.join("text"), "words").unwrap();
        fs::write(source.join("below/program"), "#!").unwrap();
        fs::set_permissions(source.join("below/program"), fs::Permissions::from_mode(0o755)).unwrap();
        let target = room.path().join("home/.bottle/skills/one");
        copy(&Copy {
            source,
            target: target.clone(),
            shared: false,
        })
        .unwrap();
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "words");
        assert_eq!(mode(&target.join("text")), 0o600);
        assert_eq!(mode(&target.join("below/program")), 0o700);
        assert_eq!(mode(&target.join("below")), 0o700);
    }

    #[test]
    fn links_and_absent_files_are_refused() {
        let room = tempfile::tempdir().unwrap();
        let source = room.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &source).unwrap();
        let target = room.path().join("to");
        let (path, _) = copy(&Copy {
            source: source.clone(),
            target: target.clone(),
            shared: false,
        })
        .unwrap_err();
        assert_eq!(path, source);
        assert!(!target.exists());
        copy(&Copy {
            source: room.path().join("absent"),
            target,
            shared: false,
        })
        .unwrap_err();
    }
}
