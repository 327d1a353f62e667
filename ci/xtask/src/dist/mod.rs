//! `cargo xtask dist`: what runs in guests, for every architecture that they may have, and the two programs with all of it.
//!
//! The parts for this machine are those of `cargo xtask build`. The others are static musl programs: the one libc that can be
//! had for any architecture on any machine.

mod cross;
mod elf;
mod emulated;
mod macos;

use std::path::Path;
use std::process::ExitCode;

use crate::build::{self, PARTS, Part, Toolchain};
use crate::process::{cargo, say, target};

/// Architectures of guests, in rustc's words.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Runs the tests of the parts for arm64, under emulation where this machine is another, instead of building the programs.
    #[arg(long)]
    test: bool,
    /// Checks that the two programs compile for macOS on Apple silicon, instead of building anything.
    #[arg(long, conflicts_with = "test")]
    check_macos: bool,
}

/// Builds, and does what was asked for.
pub fn dist(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.check_macos {
        return macos::check();
    }
    let directory = target().join("dist");
    if arguments.test {
        let parts = directory.join(emulated::ARCHITECTURE);
        build_parts(emulated::ARCHITECTURE, &parts, |part| {
            emulated::PACKAGES.contains(&part.name)
        })?;
        return emulated::test(&parts);
    }
    for architecture in ARCHITECTURES {
        build_parts(architecture, &directory.join(architecture), |_| true)?;
    }
    say("building bottle and bottle-conform with the parts of every architecture");
    build::programs(&programs_toolchain()?, ("BOTTLE_DIST_DIR", &directory), &directory)?;
    say(&format!("done: {}", directory.display()));
    Ok(ExitCode::SUCCESS)
}

/// Builds those of the parts that are wanted, and sees that each is what it is to be.
fn build_parts(architecture: &str, directory: &Path, wanted: fn(&Part) -> bool) -> anyhow::Result<()> {
    if cfg!(target_os = "linux") && architecture == std::env::consts::ARCH {
        build::parts(&Toolchain::own()?, &build::own_parts(), wanted)?;
        std::fs::create_dir_all(directory)?;
        for part in PARTS.iter().filter(|part| wanted(part)) {
            build::keep(&build::own_parts().join(part.name), &directory.join(part.name))?;
        }
    } else {
        build::parts(&cross::toolchain(architecture)?, directory, wanted)?;
    }
    for part in PARTS.iter().filter(|part| wanted(part)) {
        elf::check(&directory.join(part.name), architecture)?;
    }
    Ok(())
}

/// What builds the programs: for this machine, whatever it is.
fn programs_toolchain() -> anyhow::Result<Toolchain> {
    if !cfg!(target_os = "macos") {
        return Toolchain::own();
    }
    let triple = format!("{}-apple-darwin", std::env::consts::ARCH);
    let own = triple.clone();
    Ok(Toolchain {
        triple,
        target: target(),
        build: Box::new(move || {
            let mut command = cargo();
            command.args(["build", "--target", &own]);
            command
        }),
    })
}
