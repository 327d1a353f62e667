//! Work that outlives its bottle: what an agent changed in a copied project, kept until the operator has taken it or dropped
//! it. `diff` and `cp` read it, `resume` goes on with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bottle_launch::Bottle;
use bottle_launch::tree::{self, Listing};
use bottle_plan::{BackendKind, Plan, Topology, WorkspaceMode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::failure::{Failure, say};
use crate::host::state_dir;
use crate::journal;

/// The archive, and what is known about it.
const ARCHIVE_FILE: &str = "work.tar";
const NOTE_FILE: &str = "kept.json";

/// What is known of a bottle that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its unique name.
    pub slug: String,
    /// Its manifest, absolute.
    pub manifest: PathBuf,
    /// Its name in it.
    pub bottle: String,
    /// Its agent.
    pub agent: Option<String>,
    /// Its backend.
    #[serde(default = "docker")]
    pub backend: BackendKind,
    /// Its topology.
    pub topology: Topology,
    /// The command of its command line; empty for the agent's own.
    pub command: Vec<String>,
    /// [`policy_digest`] of its plan.
    pub policy: String,
    /// Where the project came from.
    pub source: PathBuf,
    /// What was not copied.
    pub exclude: Vec<String>,
}

/// What work was kept of before it was noted.
fn docker() -> BackendKind {
    BackendKind::Docker
}

impl Kept {
    /// What `run` knows of a bottle with a copied workspace; `None` for others.
    pub fn of(plan: &Plan, manifest: &Path, command: &[String]) -> Option<Self> {
        let workspace = plan
            .workspace
            .as_ref()
            .filter(|plan| plan.mode == WorkspaceMode::Copy)?;
        Some(Self {
            slug: plan.slug.clone(),
            manifest: std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned()),
            bottle: plan.bottle.clone(),
            agent: plan.agent.as_ref().map(|agent| agent.name.clone()),
            backend: plan.backend,
            topology: plan.topology,
            command: command.to_vec(),
            policy: policy_digest(plan),
            source: PathBuf::from(&workspace.source),
            exclude: workspace.exclude.clone(),
        })
    }

    /// Its archive.
    pub fn archive(&self) -> PathBuf {
        directory(&self.slug).join(ARCHIVE_FILE)
    }
}

/// What a guest may do, in a few characters: what it may reach, who resolves and vouches for it, its image and its limits.
pub fn policy_digest(plan: &Plan) -> String {
    let said = serde_json::json!([
        plan.topology,
        plan.config.policy,
        plan.config.routes,
        plan.config.resolver,
        plan.config.upstream_roots,
        plan.config.public_roots,
        plan.guest.image,
        plan.guest.user,
        plan.guest.limits,
        plan.guest.hardening,
    ]);
    let digest = Sha256::digest(said.to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn root() -> PathBuf {
    state_dir().join("kept")
}

fn directory(slug: &str) -> PathBuf {
    root().join(slug)
}

/// Keeps a bottle's work when it is not what was put into it, and says how to come to it.
pub async fn keep(bottle: &Bottle, note: &Kept) -> Result<(), Failure> {
    let directory = directory(&note.slug);
    let failed = || Failure::system("keeping the agent's work");
    let archive = bottle.workspace_archive().await?;
    // A resumed bottle's older work goes when the newer is there.
    let fresh = root().join(format!("{}.new", note.slug));
    remove(&fresh).map_err(failed())?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&fresh)
        .map_err(failed())?;
    let file = create(&fresh.join(ARCHIVE_FILE)).map_err(failed())?;
    let file = spool(archive, file).await.map_err(failed())?;
    let listed = tokio::task::spawn_blocking(move || tree::list(io::BufReader::new(file)));
    let listed = listed.await.map_err(io::Error::from).map_err(failed())?;
    let none = Listing::new();
    let before = bottle.workspace_before().unwrap_or(&none);
    let changed = match &listed {
        Ok(after) => tree::changes(before, &without(after, &note.exclude)).len(),
        Err(error) => {
            say(&format!(
                "what the agent left is kept, but cannot be taken as it is: {error}"
            ));
            1
        }
    };
    if changed == 0 {
        return remove(&fresh).map_err(failed());
    }
    let note_file = create(&fresh.join(NOTE_FILE)).map_err(failed())?;
    serde_json::to_writer(note_file, note)
        .map_err(io::Error::from)
        .map_err(failed())?;
    remove(&directory).map_err(failed())?;
    std::fs::rename(&fresh, &directory).map_err(failed())?;
    let slug = &note.slug;
    let files = if changed == 1 {
        "1 file".to_owned()
    } else {
        format!("{changed} files")
    };
    say(&format!(
        "{files} changed, kept as {slug}: `bottle diff {slug}` shows them, `bottle cp {slug}:. .` takes them over, \
         `bottle resume {slug}` goes on, `bottle cleanup --kept {slug}` drops them"
    ));
    Ok(())
}

/// A listing without what lies below these names: what was not copied is not taken for new.
pub fn without(listing: &Listing, exclude: &[String]) -> Listing {
    let is_excluded = |path: &Path| {
        let mut parts = path.components();
        parts.any(|part| exclude.iter().any(|name| part.as_os_str() == name.as_str()))
    };
    let kept = listing.iter().filter(|(path, _)| !is_excluded(path));
    kept.map(|(path, listed)| (path.clone(), listed.clone())).collect()
}

/// Copies a stream into a file, and rewinds it.
pub async fn spool(mut from: impl AsyncRead + Unpin, file: File) -> io::Result<File> {
    use std::io::{Seek, Write};
    let mut file = file;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            count => file.write_all(&buffer[..count])?,
        }
    }
    file.rewind()?;
    Ok(file)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// A file without a name, for what is on its way.
pub fn nameless() -> io::Result<File> {
    let root = root();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|error| io::Error::other(error.to_string()))?;
    let path = root.join(format!(".{:016x}", u64::from_ne_bytes(name)));
    let file = create(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Everything that is kept, by slug.
pub fn all() -> Vec<Kept> {
    let entries = std::fs::read_dir(root()).into_iter().flatten().flatten();
    let mut kept: Vec<Kept> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().ends_with(".new"))
        .filter_map(|entry| {
            let file = journal::open(&entry.path().join(NOTE_FILE)).ok()?;
            let kept: Kept = serde_json::from_reader(io::BufReader::new(file)).ok()?;
            (entry.file_name() == kept.slug.as_str()).then_some(kept)
        })
        .collect();
    kept.sort_by(|one, other| one.slug.cmp(&other.slug));
    kept
}

/// Work that is kept under a slug, or the beginning of one.
pub fn find(name: &str) -> Option<Kept> {
    let mut found: Vec<Kept> = all();
    if let Some(exact) = found.iter().position(|kept| kept.slug == name) {
        return Some(found.swap_remove(exact));
    }
    found.retain(|kept| !name.is_empty() && (kept.slug.starts_with(name) || kept.bottle == name));
    match found.len() {
        1 => found.pop(),
        _ => None,
    }
}

/// Drops the work of a slug.
pub fn forget(kept: &Kept) -> Result<(), Failure> {
    remove(&directory(&kept.slug)).map_err(Failure::system("removing kept work"))
}
