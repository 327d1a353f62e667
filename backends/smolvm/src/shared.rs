//! Directories of the host that stand for the volumes which a bundle shares with its guest: an engine's own volume could not
//! be handed to a machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bottle_backend::{BackendError, Labels};
use bottle_plan::{ContainerPlan, MountSource, VolumePlan};

use crate::image::whole;
use crate::journal::{Entry, Journal, Kind};
use crate::program::refused;
use crate::site::Site;

/// The directories of volumes.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    directory: PathBuf,
}

impl Shared {
    pub(crate) fn new(site: &Site) -> Self {
        Self {
            directory: site.shared(),
        }
    }

    /// The directory of a volume, whether it exists or not.
    pub(crate) fn of(&self, volume: &str) -> PathBuf {
        self.directory.join(volume)
    }

    /// Makes one. The bundle writes to it as its own root, which is this process's user only when that is root: for others
    /// it is open to all, in a directory that is open to no one else.
    pub(crate) fn make(&self, journal: &Journal, plan: &VolumePlan, labels: &Labels) -> Result<(), BackendError> {
        journal.write(&Entry::new(Kind::Directory, &plan.name, labels))?;
        let path = self.of(&plan.name);
        let mode = if rustix::process::geteuid().is_root() {
            0o755
        } else {
            0o777
        };
        let made = std::fs::create_dir(&path)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)));
        made.map_err(|error| refused(format!("make {}", path.display()), error.to_string()))
    }

    /// Removes one.
    pub(crate) fn remove(&self, journal: &Journal, volume: &str) -> Result<(), BackendError> {
        let path = self.of(volume);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(refused(format!("remove {}", path.display()), error.to_string()))
            }
            _ => journal.forget(volume),
        }
    }

    /// The directory that stands for what a mount is of, where one does.
    fn of_source(&self, source: &MountSource) -> Option<PathBuf> {
        match source {
            MountSource::Volume(volume) => Some(self.of(volume)).filter(|path| path.is_dir()),
            MountSource::Bind(_) => None,
        }
    }

    /// Directories that a plan's container has, each with where it is in there.
    pub(crate) fn of_plan<'a>(&self, plan: &'a ContainerPlan) -> impl Iterator<Item = (&'a str, PathBuf)> {
        let mounts = plan.mounts.iter();
        mounts.filter_map(|mount| Some((&*mount.target, self.of_source(&mount.source)?)))
    }

    /// A plan for the engine: with the directory in the volume's place.
    pub(crate) fn for_engine(&self, plan: &ContainerPlan) -> ContainerPlan {
        let mut plan = plan.clone();
        for mount in &mut plan.mounts {
            if let Some(path) = self.of_source(&mount.source) {
                mount.source = MountSource::Bind(path.display().to_string());
            }
        }
        plan
    }

    /// What an engine applied, in the plan's terms.
    pub(crate) fn as_planned(&self, mut applied: ContainerPlan) -> ContainerPlan {
        for mount in &mut applied.mounts {
            if let MountSource::Bind(path) = &mount.source
                && let Ok(name) = Path::new(path).strip_prefix(&self.directory)
                && let Some(name) = name.to_str().filter(|name| !name.contains('/'))
            {
                mount.source = MountSource::Volume(name.to_owned());
            }
        }
        applied
    }
}

/// Unpacks an archive into such a directory, with its modes and nobody's ownership. Nothing is written outside of it, wherever
/// links in it lead.
pub(crate) fn unpack(directory: &Path, archive: &[u8]) -> Result<(), BackendError> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    let unpacked = archive.unpack(directory);
    unpacked.map_err(|error| refused(format!("unpack into {}", directory.display()), whole(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(path: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(3);
        builder.append_data(&mut header, path, &b"new"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_have_their_modes_whatever_is_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("one"), "old, and longer").unwrap();
        for path in ["one", "below/two"] {
            unpack(directory.path(), &archive(path)).unwrap();
            let file = directory.path().join(path);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
        }
    }

    /// The bundle can write there, too.
    #[test]
    fn a_link_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        let share = directory.path().join("share");
        for path in [&outside, &share] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(outside.join("file"), "old").unwrap();
        std::os::unix::fs::symlink(&outside, share.join("agent")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), share.join("prompt")).unwrap();
        let error = unpack(&share, &archive("agent/file")).unwrap_err();
        assert!(error.to_string().contains(&share.display().to_string()), "{error}");
        unpack(&share, &archive("prompt")).unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}
