//! The machine: engine, image, state directory, disk, leftovers, microVMs, the manifest at hand.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_backend::Backend;
use bottle_launch::{Owner, OwnerState, Secrets};
use bottle_plan::LABEL_OWNER_PID;

use super::Finding;
use crate::backend::sweep_all;
use crate::host::{Loaded, state_dir};
use crate::image::how_to_have;
use crate::parts::{architectures, bundle_image};

/// Free space under which launches are likely to fail.
const LITTLE: u64 = 512 << 20;
/// First version of smolvm that enforces what it is told about the network.
const SMOLVM: [u64; 3] = [1, 1, 3];
/// First version of the engine that was tried.
const ENGINE: [u64; 2] = [20, 10];

/// What can be seen without an engine.
pub fn without_engine(fix: bool) -> Vec<Finding> {
    let mut findings = vec![program()];
    let state = state_dir();
    findings.push(state_directory(&state, fix));
    findings.push(disk("disk", &state));
    if Path::new("/var/lib/docker").is_dir() {
        findings.push(disk("engine's disk", Path::new("/var/lib/docker")));
    }
    findings.extend(microvms());
    findings
}

fn program() -> Finding {
    let version = env!("CARGO_PKG_VERSION");
    let names: Vec<String> = architectures().iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return Finding::wrong(
            "bottle",
            format!("{version}, built without the bundle that it launches"),
            "build it with `cargo xtask build`",
        );
    }
    let names = names.join(" and ");
    Finding::good("bottle", format!("{version}, with the bundle for {names}"))
}

fn state_directory(path: &Path, fix: bool) -> Finding {
    let shown = path.display();
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::good("state directory", format!("{shown}, made by the first launch"));
        }
        Err(error) => {
            return Finding::wrong("state directory", format!("{shown}: {error}"), "look at its parents");
        }
        Ok(found) => found,
    };
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Finding::wrong(
            "state directory",
            format!("{shown} is no directory of this user"),
            "set BOTTLE_STATE_DIR to a directory of yours, or give this one to you",
        );
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Finding::good("state directory", format!("{shown}, mode {mode:03o}"));
    }
    if fix && std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).is_ok() {
        return Finding::mended("state directory", format!("{shown}, mode {mode:03o} is now 700"));
    }
    let mend = "`bottle doctor --fix` makes it 700";
    let found = format!("{shown}, mode {mode:03o}: others may look into it");
    if mode & 0o022 != 0 {
        Finding::wrong("state directory", found, mend)
    } else {
        Finding::note("state directory", found, mend)
    }
}

fn disk(subject: &str, path: &Path) -> Finding {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let told = format!("{} MiB free at {}", free >> 20, existing.display());
            if free < LITTLE {
                Finding::wrong(subject, told, format!("free {} MiB or more", LITTLE >> 20))
            } else {
                Finding::good(subject, told)
            }
        }
        Err(error) => Finding::note(
            subject,
            format!("{}: {error}", existing.display()),
            "look at the file system",
        ),
    }
}

/// Only the backend `smolmachines` needs them.
fn microvms() -> Vec<Finding> {
    let kvm = Path::new("/dev/kvm");
    let kvm = match std::fs::File::options().read(true).write(true).open(kvm) {
        Ok(_) => Finding::good("kvm", "/dev/kvm can be used"),
        Err(error) => Finding::note(
            "kvm",
            format!("/dev/kvm: {error}"),
            "microVMs need it (load kvm_intel or kvm_amd, join the group kvm); docker bottles do not",
        ),
    };
    vec![smolvm(), kvm]
}

