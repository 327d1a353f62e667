//! Builds for an architecture that this machine has not: C and the linker are zig's, `std` is the toolchain's own where rustup
//! has put it, and Debian's source of it otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::{STATIC_FLAGS, Toolchain};
use crate::packages;
use crate::process::{cargo, has, root, run, say, target};
use crate::python;

/// What the Python registry has of it, by name and version; each leaves a directory `NAME-VERSION.dist-info`.
const WHEELS: [(&str, &str); 2] = [("ziglang", "0.17.0"), ("cargo_zigbuild", "0.24.0")];

/// A compiler whose source of `std` is packaged with it: Debian's, which the security archive keeps new enough.
const DEBIAN: &[packages::Needed] = &[
    ("/usr/share/doc/rustc-web", "rustc-web"),
    ("/usr/share/doc/cargo-web", "cargo-web"),
    ("/usr/lib/rustlib/src/rust/library/Cargo.lock", "rust-web-src"),
];

/// Debian's cargo, which runs Debian's compiler.
pub const DEBIANS_CARGO: &str = "/usr/bin/cargo";

/// What all of it is needed for.
const PURPOSE: &str = "building for arm64";

/// Builds static programs for this architecture's Linux.
pub fn toolchain(architecture: &str) -> anyhow::Result<Toolchain> {
    let triple = format!("{architecture}-unknown-linux-musl");
    let tools = Tools::ensure()?;
    let has_std = ensure_std(&triple)?;
    // A directory of its own: another compiler's artifacts are not for the one of this machine's programs.
    let target = target().join("cross");
    let (own, directory) = (triple.clone(), target.clone());
    Ok(Toolchain {
        triple,
        target,
        build: Box::new(move || {
            let mut command = tools.zigbuild();
            command.args(["--target", &own, "--target-dir"]).arg(&directory);
            if has_std {
                command.env("RUSTFLAGS", STATIC_FLAGS);
            } else {
                // The C runtime is zig's: Debian has none for musl to put beside its compiler.
                command
                    .env("RUSTFLAGS", format!("-C link-self-contained=no {STATIC_FLAGS}"))
                    .arg("-Zbuild-std=std,panic_abort");
                debian(&mut command);
            }
            command
        }),
    })
}

/// Makes sure that there is a standard library for a target; whether the toolchain that runs us has it built.
pub fn ensure_std(triple: &str) -> anyhow::Result<bool> {
    if has_std(triple)? {
        return Ok(true);
    }
    if !has("apt-get") {
        bail!(
            "expected the standard library for {triple}, found none; `rustup target add {triple}`, then run this again"
        );
    }
    packages::ensure(PURPOSE, DEBIAN)?;
    Ok(false)
}

/// Makes a command use Debian's compiler, which builds `std` only when it is told that it may.
pub fn debian(command: &mut Command) {
    command
        .env("CARGO", DEBIANS_CARGO)
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        // Of the toolchain that runs us.
        .env_remove("LD_LIBRARY_PATH");
}

/// Whether the toolchain that runs us has a built `std` for a target.
fn has_std(triple: &str) -> anyhow::Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .context("could not start rustc")?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// zig, and what has cargo use it.
pub struct Tools(PathBuf);

impl Tools {
    /// Makes sure that they are in the target directory.
    pub fn ensure() -> anyhow::Result<Self> {
        let directory = target().join("tools").join("python");
        let is_there = |(name, version): &(&str, &str)| directory.join(format!("{name}-{version}.dist-info")).is_dir();
        if WHEELS.iter().all(is_there) {
            return Ok(Self(directory));
        }
        let python = python::with_pip(PURPOSE)?;
        let wanted = WHEELS.map(|(name, version)| format!("{name}=={version}"));
        say(&format!("getting {} from the Python registry", wanted.join(" and ")));
        let new = directory.with_extension("new");
        for old in [&new, &directory] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("could not remove {}", old.display()))?;
            }
        }
        run(Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore"])
            .args(["--no-deps", "--only-binary", ":all:", "--target"])
            .arg(&new)
            .args(&wanted))?;
        fs::rename(&new, &directory).with_context(|| format!("could not make {}", directory.display()))?;
        Ok(Self(directory))
    }

    pub fn zig(&self) -> PathBuf {
        self.0.join("ziglang").join("zig")
    }

    /// `cargo build` with zig as linker and C compiler.
    fn zigbuild(&self) -> Command {
        let mut command = Command::new(self.0.join("bin").join("cargo-zigbuild"));
        command
            .arg("zigbuild")
            .current_dir(root())
            .env("CARGO", cargo().get_program())
            .env("CARGO_ZIGBUILD_ZIG_PATH", self.zig());
        command
    }
}
