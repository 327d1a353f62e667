//! From an archive that a guest has made to a directory of this machine.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, fchmod, mkdirat, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{Listed, Listing, TreeError, stays_inside};

/// Most bytes of contents, and most entries, that are taken.
const LARGEST: u64 = 16 << 30;
const MOST: usize = 2_000_000;

/// What is taken of an archive.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// Whether what lies in directories named `.git` is taken too. Hooks and configuration in there are commands that the
    /// operator's own git would run.
    pub with_git: bool,
    /// Only what lies below this path of the tree, which is left out of the names.
    pub below: PathBuf,
    /// Only these paths of the tree; everything when absent.
    pub only: Option<BTreeSet<PathBuf>>,
}

impl UnpackOptions {
    /// The name that something in the tree gets; `None` when it is not taken.
    fn name(&self, path: &Path) -> Option<PathBuf> {
        let name = path.strip_prefix(&self.below).ok()?;
        let is_chosen = self.only.as_ref().is_none_or(|only| only.contains(path));
        (is_chosen && !name.as_os_str().is_empty()).then(|| name.to_owned())
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: usize,
    /// Entries that were left out because they lie in a `.git`.
    pub left_out: usize,
}

/// What is in an archive. The first component of every name is left out: it is what the tree was called over there.
///
/// # Errors
/// Anything in it that is not taken: absolute names and `..`, devices, links out of the tree, one name twice, names below
/// a link.
pub fn list(archive: impl Read) -> Result<Listing, TreeError> {
    let mut found = Found::default();
    let mut archive = reader(archive);
    let here = Path::new("archive");
    for entry in archive.entries().map_err(TreeError::system(here))? {
        let mut entry = entry.map_err(TreeError::system(here))?;
        let name = entry.path().map_err(TreeError::system(here))?.into_owned();
        let Some(path) = inside(&name)? else { continue };
        let listed = match entry.header().entry_type() {
            tar::EntryType::Directory => Listed::Directory,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
                found.count(&path, entry.size())?;
                let digest = digest(&mut entry).map_err(TreeError::system(&name))?;
                Listed::File { executable, digest }
            }
            tar::EntryType::Symlink => Listed::Link(link_target(&entry, &path)?),
            tar::EntryType::Link => found.linked(&entry, &path)?,
            _ => return Err(TreeError::refused(&name, "neither a file, nor a directory, nor a link")),
        };
        found.add(path, listed)?;
    }
    found.no_name_below_a_link()?;
    Ok(found.listing)
}

/// Writes an archive below a directory that exists. The whole archive is looked at before the first byte is written.
///
/// # Errors
/// As [`list`], and what cannot be written. What is at the target already is replaced, except that a directory is never
/// replaced by something else; links there are replaced, never followed.
pub fn unpack(mut archive: impl Read + Seek, target: &Path, options: UnpackOptions) -> Result<Unpacked, TreeError> {
    let here = Path::new("archive");
    let listing = list(&mut archive)?;
    archive.seek(SeekFrom::Start(0)).map_err(TreeError::system(here))?;
    let root = rustix::fs::open(
        target,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| TreeError::system(target)(error.into()))?;
    let mut done = Unpacked::default();
    let mut reader = reader(archive);
    for entry in reader.entries().map_err(TreeError::system(here))? {
        let mut entry = entry.map_err(TreeError::system(here))?;
        let name = entry.path().map_err(TreeError::system(here))?.into_owned();
        let Some(path) = inside(&name)? else { continue };
        let Some(target) = options.name(&path) else { continue };
        if !options.with_git && is_git(&path) {
            done.left_out += 1;
            continue;
        }
        let mode = permissions(&entry);
        let written = match entry.header().entry_type() {
            tar::EntryType::Directory => descend(&root, &target).map(|_| 0),
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                create(&root, &target, mode).and_then(|mut file| copy(&mut entry, &mut file).map(|()| 1))
            }
            tar::EntryType::Link => again(&root, &entry, &target, mode, &options).map(|()| 1),
            // Links come last.
            _ => Ok(0),
        };
        done.files += written.map_err(|error| TreeError::system(&path)(error))?;
    }
    for (path, listed) in &listing {
        if let Listed::Link(to) = listed
            && (options.with_git || !is_git(path))
            && let Some(target) = options.name(path)
        {
            link(&root, &target, to).map_err(|error| TreeError::system(path)(error))?;
            done.files += 1;
        }
    }
    Ok(done)
}

