//! An archive of files becomes a directory that a machine can read.
//!
//! The archive is the engine's, but its content is anybody's: an entry that would be written outside of the directory, by
//! its name or through a link, ends the whole. Set-user-id bits are left out: nothing in a guest may gain privileges, and on
//! the host they would be root's gift to whoever gets to the file. Everything can be read by others, because the machine's
//! user is one of them.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// Reads the pieces of an archive, on a thread that may block.
pub(super) struct PieceReader {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
}

impl PieceReader {
    pub(super) fn new(pieces: mpsc::Receiver<Result<Bytes, String>>) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
        }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Computes the digest of what is read.
struct Hashed<R> {
    from: R,
    digest: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// An entry that is not taken.
    #[error("the entry `{path}` of the image {why}, so nothing of it is used")]
    Hostile {
        /// Its path.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The system refused.
    #[error("{path}: {}", whole(.source), path = .path.display())]
    Write {
        /// Which path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The archive ended early or is none.
    #[error("the archive of the image cannot be read: {}", whole(.0))]
    Archive(io::Error),
}

/// An error with its causes: the library's own words are only that it failed.
pub(crate) fn whole(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        text = format!("{text}: {one}");
        cause = one.source();
    }
    text
}

/// Begins the name of an entry that says that another is gone.
const GONE: &str = ".wh.";
/// The name of one that says so of everything that was in its directory before.
const ALL_GONE: &str = ".wh..wh..opq";

/// Unpacks an archive into a fresh directory.
pub(super) fn unpack(archive: impl Read, directory: &Path) -> Result<(), UnpackError> {
    let mut unpacker = Unpacker::new(directory);
    unpacker.entries(archive, None)?;
    unpacker.finish()
}

/// A directory that archives are unpacked into.
pub(super) struct Unpacker<'a> {
    directory: &'a Path,
    /// Directories may forbid writing to them: their modes come last.
    modes: BTreeMap<PathBuf, u32>,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            modes: BTreeMap::new(),
        }
    }

    /// Unpacks a layer of an image over those below it; `digest` is `sha256:DIGEST` of its bytes. What is in the directory is
    /// the image only when this succeeds.
    pub(super) fn checked_layer(&mut self, archive: impl Read, digest: &str) -> Result<(), String> {
        let mut archive = Hashed {
            from: archive,
            digest: Sha256::new(),
        };
        let unpacked = self.entries(&mut archive, Some(HashSet::new()));
        // To its end, which a reader of archives leaves out.
        let rest = io::copy(&mut archive, &mut io::sink());
        let found = format!("sha256:{:x}", archive.digest.finalize());
        // Damage first: what it made of the archive is no news.
        if rest.is_ok() && found != digest {
            return Err(format!("expected a layer {digest}, found {found}"));
        }
        unpacked.map_err(|error| error.to_string())?;
        rest.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Sets the modes of directories.
    pub(super) fn finish(self) -> Result<(), UnpackError> {
        // The innermost first.
        for (relative, mode) in self.modes.iter().rev() {
            let path = self.directory.join(relative);
            // A later entry may have put something else in its place.
            if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                set_mode(&path, *mode)?;
            }
        }
        set_mode(self.directory, 0o755)
    }

    /// `here` has what the layer itself brought so far; without it the archive is no layer.
    fn entries(&mut self, archive: impl Read, mut here: Option<HashSet<PathBuf>>) -> Result<(), UnpackError> {
        let mut archive = tar::Archive::new(archive);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
        archive.set_overwrite(true);
        for entry in archive.entries().map_err(UnpackError::Archive)? {
            let mut entry = entry.map_err(UnpackError::Archive)?;
            let written = entry.path().map_err(UnpackError::Archive)?.into_owned();
            let relative = inside(&written).ok_or_else(|| hostile(&written, "leads out of it"))?;
            if relative.as_os_str().is_empty() {
                continue;
            }
            if let Some(here) = &mut here {
                if self.takes_away(&relative, here)? {
                    continue;
                }
                self.make_place(&relative, entry.header().entry_type())?;
                here.insert(relative.clone());
            }
            self.entry(&mut entry, &written, relative)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        written: &Path,
        relative: PathBuf,
    ) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        match kind {
            tar::EntryType::Regular
            | tar::EntryType::Continuous
            | tar::EntryType::Directory
            | tar::EntryType::Symlink
            | tar::EntryType::GNUSparse => {}
            tar::EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Archive)?;
                if target.is_none_or(|target| inside(&target).is_none()) {
                    return Err(hostile(written, "is a hard link out of it"));
                }
            }
            // The guest has devices of its own.
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => return Ok(()),
            _ => return Err(hostile(written, "is of a kind that is not known")),
        }
        let mode = entry.header().mode().map_err(UnpackError::Archive)? & 0o1777;
        let path = self.directory.join(&relative);
        // Refuses to go through a link; says `false` for a name that leads out.
        let done = entry.unpack_in(self.directory).map_err(|source| UnpackError::Write {
            path: path.clone(),
            source,
        })?;
        if !done {
            return Err(hostile(written, "leads out of it"));
        }
        match kind {
            tar::EntryType::Directory => {
                set_mode(&path, mode | 0o700)?;
                self.modes.insert(relative, mode | 0o005);
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                set_mode(&path, mode | 0o004 | (mode & 0o100) >> 6)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes what an entry says is gone; whether it is one that says so.
    fn takes_away(&self, relative: &Path, here: &HashSet<PathBuf>) -> Result<bool, UnpackError> {
        let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(gone) = name.strip_prefix(GONE) else {
            return Ok(false);
        };
        let parent = relative.parent().unwrap_or(Path::new(""));
        if matches!(gone, "" | "." | "..") {
            return Err(hostile(relative, "takes away nothing that has a name"));
        }
        if name != ALL_GONE {
            self.remove(&parent.join(gone))?;
            return Ok(true);
        }
        let directory = self.directory.join(parent);
        self.check_inside(&directory, relative)?;
        for below in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let below = parent.join(below.file_name());
            if !here.iter().any(|brought| brought.starts_with(&below)) {
                self.remove(&below)?;
            }
        }
        Ok(true)
    }

    /// Removes what an entry does not go together with: a directory is replaced by anything else, and the other way round.
    fn make_place(&self, relative: &Path, kind: tar::EntryType) -> Result<(), UnpackError> {
        let found = std::fs::symlink_metadata(self.directory.join(relative));
        match found {
            Ok(found) if found.is_dir() != kind.is_dir() => self.remove(relative),
            _ => Ok(()),
        }
    }

    fn remove(&self, relative: &Path) -> Result<(), UnpackError> {
        let path = self.directory.join(relative);
        let Ok(found) = std::fs::symlink_metadata(&path) else {
            return Ok(());
        };
        self.check_inside(path.parent().unwrap_or(self.directory), relative)?;
        let removed = if found.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(|source| UnpackError::Write { path, source })
    }

    /// Refuses a directory that a link leads out of ours to.
    fn check_inside(&self, directory: &Path, relative: &Path) -> Result<(), UnpackError> {
        let real = |path: &Path| std::fs::canonicalize(path);
        match (real(directory), real(self.directory)) {
            (Ok(found), Ok(ours)) if found.starts_with(&ours) => Ok(()),
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => Err(hostile(relative, "leads out of it")),
        }
    }
}

