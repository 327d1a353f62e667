//! `bottle diff`: what an agent changed in its copy of the project.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, IsTerminal, Seek};
use std::path::PathBuf;
use std::process::Command;

use bottle_launch::tree::{self, Change, UnpackOptions};
use bottle_plan::WorkspaceMode;

use crate::args::DiffArgs;
use crate::backend::with_remains;
use crate::copying::packed;
use crate::failure::Failure;
use crate::kept::{self, without};
use crate::live;
use crate::plan::{json, print};
use crate::preflight::printable;

/// What is compared: the guest's tree in an archive with the directory that it came from.
struct Compared {
    archive: File,
    source: PathBuf,
    exclude: Vec<String>,
}

/// Shows the differences.
pub async fn diff(args: &DiffArgs) -> Result<u8, Failure> {
    let compared = compared(args.name.as_deref()).await?;
    let patch = args.patch;
    let work = move || looked_at(compared, patch);
    let told = tokio::task::spawn_blocking(work).await;
    let (changes, patch) = told.map_err(|error| Failure::system("comparing")(error.into()))??;
    if args.json {
        let named: BTreeMap<String, &str> = changes
            .iter()
            .map(|(path, change)| (path.display().to_string(), word(change)))
            .collect();
        return print(&json(&named)?);
    }
    print(&patch.unwrap_or_else(|| summary(&changes)))
}

async fn compared(name: Option<&str>) -> Result<Compared, Failure> {
    let of_kept = |kept: kept::Kept| -> Result<Compared, Failure> {
        let archive = crate::journal::open(&kept.archive()).map_err(Failure::system("opening kept work"))?;
        Ok(Compared {
            archive,
            source: kept.source,
            exclude: kept.exclude,
        })
    };
    // Kept work needs no engine.
    if let Some(kept) = name.and_then(kept::find) {
        return of_kept(kept);
    }
    let backend = with_remains().await?;
    let live = live::one(&*backend, name).await?;
    let workspace = live.plan.as_ref().and_then(|plan| plan.workspace.as_ref());
    let Some(workspace) = workspace.filter(|plan| plan.mode == WorkspaceMode::Copy) else {
        return Err(Failure::Usage(format!(
            "{} has no copied project (`workspace` in the manifest): there is nothing to compare",
            live.slug
        )));
    };
    Ok(Compared {
        archive: packed(&backend, &live, &workspace.target()).await?,
        source: PathBuf::from(&workspace.source),
        exclude: workspace.exclude.clone(),
    })
}

fn looked_at(mut compared: Compared, patch: bool) -> Result<(BTreeMap<PathBuf, Change>, Option<String>), Failure> {
    let refused = |error: tree::TreeError| Failure::Copy(printable(&error.to_string()));
    let after = tree::list(BufReader::new(&compared.archive)).map_err(refused)?;
    let mut exclude = compared.exclude.clone();
    // What git keeps for itself changes with every command and is taken over by nobody.
    exclude.push(".git".to_owned());
    let before = tree::pack(&compared.source, "tree", &exclude, None, &mut |_| Ok(())).map_err(refused)?;
    let after = without(&after, &exclude);
    let changes = tree::changes(&before, &after);
    let patch = patch.then(|| git_diff(&mut compared, &changes)).transpose()?;
    Ok((changes, patch))
}

fn word(change: &Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    }
}

fn summary(changes: &BTreeMap<PathBuf, Change>) -> String {
    let lines = changes.iter().map(|(path, change)| {
        let letter = match change {
            Change::Added => 'A',
            Change::Removed => 'D',
            Change::Changed => 'M',
        };
        format!("{letter} {}\n", printable(&path.display().to_string()))
    });
    lines.collect()
}

/// The changed files of both sides in a directory of their own, compared by git, which there finds no configuration but the
/// one it is given here.
fn git_diff(compared: &mut Compared, changes: &BTreeMap<PathBuf, Change>) -> Result<String, Failure> {
    let failed = || Failure::system("comparing the changed files");
    let room = Room::new().map_err(failed())?;
    let (ours, theirs) = (room.0.join("a"), room.0.join("b"));
    for directory in [&ours, &theirs] {
        std::fs::create_dir(directory).map_err(failed())?;
    }
    for (path, change) in changes {
        let source = compared.source.join(path);
        if *change == Change::Added || !std::fs::symlink_metadata(&source).is_ok_and(|found| found.is_file()) {
            continue;
        }
        let target = ours.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed())?;
        }
        std::fs::copy(&source, &target).map_err(failed())?;
    }
    compared.archive.rewind().map_err(failed())?;
    let options = UnpackOptions {
        only: Some(changes.keys().cloned().collect::<BTreeSet<_>>()),
        ..UnpackOptions::default()
    };
    tree::unpack(BufReader::new(&compared.archive), &theirs, options)
        .map_err(|error| Failure::Copy(printable(&error.to_string())))?;
    let color = if std::io::stdout().is_terminal() {
        "--color=always"
    } else {
        "--color=never"
    };
    let output = Command::new("git")
        .args([
            "-c",
            "core.attributesFile=/dev/null",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
        ])
        // The directories are the prefixes that `git apply` expects.
        .args([
            "diff",
            "--no-index",
            "--no-prefix",
            "--no-ext-diff",
            "--no-textconv",
            color,
        ])
        .args(["a", "b"])
        .current_dir(&room.0)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &room.0)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", &room.0)
        .output()
        .map_err(Failure::system("starting git, which --patch needs"))?;
    // 1: there are differences.
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(Failure::Copy(printable(String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A directory that goes with its value.
struct Room(PathBuf);

impl Room {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| std::io::Error::other(error.to_string()))?;
        let path = std::env::temp_dir().join(format!("bottle-diff-{:016x}", u64::from_ne_bytes(name)));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_own_configuration_is_not_honoured() {
        let room = tempfile::tempdir().unwrap();
        let source = room.path().join("project");
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(source.join("file"), "one\n").unwrap();
        std::fs::write(source.join("gone"), "x\n").unwrap();
        let theirs = room.path().join("theirs");
        std::fs::create_dir_all(theirs.join(".git")).unwrap();
        let witness = room.path().join("witness");
        let evil = format!(
            "[core]\n\tfsmonitor = touch {0}\n[diff \"x\"]\n\tcommand = touch {0}\n\ttextconv = touch {0}\n",
            witness.display()
        );
        std::fs::write(theirs.join(".git/config"), evil).unwrap();
        std::fs::write(theirs.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(theirs.join(".gitattributes"), "* diff=x\n").unwrap();
        std::fs::write(theirs.join("file"), "two\n").unwrap();
        let mut archive = tempfile::tempfile().unwrap();
        tree::pack(&theirs, "project", &[], None, &mut |bytes| {
            std::io::Write::write_all(&mut archive, &bytes).unwrap();
            Ok(())
        })
        .unwrap();
        archive.rewind().unwrap();
        let compared = Compared {
            archive,
            source,
            exclude: Vec::new(),
        };
        let (changes, patch) = looked_at(compared, true).unwrap();
        assert_eq!(summary(&changes), "A .gitattributes\nM file\nD gone\n");
        let patch = patch.unwrap();
        assert!(patch.contains("-one\n+two\n") && patch.contains("-x\n"), "{patch}");
        assert!(!witness.exists());
    }
}
