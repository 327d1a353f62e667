//! `bottle-guest --pack PATH` and `--unpack PATH`: files out of a guest and into it, for `bottle cp` and `bottle diff`, and for
//! the project of a machine.
//!
//! They run in the guest as its user, through the launcher's exec: so they see in-memory file systems, which the engine's own
//! copies do not, and they can do nothing that the user could not.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a directory is called in an archive when nothing else is said.
const TREE: &str = "tree";

/// Runs one of them. `name` is what a packed directory is called.
pub fn main(what: &str, path: Option<String>, name: Option<String>) -> ExitCode {
    let Some(path) = path.filter(|path| path.starts_with('/')) else {
        eprintln!("bottle-guest: {what} expects an absolute path");
        return ExitCode::from(64);
    };
    let path = Path::new(&path);
    let done = match what {
        "--pack" => pack(path, name.as_deref().unwrap_or(TREE), io::stdout().lock()),
        "--unpack-file" => unpack_file(path, io::stdin().lock()),
        _ => unpack(path, io::stdin().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((path, error)) => {
            eprintln!("bottle-guest: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

type Failed = (PathBuf, io::Error);

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failed {
    let path = path.to_owned();
    move |error| (path, error)
}

/// A directory has this name in the archive, a file is called `file/NAME`.
fn pack(path: &Path, name: &str, out: impl Write) -> Result<(), Failed> {
    let mut archive = tar::Builder::new(out);
    // The path itself may be a link: who named it means what it leads to.
    let found = fs::metadata(path).map_err(at(path))?;
    if found.is_dir() {
        // Of the whole guest, its own file system: what is mounted there (processes, devices, shares) is none of its files.
        let only = (path == Path::new("/")).then_some(found.dev());
        pack_directory(&mut archive, path, Path::new(name), only)?;
    } else {
        let name = path.file_name().unwrap_or_default();
        pack_file(&mut archive, path, &Path::new("file").join(name))?;
    }
    let mut out = archive.into_inner().map_err(at(path))?;
    out.flush().map_err(at(path))
}

/// Packs a directory; of file systems that are mounted below it, where `only` names the one that is wanted, the mount point alone.
fn pack_directory(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    only: Option<u64>,
) -> Result<(), Failed> {
    let found = fs::metadata(path).map_err(at(path))?;
    let mut header = header_of(tar::EntryType::Directory, &found, 0);
    let mut slashed = name.as_os_str().to_owned();
    slashed.push("/");
    archive
        .append_data(&mut header, slashed, io::empty())
        .map_err(at(path))?;
    if only.is_some_and(|device| device != found.dev()) {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(at(path))? {
        let entry = entry.map_err(at(path))?;
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&path))?;
        if kind.is_dir() {
            pack_directory(archive, &path, &name, only)?;
        } else if kind.is_file() {
            pack_file(archive, &path, &name)?;
        } else if kind.is_symlink() {
            let found = fs::symlink_metadata(&path).map_err(at(&path))?;
            let target = fs::read_link(&path).map_err(at(&path))?;
            let mut header = header_of(tar::EntryType::Symlink, &found, 0);
            archive.append_link(&mut header, &name, target).map_err(at(&path))?;
        } else {
            eprintln!(
                "bottle-guest: {}: left out, neither file nor directory nor link",
                path.display()
            );
        }
    }
    Ok(())
}

fn pack_file(archive: &mut tar::Builder<impl Write>, path: &Path, name: &Path) -> Result<(), Failed> {
    let file = fs::File::open(path).map_err(at(path))?;
    let found = file.metadata().map_err(at(path))?;
    let mut header = header_of(tar::EntryType::Regular, &found, found.len());
    // One that grows meanwhile is cut to what its header says; one that shrinks is filled up.
    let content = io::Read::take(io::Read::chain(file, io::repeat(0)), found.len());
    archive.append_data(&mut header, name, content).map_err(at(path))
}

fn header_of(kind: tar::EntryType, found: &fs::Metadata, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o777);
    header.set_size(size);
    header.set_mtime(found.mtime().try_into().unwrap_or(0));
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header
}

/// What is in the archive's tree goes into a directory.
fn unpack(directory: &Path, from: impl io::Read) -> Result<(), Failed> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    let mut archive = tar::Archive::new(from);
    archive.set_ignore_zeros(true);
    // They may forbid writing to them: last, the innermost first.
    let mut modes = Vec::new();
    for entry in archive.entries().map_err(at(directory))? {
        let mut entry = entry.map_err(at(directory))?;
        let name: PathBuf = entry.path().map_err(at(directory))?.components().skip(1).collect();
        if name.as_os_str().is_empty() {
            continue;
        }
        let target = directory.join(&name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        if entry.header().entry_type().is_dir() {
            fs::create_dir_all(&target).map_err(at(&target))?;
            modes.push((entry.header().mode().map_err(at(&target))?, target));
            continue;
        }
        entry.set_preserve_permissions(true);
        entry.unpack(&target).map_err(at(&target))?;
    }
    for (mode, target) in modes.into_iter().rev() {
        fs::set_permissions(&target, fs::Permissions::from_mode(mode & 0o777)).map_err(at(&target))?;
    }
    Ok(())
}

/// The one file of the archive goes to a path, or into a directory under its own name.
fn unpack_file(path: &Path, from: impl io::Read) -> Result<(), Failed> {
    let mut archive = tar::Archive::new(from);
    let entry = archive.entries().map_err(at(path))?.next();
    let mut entry = entry
        .unwrap_or_else(|| Err(io::Error::other("the archive is empty")))
        .map_err(at(path))?;
    let name = entry
        .path()
        .map_err(at(path))?
        .file_name()
        .map(Path::new)
        .map(Path::to_owned);
    let target = if path.is_dir() {
        path.join(name.unwrap_or_default())
    } else {
        path.to_owned()
    };
    entry.set_preserve_permissions(true);
    entry.unpack(&target).map_err(at(&target)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let room = tempfile::tempdir().unwrap();
        let source = room.path().join("source");
        fs::create_dir_all(source.join("d/empty")).unwrap();
        fs::write(source.join("d/run"), "#!").unwrap();
        fs::set_permissions(source.join("d/run"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("d/run", source.join("link")).unwrap();
        fs::set_permissions(source.join("d"), fs::Permissions::from_mode(0o555)).unwrap();
        let mut packed = Vec::new();
        pack(&source, "app", &mut packed).unwrap();
        let first = tar::Archive::new(&*packed)
            .entries()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
            .unwrap()
            .into_owned();
        assert_eq!(first, Path::new("app/"));
        let target = room.path().join("deep/target");
        unpack(&target, &*packed).unwrap();
        assert!(target.join("d/empty").is_dir());
        let mode = |path: &str| fs::metadata(target.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("d/run"), mode("d")), (0o750, 0o555));
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("d/run"));
    }

    #[test]
    fn of_the_whole_guest_what_is_mounted_is_left_out() {
        let own = fs::metadata("/").unwrap().dev();
        let mut archive = tar::Builder::new(Vec::new());
        pack_directory(&mut archive, Path::new("/proc"), Path::new("proc"), Some(own)).unwrap();
        let packed = archive.into_inner().unwrap();
        let entries = tar::Archive::new(&*packed).entries().unwrap().count();
        assert_eq!(entries, 1, "the mount point");
    }

    #[test]
    fn a_file_goes_to_a_name_or_into_a_directory() {
        let room = tempfile::tempdir().unwrap();
        let source = room.path().join("one");
        fs::write(&source, "x").unwrap();
        let mut packed = Vec::new();
        pack(&source, TREE, &mut packed).unwrap();
        unpack_file(&room.path().join("two"), &*packed).unwrap();
        fs::create_dir(room.path().join("d")).unwrap();
        unpack_file(&room.path().join("d"), &*packed).unwrap();
        for name in ["two", "d/one"] {
            assert_eq!(fs::read_to_string(room.path().join(name)).unwrap(), "x");
        }
        assert!(pack(&room.path().join("absent"), TREE, io::sink()).is_err());
    }
}
