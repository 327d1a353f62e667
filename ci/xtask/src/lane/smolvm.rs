//! smolvm from the Python registry, unpacked as its program expects it: under the name `smolvm`, beside its libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::recipe;
use crate::process::{run, say};
use crate::python;

/// Wheel's program; its own name makes it look for packed assets.
const PROGRAM: &str = "smol-vmm";

/// Makes sure that smolvm lies in the cache; the directory.
pub fn ensure(cache: &Path) -> anyhow::Result<PathBuf> {
    let directory = cache.join(format!("smolvm-{}", recipe::SMOLVM));
    if directory.join("smolvm").is_file() {
        return Ok(directory);
    }
    let python = python::with_pip("getting smolvm")?;
    say(&format!(
        "getting smolvm {} (package smolmachines of the Python registry)",
        recipe::SMOLVM
    ));
    let work = fresh(&cache.join("smolvm.new"))?;
    let wheels = fresh(&work.join("wheels"))?;
    run(Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
        ])
        .arg(&wheels)
        .arg(format!("smolmachines=={}", recipe::SMOLVM)))?;
    let wheel = fs::read_dir(&wheels)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .with_context(|| format!("expected a wheel in {}, found none", wheels.display()))?;
    let unpacked = fresh(&work.join("unpacked"))?;
    run(Command::new(python)
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked))?;
    let made = fresh(&work.join("made"))?;
    arrange(&unpacked.join("smol"), &made)?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::rename(&made, &directory).with_context(|| format!("could not make {}", directory.display()))?;
    fs::remove_dir_all(&work)?;
    Ok(directory)
}

/// Puts what the wheel holds where the program looks for it.
fn arrange(from: &Path, to: &Path) -> anyhow::Result<()> {
    for (name, kept) in [
        (PROGRAM, "smolvm"),
        ("libkrun.so", "libkrun.so"),
        ("libkrunfw.so.5", "libkrunfw.so.5"),
    ] {
        let file = to.join(kept);
        fs::copy(from.join(name), &file)
            .with_context(|| format!("expected {name} in the package of smolvm {}", recipe::SMOLVM))?;
        executable(&file)?;
    }
    for name in ["overlay-template.ext4", "storage-template.ext4"] {
        run(Command::new("zstd")
            .args(["-q", "-d", "--sparse"])
            .arg(from.join(format!("{name}.zst")))
            .arg("-o")
            .arg(to.join(name)))?;
    }
    let root = fresh(&to.join("agent-rootfs"))?;
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["--zstd", "-xf"])
        .arg(from.join("agent-rootfs.tar.zst")))
}

/// Owner may write, all may run.
pub fn executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("could not make {} executable", path.display()))
}

/// An empty directory, whatever was there.
pub fn fresh(path: &Path) -> anyhow::Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("could not empty {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))?;
    if !path.is_dir() {
        bail!("expected a directory at {}", path.display());
    }
    Ok(path.to_path_buf())
}