/// Writes the one file of an archive to a path.
///
/// # Errors
/// As [`unpack`], and when there is another number of files in it.
pub fn unpack_file(mut archive: impl Read + Seek, target: &Path) -> Result<(), TreeError> {
    let here = Path::new("archive");
    let listing = list(&mut archive)?;
    let files: Vec<&PathBuf> = listing.keys().collect();
    let ([path], true) = (&*files, matches!(listing.values().next(), Some(Listed::File { .. }))) else {
        return Err(TreeError::refused(here, "expected one file in it"));
    };
    let name = target
        .file_name()
        .ok_or_else(|| TreeError::refused(target, "no name for a file"))?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let root = rustix::fs::open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| TreeError::system(directory)(error.into()))?;
    archive.seek(SeekFrom::Start(0)).map_err(TreeError::system(here))?;
    let mut reader = reader(archive);
    for entry in reader.entries().map_err(TreeError::system(here))? {
        let mut entry = entry.map_err(TreeError::system(here))?;
        let name_there = entry.path().map_err(TreeError::system(here))?.into_owned();
        if inside(&name_there)?.as_ref() == Some(*path) {
            let mode = permissions(&entry);
            let mut file = create(&root, Path::new(name), mode).map_err(TreeError::system(target))?;
            return copy(&mut entry, &mut file).map_err(TreeError::system(target));
        }
    }
    Err(TreeError::refused(here, "it changed while it was read"))
}

/// Several archives one after another are one.
fn reader<R: Read>(archive: R) -> tar::Archive<R> {
    let mut archive = tar::Archive::new(archive);
    archive.set_ignore_zeros(true);
    archive
}

#[derive(Default)]
struct Found {
    listing: Listing,
    bytes: u64,
}

impl Found {
    fn count(&mut self, path: &Path, size: u64) -> Result<(), TreeError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LARGEST || self.listing.len() > MOST {
            return Err(TreeError::refused(
                path,
                "with it there are more than 16 GiB or 2,000,000 entries",
            ));
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, listed: Listed) -> Result<(), TreeError> {
        self.count(&path, 0)?;
        match self.listing.get(&path) {
            // A directory is named again where a tree comes in several archives.
            Some(Listed::Directory) if listed == Listed::Directory => Ok(()),
            Some(_) => Err(TreeError::refused(&path, "there twice")),
            None => {
                self.listing.insert(path, listed);
                Ok(())
            }
        }
    }

    /// A second name of a file: a file of the same content.
    fn linked(&self, entry: &tar::Entry<'_, impl Read>, path: &Path) -> Result<Listed, TreeError> {
        let other = entry.link_name().map_err(TreeError::system(path))?;
        let other = other.as_deref().map(inside).transpose()?.flatten();
        match other.and_then(|other| self.listing.get(&other)) {
            Some(file @ Listed::File { .. }) => Ok(file.clone()),
            _ => Err(TreeError::refused(
                path,
                "a second name of something that is no file of the tree",
            )),
        }
    }

    fn no_name_below_a_link(&self) -> Result<(), TreeError> {
        for path in self.listing.keys() {
            for parent in path.ancestors().skip(1) {
                if self
                    .listing
                    .get(parent)
                    .is_some_and(|listed| *listed != Listed::Directory)
                {
                    return Err(TreeError::refused(path, "below something that is no directory"));
                }
            }
        }
        Ok(())
    }
}

