//! `cargo xtask machines`: the tests on the real smolvm, and what is asked for of the matrix with its column, on this machine or in
//! the lane.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::build::Kind;
use crate::lane::{self, Extra};
use crate::process::{root, target};
use crate::{build, engine};

/// Longest time for all of it, in seconds, the lane's boot not counted. What CI asks for takes some 2000 on a quiet machine of two
/// processors, and half as much again on a slow one beside a compiler.
const LIMIT: u64 = 3800;

#[derive(clap::Args)]
pub struct Arguments {
    /// Takes the emulated machine where KVM works too.
    #[arg(long)]
    emulate: bool,
    /// Probes or cells to attack as well, in containers and in machines: known-leaky bottles first, then the shipped ones.
    patterns: Vec<String>,
}

/// Runs them; the exit code is the lane's.
pub fn machines(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    engine::ensure_test_programs()?;
    build::build()?;
    let tests = build::apart("bottle-smolvm", Kind::Tests, "real")?;
    let words = ["sh", "./prove.sh"].map(str::to_owned);
    let files = vec![
        Extra::at(tests, "real"),
        Extra::at(root().join("ci/lane/prove.sh"), "prove.sh"),
    ];
    let command = words.into_iter().chain(arguments.patterns.iter().cloned()).collect();
    in_lane(arguments.emulate, files, command)
}

/// Runs the benchmark of machines; the exit code is the lane's.
pub fn bench() -> anyhow::Result<ExitCode> {
    engine::ensure_test_programs()?;
    let bench = build::apart("bottle-bench", Kind::Bench, "machines")?;
    in_lane(false, vec![Extra::at(bench, "bench")], vec!["./bench".to_owned()])
}

fn in_lane(emulate: bool, mut files: Vec<Extra>, command: Vec<String>) -> anyhow::Result<ExitCode> {
    files.push(Extra::program(target().join("parts/bottle-bundle")));
    files.push(Extra::program(busybox()?));
    lane::lane(&lane::Arguments {
        timeout: LIMIT,
        files,
        environment: Vec::new(),
        verbose: false,
        emulate,
        name: None,
        no_build: true,
        command,
    })
}

/// What the tests make their image of.
fn busybox() -> anyhow::Result<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter();
    match found.into_iter().find(|path| path.is_file()) {
        Some(path) => path.canonicalize().context("looking for busybox"),
        None => bail!("expected a static busybox (Debian: busybox-static), found none"),
    }
}
