//! From a directory of this machine to archives.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Listed, Listing, TreeError, stays_inside};

/// Size at which an archive is handed over and the next begins.
const CHUNK: usize = 16 << 20;
/// Largest file: an archive is in memory while it is on its way.
const LARGEST: u64 = 1 << 30;

/// Packs a directory (or one file) under a name, as one or more whole archives that are handed to `take` one after another.
/// Names in `exclude` are left out wherever they are. Links stay links, and must lead to somewhere in the tree. With an
/// owner, everything is given to it.
///
/// # Errors
/// Something cannot be read or is refused (a link out of the tree, a device), or `take` failed.
pub fn pack(
    root: &Path,
    name: &str,
    exclude: &[String],
    owner: Option<(u64, u64)>,
    take: &mut dyn FnMut(Bytes) -> Result<(), TreeError>,
) -> Result<Listing, TreeError> {
    let mut packer = Packer {
        exclude,
        owner,
        archive: tar::Builder::new(Vec::new()),
        listing: Listing::new(),
        take,
    };
    let found = std::fs::symlink_metadata(root).map_err(TreeError::system(root))?;
    if found.is_dir() {
        packer.directory(root, Path::new(name), Path::new(""), &found)?;
    } else {
        // The first component is what the tree is called: see `list`.
        packer.entry(root, &Path::new("file").join(name), Path::new(name))?;
    }
    packer.hand_over()?;
    Ok(packer.listing)
}

struct Packer<'a> {
    exclude: &'a [String],
    owner: Option<(u64, u64)>,
    archive: tar::Builder<Vec<u8>>,
    listing: Listing,
    take: &'a mut dyn FnMut(Bytes) -> Result<(), TreeError>,
}

impl Packer<'_> {
    fn hand_over(&mut self) -> Result<(), TreeError> {
        let archive = std::mem::replace(&mut self.archive, tar::Builder::new(Vec::new()));
        let archive = archive.into_inner().map_err(TreeError::system(Path::new("archive")))?;
        (self.take)(archive.into())
    }

    /// `target` is the path in the archive, `inside` the one in the tree.
    fn directory(&mut self, path: &Path, target: &Path, inside: &Path, found: &Metadata) -> Result<(), TreeError> {
        let mut header = self.header(tar::EntryType::Directory, found, 0);
        self.archive
            .append_data(&mut header, slashed(target), std::io::empty())
            .map_err(TreeError::system(path))?;
        let entries = std::fs::read_dir(path).map_err(TreeError::system(path))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(TreeError::system(path))?.file_name());
        }
        names.sort();
        for name in names {
            if self.exclude.iter().any(|excluded| name.to_str() == Some(excluded)) {
                continue;
            }
            self.entry(&path.join(&name), &target.join(&name), &inside.join(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, target: &Path, inside: &Path) -> Result<(), TreeError> {
        let found = std::fs::symlink_metadata(path).map_err(TreeError::system(path))?;
        if found.is_dir() {
            self.listing.insert(inside.to_owned(), Listed::Directory);
            self.directory(path, target, inside, &found)
        } else if found.is_file() {
            self.file(path, target, inside)
        } else if found.is_symlink() {
            self.link(path, target, inside, &found)
        } else {
            Err(TreeError::refused(path, "neither a file, nor a directory, nor a link"))
        }
    }

    fn file(&mut self, path: &Path, target: &Path, inside: &Path) -> Result<(), TreeError> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        options.read(true).custom_flags(flags);
        let file = options.open(path).map_err(TreeError::system(path))?;
        let found = file.metadata().map_err(TreeError::system(path))?;
        if found.len() > LARGEST {
            return Err(TreeError::refused(path, "larger than 1 GiB; exclude it"));
        }
        // A file that grows meanwhile is cut, one that shrinks is an error: the header is written first.
        let mut content = Vec::new();
        file.take(found.len())
            .read_to_end(&mut content)
            .map_err(TreeError::system(path))?;
        let mut header = self.header(tar::EntryType::Regular, &found, content.len() as u64);
        self.archive
            .append_data(&mut header, target, &*content)
            .map_err(TreeError::system(path))?;
        let listed = Listed::File {
            executable: found.mode() & 0o100 != 0,
            digest: Sha256::digest(&content).into(),
        };
        self.listing.insert(inside.to_owned(), listed);
        if self.archive.get_ref().len() >= CHUNK {
            self.hand_over()?;
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path, inside: &Path, found: &Metadata) -> Result<(), TreeError> {
        let to = std::fs::read_link(path).map_err(TreeError::system(path))?;
        if !stays_inside(inside, &to) {
            return Err(TreeError::refused(path, "a link out of the tree; exclude it"));
        }
        let mut header = self.header(tar::EntryType::Symlink, found, 0);
        self.archive
            .append_link(&mut header, target, &to)
            .map_err(TreeError::system(path))?;
        self.listing.insert(inside.to_owned(), Listed::Link(to));
        Ok(())
    }

    fn header(&self, kind: tar::EntryType, found: &Metadata, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(found.mode() & 0o777);
        header.set_size(size);
        header.set_mtime(found.mtime().try_into().unwrap_or(0));
        let (uid, gid) = self.owner.unwrap_or((found.uid().into(), found.gid().into()));
        header.set_uid(uid);
        header.set_gid(gid);
        header
    }
}

/// Archives name directories with a slash at the end.
fn slashed(path: &Path) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push("/");
    text.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn packed(root: &Path, exclude: &[String]) -> Result<(Vec<Bytes>, Listing), TreeError> {
        let mut archives = Vec::new();
        let listing = pack(root, "app", exclude, Some((1000, 1001)), &mut |archive| {
            archives.push(archive);
            Ok(())
        })?;
        Ok((archives, listing))
    }

    #[test]
    fn modes_owner_and_links_are_kept_and_names_excluded() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path();
        std::fs::create_dir_all(root.join("a/target")).unwrap();
        std::fs::write(root.join("a/run"), "#!").unwrap();
        std::fs::set_permissions(root.join("a/run"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::write(root.join("a/target/big"), "x").unwrap();
        symlink("a/run", root.join("link")).unwrap();
        let (archives, listing) = packed(root, &["target".to_owned()]).unwrap();
        let names: Vec<String> = listing.keys().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["a", "a/run", "link"]);
        let mut archive = tar::Archive::new(&*archives[0]);
        let entry = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.path().unwrap().ends_with("run"));
        let entry = entry.unwrap();
        let header = entry.header();
        let seen = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        assert_eq!(seen, (0o755, 1000, 1001), "no setuid bit goes along");
    }

    #[test]
    fn links_out_of_the_tree_are_refused_by_name() {
        let room = tempfile::tempdir().unwrap();
        for target in ["/etc/passwd", "../outside", "a/../../outside"] {
            let link = room.path().join("link");
            symlink(target, &link).unwrap();
            let error = packed(room.path(), &[]).unwrap_err();
            assert!(
                matches!(&error, TreeError::Refused { path, .. } if *path == link),
                "{error}"
            );
            packed(room.path(), &["link".to_owned()]).unwrap();
            std::fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn a_large_tree_comes_in_several_archives() {
        let room = tempfile::tempdir().unwrap();
        for number in 0..3 {
            std::fs::write(room.path().join(number.to_string()), vec![0; CHUNK / 2 + 1]).unwrap();
        }
        let (archives, listing) = packed(room.path(), &[]).unwrap();
        assert_eq!((archives.len(), listing.len()), (2, 3));
    }
}