fn hostile(path: &Path, why: &'static str) -> UnpackError {
    UnpackError::Hostile {
        path: path.display().to_string(),
        why,
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), UnpackError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| UnpackError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The path without its root, or `None` when it leads out.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header
    }

    /// An archive with names that the library would not write by itself.
    fn archive(entries: &[(&str, tar::EntryType, u32, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, mode, content) in entries {
            let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            let size = if is_link { 0 } else { content.len() as u64 };
            let mut header = header(*kind, *mode, size);
            let name = &mut header.as_gnu_mut().unwrap().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            if is_link {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_cksum();
            builder
                .append(&header, if is_link { &b""[..] } else { content.as_bytes() })
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

    #[test]
    fn files_can_be_read_by_others_and_give_no_privileges() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            ("root/", Directory, 0o700, ""),
            ("root/secret", Regular, 0o600, "x"),
            ("bin/", Directory, 0o555, ""),
            ("bin/su", Regular, 0o4750, "y"),
            ("sh", Symlink, 0o777, "/bin/su"),
            ("tmp/", Directory, 0o1777, ""),
            ("bin/su2", Link, 0o755, "bin/su"),
            ("dev/", Directory, 0o755, ""),
            ("dev/null", Char, 0o666, ""),
        ]);
        unpack(bytes.as_slice(), directory.path()).unwrap();
        let mode = |path: &str| {
            let found = std::fs::metadata(directory.path().join(path)).unwrap();
            found.permissions().mode() & 0o7777
        };
        assert_eq!(mode("root"), 0o705);
        assert_eq!(mode("root/secret"), 0o604);
        assert_eq!(mode("bin/su"), 0o755);
        assert_eq!(mode("bin"), 0o555);
        assert_eq!(mode("tmp"), 0o1777);
        assert_eq!(std::fs::read_to_string(directory.path().join("bin/su2")).unwrap(), "y");
        assert_eq!(
            std::fs::read_link(directory.path().join("sh")).unwrap(),
            Path::new("/bin/su")
        );
        assert!(!directory.path().join("dev/null").exists());
    }

    #[rstest::rstest]
    #[case(&[("../x", Regular, 0o644, "x")])]
    #[case(&[("a/../../x", Regular, 0o644, "x")])]
    #[case(&[("out", Symlink, 0o777, "OUTSIDE"), ("out/x", Regular, 0o644, "x")])]
    #[case(&[("x", Link, 0o644, "../outside/kept")])]
    #[case(&[("out", Symlink, 0o777, "OUTSIDE"), ("x", Link, 0o644, "out/kept")])]
    fn hostile_entries_are_refused(#[case] entries: &[(&str, tar::EntryType, u32, &str)]) {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        let inside = directory.path().join("inside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let outside_text = outside.display().to_string();
        let entries: Vec<_> = entries
            .iter()
            .map(|(path, kind, mode, content)| {
                let content = if *content == "OUTSIDE" {
                    outside_text.as_str()
                } else {
                    *content
                };
                (*path, *kind, *mode, content)
            })
            .collect();
        unpack(archive(&entries).as_slice(), &inside).unwrap_err();
        let left: Vec<_> = std::fs::read_dir(&outside)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, ["kept"]);
        assert!(!directory.path().join("x").exists());
    }

    #[test]
    fn an_archive_that_is_cut_off_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[("a", Regular, 0o644, &"x".repeat(4096))]);
        assert!(unpack(&bytes[..2000], directory.path()).is_err());
    }
}
