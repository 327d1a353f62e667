//! Directories of the host that stand for the volumes which a bundle shares with its guest: an engine's own volume could not
//! be handed to a machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bottle_backend::{BackendError, Labels};
use bottle_plan::{ContainerPlan, MountSource, VolumePlan};

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

    /// A plan for the engine: with the directory in the volume's place.
    pub(crate) fn for_engine(&self, plan: &ContainerPlan) -> ContainerPlan {
        let mut plan = plan.clone();
        for mount in &mut plan.mounts {
            if let MountSource::Volume(volume) = &mount.source
                && self.of(volume).is_dir()
            {
                mount.source = MountSource::Bind(self.of(volume).display().to_string());
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
