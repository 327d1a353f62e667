//! The machine's disk, kernel and initrd: made once a recipe, then taken from the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::smolvm::fresh;
use super::{recipe, smolvm};
use crate::packages::{self, Privilege};
use crate::process::{root, run, say};

/// What makes and runs the machine.
const NEEDED: &[packages::Needed] = &[
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/sbin/mke2fs", "e2fsprogs"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/ssh", "openssh-client"),
];

/// How many disks of other recipes the cache keeps, for other work trees.
const KEPT: usize = 3;

/// A machine's parts in the cache.
pub struct Image {
    /// Raw disk; never written to.
    pub disk: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
}

/// Makes sure that smolvm is in the cache; where.
pub fn ensure_smolvm() -> anyhow::Result<PathBuf> {
    packages::ensure("smolvm", &[("/usr/bin/zstd", "zstd")])?;
    let (cache, _turn) = cache()?;
    smolvm::ensure(&cache)
}

/// The cache, and the turn to fill it: another lane may be making the same parts.
fn cache() -> anyhow::Result<(PathBuf, fs::File)> {
    let cache = recipe::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("could not make {}", cache.display()))?;
    let turn = fs::File::create(cache.join("lock")).context("could not make the lock of the lane's cache")?;
    turn.lock().context("could not lock the lane's cache")?;
    Ok((cache, turn))
}

/// Makes sure that the parts are in the cache.
pub fn ensure() -> anyhow::Result<Image> {
    packages::ensure("the lane", NEEDED)?;
    let (cache, _turn) = cache()?;
    let directory = cache.join(format!("disk-{}", recipe::disk_digest()));
    if !directory.join("disk.img").is_file() {
        make(&cache, &directory)?;
        prune(&cache, &directory)?;
    }
    Ok(Image {
        disk: directory.join("disk.img"),
        kernel: directory.join("vmlinuz"),
        initrd: directory.join("initrd"),
    })
}

fn make(cache: &Path, directory: &Path) -> anyhow::Result<()> {
    let privilege =
        Privilege::find().context("expected root or sudo, to make the lane's disk with its owners; found neither")?;
    let debian = debian(cache, &privilege)?;
    let smolvm = smolvm::ensure(cache)?;
    say("making the lane's disk");
    let new = cache.join("disk.new");
    run(privilege.command("rm").arg("-rf").arg(&new))?;
    fresh(&new)?;
    run(privilege
        .command("sh")
        .arg(root().join("ci/lane/disk.sh"))
        .args([&debian, &smolvm, &new])
        .arg(recipe::DISK))?;
    fs::rename(&new, directory).with_context(|| format!("could not make {}", directory.display()))
}

/// The archive of the Debian tree.
fn debian(cache: &Path, privilege: &Privilege) -> anyhow::Result<PathBuf> {
    let archive = cache.join(format!("debian-{}.tar", recipe::debian_digest()));
    if archive.is_file() {
        return Ok(archive);
    }
    say(&format!(
        "making a Debian {} of {} packages (mmdebstrap)",
        recipe::SUITE,
        recipe::packages().len()
    ));
    let new = cache.join("debian.new.tar");
    run(privilege
        .command("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--mode=root", "--format=tar"])
        // Nothing of the tree has to survive a crash before it is packed.
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--include={}", recipe::packages().join(",")))
        .arg(recipe::SUITE)
        .arg(&new)
        .args(sources()?))?;
    if fs::metadata(&new).map(|file| file.len()).unwrap_or_default() == 0 {
        bail!("expected mmdebstrap to write {}, found nothing there", new.display());
    }
    fs::rename(&new, &archive).with_context(|| format!("could not make {}", archive.display()))?;
    Ok(archive)
}

/// This machine's own package sources where it is the same Debian; otherwise mmdebstrap knows where that is.
fn sources() -> anyhow::Result<Vec<&'static str>> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release
        .lines()
        .any(|line| line == format!("VERSION_CODENAME={}", recipe::SUITE))
    {
        return Ok(Vec::new());
    }
    Ok(["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"]
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
        .collect())
}

/// Removes the oldest disks and trees of other recipes.
fn prune(cache: &Path, current: &Path) -> anyhow::Result<()> {
    for prefix in ["disk-", "debian-"] {
        let mut parts: Vec<_> = fs::read_dir(cache)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let made = entry.metadata().ok()?.modified().ok()?;
                entry
                    .file_name()
                    .to_str()?
                    .starts_with(prefix)
                    .then(|| (made, entry.path()))
            })
            .filter(|(_, path)| path != current)
            .collect();
        parts.sort();
        parts.reverse();
        for (_, path) in parts.into_iter().skip(KEPT) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            // What another user made with sudo stays; it costs room and nothing else.
            if let Err(error) = removed {
                say(&format!("an old part stays at {}: {error}", path.display()));
            }
        }
    }
    Ok(())
}