fn smolvm() -> Finding {
    const MEND: &str = "only the backend smolmachines needs it, in version 1.1.3 or newer";
    let Some(path) = on_path("smolvm") else {
        return Finding::note("smolvm", "not on PATH", MEND);
    };
    let output = std::process::Command::new(&path).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match said.ok().as_deref().and_then(numbers) {
        Some(version) if version.as_slice() >= SMOLVM.as_slice() => {
            Finding::good("smolvm", format!("{} at {}", dotted(&version), path.display()))
        }
        Some(version) => Finding::note("smolvm", format!("{} is too old", dotted(&version)), MEND),
        None => Finding::note("smolvm", format!("{} does not say its version", path.display()), MEND),
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The first dotted number in a text.
fn numbers(text: &str) -> Option<Vec<u64>> {
    let word = text
        .split(|one: char| !(one.is_ascii_digit() || one == '.'))
        .find(|word| word.starts_with(|one: char| one.is_ascii_digit()) && word.contains('.'))?;
    word.split('.')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

fn dotted(version: &[u64]) -> String {
    version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// What the engine says.
pub async fn of_engine(engine: &Arc<dyn Backend>, fix: bool) -> Vec<Finding> {
    vec![
        facts(&**engine).await,
        image(&**engine, fix).await,
        leftovers(&**engine, fix).await,
        manifest(&**engine).await,
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn facts(engine: &dyn Backend) -> Vec<Finding> {
    match engine.facts().await {
        Err(error) => vec![Finding::wrong(
            "engine",
            error.to_string(),
            "look at the engine's own log",
        )],
        Ok(facts) => {
            let told = format!(
                "{} (API {}), {}, kernel {}{}",
                facts.engine,
                facts.api,
                facts.platform,
                facts.kernel,
                if facts.shares_kernel {
                    ""
                } else {
                    ", in a machine of its own"
                }
            );
            let is_old = numbers(&facts.engine).is_some_and(|version| version.as_slice() < ENGINE.as_slice());
            vec![if is_old {
                Finding::wrong(
                    "engine",
                    told,
                    "bottles were tried from 20.10 on: install a newer engine",
                )
            } else {
                Finding::good("engine", told)
            }]
        }
    }
}

async fn image(engine: &dyn Backend, fix: bool) -> Vec<Finding> {
    // Told already when it does not answer.
    let Ok(facts) = engine.facts().await else {
        return Vec::new();
    };
    let image = match bundle_image(&facts.platform) {
        Ok(image) => image,
        Err(failure) => {
            let mend = "build `bottle` with the bundle for the engine's machine";
            return vec![Finding::wrong("bundle's image", failure.to_string(), mend)];
        }
    };
    let found = engine.find_image(&image.reference).await;
    vec![match found {
        Ok(Some(_)) => Finding::good("bundle's image", format!("{} is in the engine", image.reference)),
        Ok(None) if fix => {
            let loaded = match (image.archive)() {
                Ok(archive) => {
                    let loaded = engine.load_image(&image.reference, archive).await;
                    loaded.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match loaded {
                Ok(()) => Finding::mended("bundle's image", format!("{} was loaded", image.reference)),
                Err(problem) => Finding::wrong("bundle's image", problem, "look at the engine's own log"),
            }
        }
        Ok(None) => Finding::good("bundle's image", "not in the engine yet; the first launch loads it"),
        Err(error) => Finding::wrong("bundle's image", error.to_string(), "look at the engine's own log"),
    }]
}

async fn leftovers(engine: &dyn Backend, fix: bool) -> Vec<Finding> {
    const SUBJECT: &str = "leftovers";
    if fix {
        return vec![match sweep_all(engine).await {
            Ok(report) if !report.failed.is_empty() => {
                let failed: Vec<String> = report
                    .failed
                    .iter()
                    .map(|(what, why)| format!("{what}: {why}"))
                    .collect();
                Finding::wrong(
                    SUBJECT,
                    failed.join("; "),
                    "look at what holds them, then `bottle cleanup`",
                )
            }
            Ok(report) if report.removed.is_empty() && report.directories.is_empty() => Finding::good(SUBJECT, "none"),
            Ok(report) => Finding::mended(
                SUBJECT,
                format!(
                    "{} objects and {} directories of dead launchers were removed",
                    report.removed.len(),
                    report.directories.len()
                ),
            ),
            Err(error) => Finding::wrong(SUBJECT, error.to_string(), "look at the engine's own log"),
        }];
    }
    vec![match engine.inventory(LABEL_OWNER_PID, None).await {
        Err(error) => Finding::wrong(SUBJECT, error.to_string(), "look at the engine's own log"),
        Ok(found) => {
            let is_dead = |owner: Owner| owner.state() == OwnerState::Dead;
            let dead = found
                .iter()
                .filter(|one| Owner::of(&one.labels).is_some_and(is_dead))
                .count();
            if dead == 0 {
                Finding::good(SUBJECT, "none")
            } else {
                let mend = "`bottle cleanup`, the next launch, or `bottle doctor --fix` removes them";
                Finding::note(SUBJECT, format!("{dead} objects of dead launchers"), mend)
            }
        }
    }]
}

/// The manifest of this directory, when there is one.
async fn manifest(engine: &dyn Backend) -> Vec<Finding> {
    let path = Path::new("bottle.yaml");
    if !path.exists() {
        return vec![Finding::note(
            "manifest",
            "no bottle.yaml here",
            "`bottle init` writes a starter",
        )];
    }
    let loaded = match Loaded::read(path) {
        Err(failure) => {
            return vec![Finding::wrong(
                "manifest",
                failure.to_string(),
                "correct the line that is named",
            )];
        }
        Ok(loaded) => loaded,
    };
    let mut findings = Vec::new();
    let document = loaded.manifest.document();
    findings.push(Finding::good(
        "manifest",
        format!("{} bottles, {} agents", document.bottles.len(), document.agents.len()),
    ));
    for (name, bottle) in &document.bottles {
        let subject = format!("bottle {name}");
        match engine.find_image(&bottle.image).await {
            Ok(Some(_)) => {}
            Ok(None) => findings.push(Finding::note(
                subject.clone(),
                format!("its image {} is not in the engine", bottle.image),
                how_to_have(&bottle.image),
            )),
            Err(error) => findings.push(Finding::note(
                subject.clone(),
                error.to_string(),
                "look at the image's name",
            )),
        }
        let wanted: Vec<String> = bottle
            .egress
            .routes
            .iter()
            .map(|route| route.auth.token_env.clone())
            .collect();
        let missing = Secrets::from_env(&wanted).missing(&wanted);
        if !missing.is_empty() {
            findings.push(Finding::note(
                subject,
                format!("no value for {}", missing.join(", ")),
                "set the variables in the shell that runs `bottle run`",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("docker 20.10.24", Some(vec![20, 10, 24])),
            ("smolvm 1.32.2\n", Some(vec![1, 32, 2])),
            ("v2.0", Some(vec![2, 0])),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(numbers(text), expected, "{text}");
        }
        assert!([20u64, 9].as_slice() < ENGINE.as_slice());
        assert!([20u64, 10, 24].as_slice() >= ENGINE.as_slice());
    }

    #[test]
    fn a_state_directory_that_others_may_write_to_is_wrong_and_can_be_mended() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("state");
        assert_eq!(state_directory(&path, false).level, Level::Good);
        std::fs::create_dir(&path).unwrap();
        for (mode, level) in [(0o700, Level::Good), (0o755, Level::Note), (0o777, Level::Wrong)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(state_directory(&path, false).level, level, "{mode:o}");
        }
        assert_eq!(state_directory(&path, true).level, Level::Mended);
        assert_eq!(state_directory(&path, false).level, Level::Good);
        let link = room.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(state_directory(&link, true).level, Level::Wrong);
    }
}
