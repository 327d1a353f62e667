//! The project in the guest.

use crate::document::WorkspaceMode;
use crate::plan::{BackendKind, Mount, MountSource, VolumePlan, WorkspacePlan};
use crate::prepare::guest::is_mountable;
use crate::prepare::{Input, PlanError};

/// Where a project lies when the manifest does not say: below this, under its own name.
const PARENT: &str = "/work";

/// What a workspace adds to a plan.
pub(super) struct Workspace {
    pub(super) plan: WorkspacePlan,
    pub(super) mount: Option<Mount>,
    pub(super) volume: Option<VolumePlan>,
}

/// The workspace of a bottle; `None` when the manifest gives it none.
pub(super) fn workspace(input: &Input<'_>, user: Option<&str>) -> Result<Option<Workspace>, PlanError> {
    let Some(written) = &input.bottle.workspace else {
        return Ok(None);
    };
    let mode = written.mode.unwrap_or(WorkspaceMode::Copy);
    if mode == WorkspaceMode::GitGate {
        return Err(input.not_built(&input.path("workspace.mode"), "a workspace through the git gate"));
    }
    let is_machine = input.backend == BackendKind::Smolmachines;
    if is_machine && mode == WorkspaceMode::Bind {
        let what = "a bound workspace on the backend `smolmachines` (a copied one is)";
        return Err(input.not_built(&input.path("workspace.mode"), what));
    }
    let Some(source) = input.facts.workspace.clone() else {
        return Err(input.refuse("workspace.path", "a directory that is there"));
    };
    let target = match &written.target {
        Some(target) => target.clone(),
        None => format!("{PARENT}/{}", name_of(&source)),
    };
    check_target(input, &target, mode)?;
    if mode == WorkspaceMode::Copy && !user.is_none_or(is_known) {
        let expected = "a user by numbers, such as `1000:1000`, whom the copied files are given to";
        return Err(input.refuse("user", expected));
    }
    let (parent, name) = target.rsplit_once('/').unwrap_or(("", &target));
    let (mount, volume) = match mode {
        WorkspaceMode::Bind => (
            Some(Mount {
                source: MountSource::Bind(source.clone()),
                target: target.clone(),
                read_only: false,
            }),
            None,
        ),
        // A machine has a disk of its own.
        _ if is_machine => (None, None),
        // The volume's own root belongs to the engine's root, so the copy lies below it.
        _ => (
            Some(Mount {
                source: MountSource::Volume(input.engine_name("work")),
                target: parent.to_owned(),
                read_only: false,
            }),
            Some(VolumePlan {
                name: input.engine_name("work"),
                role: "work-volume".to_owned(),
                tmpfs_bytes: None,
            }),
        ),
    };
    Ok(Some(Workspace {
        plan: WorkspacePlan {
            mode,
            source,
            parent: parent.to_owned(),
            name: name.to_owned(),
            exclude: written.exclude.clone(),
        },
        mount,
        volume,
    }))
}

fn check_target(input: &Input<'_>, target: &str, mode: WorkspaceMode) -> Result<(), PlanError> {
    let parent = target.rsplit_once('/').map_or("", |(parent, _)| parent);
    let is_usable = match mode {
        WorkspaceMode::Bind => is_mountable(target),
        _ => is_mountable(target) && is_mountable(parent),
    };
    if !is_usable {
        let expected = match mode {
            WorkspaceMode::Bind => "an absolute path outside /dev, /proc, /sys and /run/bottle",
            _ => {
                "an absolute path of two parts or more, such as `/work/app`, outside /dev, /proc, /sys and /run/bottle"
            }
        };
        return Err(input.refuse("workspace.target", expected));
    }
    let hides = |path: &String| path == target || (mode != WorkspaceMode::Bind && path == parent);
    if input.bottle.tmpfs.keys().any(hides) {
        return Err(input.refuse("workspace.target", "a path where no `tmpfs` of this bottle is"));
    }
    Ok(())
}

/// Users whose numbers are known without the image.
fn is_known(user: &str) -> bool {
    user.split(':').all(|part| part.parse::<u32>().is_ok()) || user == "root"
}

/// A name for the project, from its directory's.
fn name_of(source: &str) -> String {
    let name = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_plain = !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_plain {
        name.to_owned()
    } else {
        "project".to_owned()
    }
}