/// The path in the tree; `None` for the tree itself.
fn inside(name: &Path) -> Result<Option<PathBuf>, TreeError> {
    let mut parts: Vec<OsString> = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => return Err(TreeError::refused(name, "`..` in its name")),
            Component::RootDir | Component::Prefix(_) => return Err(TreeError::refused(name, "an absolute name")),
        }
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let path: PathBuf = if parts.len() == 1 {
        PathBuf::new()
    } else {
        parts[1..].iter().collect()
    };
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// What an entry says of its permissions, without set-user-id and its like; 0644 where it says nothing.
fn permissions(entry: &tar::Entry<'_, impl Read>) -> Mode {
    // Nine bits: they fit into 16 (macOS), too.
    Mode::from_raw_mode((entry.header().mode().unwrap_or(0o644) & 0o777) as RawMode)
}

fn link_target(entry: &tar::Entry<'_, impl Read>, path: &Path) -> Result<PathBuf, TreeError> {
    let target = entry.link_name().map_err(TreeError::system(path))?;
    match target {
        Some(target) if stays_inside(path, &target) => Ok(target.into_owned()),
        _ => Err(TreeError::refused(path, "a link out of the tree")),
    }
}

/// HFS+ and NTFS know other spellings of it; by its ASCII letters it is caught in either case.
fn is_git(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str().eq_ignore_ascii_case(".git"))
}

fn digest(content: &mut impl Read) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn copy(from: &mut impl Read, to: &mut File) -> std::io::Result<()> {
    std::io::copy(from, to)?;
    to.flush()
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory of the tree, made where it is absent; through no link.
fn descend(root: &OwnedFd, path: &Path) -> std::io::Result<OwnedFd> {
    let mut directory = root.as_fd().try_clone_to_owned()?;
    for part in path.components() {
        let name = part.as_os_str();
        let next = match openat(&directory, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                openat(&directory, name, DIRECTORY, Mode::empty())?
            }
            // A link where a directory is to be: NOTDIR with O_DIRECTORY, LOOP without.
            other => other?,
        };
        directory = next;
    }
    Ok(directory)
}

fn parent<'a>(root: &OwnedFd, path: &'a Path) -> std::io::Result<(OwnedFd, &'a OsStr)> {
    let name = path
        .file_name()
        .ok_or_else(|| std::io::Error::other("expected a name"))?;
    Ok((descend(root, path.parent().unwrap_or(Path::new("")))?, name))
}

/// Makes way for something that is no directory.
fn clear(directory: &OwnedFd, name: &OsStr) -> std::io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn create(root: &OwnedFd, path: &Path, mode: Mode) -> std::io::Result<File> {
    let (directory, name) = parent(root, path)?;
    clear(&directory, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&directory, name, flags, Mode::from_raw_mode(0o600))?;
    fchmod(&file, mode)?;
    Ok(file.into())
}

/// A second name of a file that was written before: a copy of it.
fn again(
    root: &OwnedFd,
    entry: &tar::Entry<'_, impl Read>,
    path: &Path,
    mode: Mode,
    options: &UnpackOptions,
) -> std::io::Result<()> {
    let other = entry.link_name()?;
    let other = other
        .as_deref()
        .map(inside)
        .transpose()
        .map_err(std::io::Error::other)?
        .flatten();
    let other = other.and_then(|other| options.name(&other));
    let other = other.ok_or_else(|| std::io::Error::other("the file that this is another name of is not taken"))?;
    let (directory, name) = parent(root, &other)?;
    let found = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("expected the name of a file"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(&directory, name, flags, Mode::empty())?;
    copy(&mut File::from(source), &mut create(root, path, mode)?)
}

fn link(root: &OwnedFd, path: &Path, to: &Path) -> std::io::Result<()> {
    let (directory, name) = parent(root, path)?;
    clear(&directory, name)?;
    Ok(symlinkat(to, &directory, name)?)
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
