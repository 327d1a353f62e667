//! The project: into a guest before it starts, out of it after it has ended.

use std::path::{Path, PathBuf};

use bottle_backend::{BackendError, BackendErrorKind, Observed, Output, Role};
use bottle_plan::{WorkspaceMode, WorkspacePlan};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bottle::Bottle;
use crate::error::LaunchFailure;
use crate::launch::Site;
use crate::made::{Half, backend_failed};
use crate::tree::{self, Listing, TreeError};

/// Where a copied workspace comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkspaceSource {
    /// The directory of the plan.
    Directory,
    /// An archive that an earlier bottle of the same slug left, see [`Bottle::workspace_archive`].
    Archive(PathBuf),
}

impl Site {
    /// Puts the project into the created guest, when it has one of its own. What was put there.
    pub(crate) async fn fill_workspace(&self, guest: &Half, seen: &Observed) -> Result<Option<Listing>, LaunchFailure> {
        let plan = self.plan().workspace.clone();
        let Some(plan) = plan.filter(|plan| plan.mode == WorkspaceMode::Copy) else {
            return Ok(None);
        };
        self.say("copying the project");
        let owner = owner(seen.applied.user.as_deref())?;
        let (sender, mut archives) = mpsc::channel::<Bytes>(1);
        let parent = plan.parent.clone();
        let source = self.options.workspace.clone();
        let packing = tokio::task::spawn_blocking(move || match source {
            WorkspaceSource::Directory => pack(&plan, owner, &sender),
            WorkspaceSource::Archive(path) => read(&path, &sender),
        });
        let mut put = Ok(());
        while let Some(archive) = archives.recv().await {
            put = self.backend.put(Role::Guest, &guest.id, &parent, archive).await;
            if put.is_err() {
                break;
            }
        }
        // Before the packing is awaited: it must not wait for room.
        drop(archives);
        put.map_err(backend_failed("copying the project"))?;
        let packed = packing
            .await
            .map_err(|error| LaunchFailure::Workspace(error.to_string()))?;
        packed
            .map(Some)
            .map_err(|error| LaunchFailure::Workspace(error.to_string()))
    }
}

fn pack(plan: &WorkspacePlan, owner: (u64, u64), sender: &mpsc::Sender<Bytes>) -> Result<Listing, TreeError> {
    let root = Path::new(&plan.source);
    tree::pack(root, &plan.name, &plan.exclude, Some(owner), &mut |archive| {
        sender.blocking_send(archive).map_err(|_| gone(root))
    })
}

fn read(path: &Path, sender: &mpsc::Sender<Bytes>) -> Result<Listing, TreeError> {
    let failed = |source| TreeError::System {
        path: path.to_owned(),
        source,
    };
    let archive = Bytes::from(std::fs::read(path).map_err(failed)?);
    let listing = tree::list(&*archive)?;
    sender.blocking_send(archive).map_err(|_| gone(path))?;
    Ok(listing)
}

/// Nobody takes archives any more: the failure of the call that took the last one is the one to tell.
fn gone(path: &Path) -> TreeError {
    TreeError::System {
        path: path.to_owned(),
        source: std::io::ErrorKind::BrokenPipe.into(),
    }
}

/// The numbers of a guest's user, as the engine reports it: the image's own where the plan has none.
fn owner(user: Option<&str>) -> Result<(u64, u64), LaunchFailure> {
    let user = user.unwrap_or_default();
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    let number = |part: &str| match part {
        "" | "root" => Some(0),
        part => part.parse::<u32>().ok().map(u64::from),
    };
    number(uid).zip(number(gid)).ok_or_else(|| {
        LaunchFailure::Workspace(format!(
            "the image's user is `{user}`, whose numbers only the image knows: set `user` in the manifest, \
             such as \"1000:1000\""
        ))
    })
}

impl Bottle {
    /// What was put into the copied workspace; `None` when the guest has none of its own.
    pub fn workspace_before(&self) -> Option<&Listing> {
        self.workspace.as_ref()
    }

    /// The copied workspace as a tar archive, while the guest runs or after its end, before [`close`](Self::close).
    pub async fn workspace_archive(&self) -> Result<Output, BackendError> {
        match &self.plan().workspace {
            Some(plan) if plan.mode == WorkspaceMode::Copy => {
                self.backend()
                    .get(Role::Guest, self.id(Role::Guest), &plan.target())
                    .await
            }
            _ => Err(BackendError {
                call: "get the workspace".to_owned(),
                problem: "the bottle has none of its own".to_owned(),
                kind: BackendErrorKind::NotFound,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_by_number_or_not_at_all() {
        for (user, expected) in [
            (None, Some((0, 0))),
            (Some(""), Some((0, 0))),
            (Some("root"), Some((0, 0))),
            (Some("1000"), Some((1000, 1000))),
            (Some("1000:1001"), Some((1000, 1001))),
            (Some("node"), None),
            (Some("1000:node"), None),
        ] {
            assert_eq!(owner(user).ok(), expected, "{user:?}");
        }
    }
}
