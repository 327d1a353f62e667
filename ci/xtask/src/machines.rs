//! `cargo xtask machines`: the tests on the real smolvm and a sample of its column, on this machine or in the lane.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::lane::{self, Extra};
use crate::process::{root, target};
use crate::{build, engine};

/// Longest time for all of it, in seconds, the lane's boot not counted.
const LIMIT: u64 = 1800;

/// The cells that are attacked, in self-test and run: some of every way in which a machine differs from a container. What is
/// left out costs time, not work: `cargo xtask lane -- bottle-conform run --backend smolmachines` runs all.
const SAMPLE: &[&str] = &["PX-01"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Takes the emulated machine where KVM works too.
    #[arg(long)]
    emulate: bool,
    /// Probes or cells instead of the sample.
    patterns: Vec<String>,
}

/// Runs both; the exit code is the lane's.
pub fn machines(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    engine::ensure_test_programs()?;
    build::build()?;
    let tests = build::tests("bottle-smolvm", "real")?;
    let words = ["sh", "./prove.sh"].map(str::to_owned);
    let sample = SAMPLE.iter().map(|pattern| (*pattern).to_owned());
    let patterns = if arguments.patterns.is_empty() {
        sample.collect()
    } else {
        arguments.patterns.clone()
    };
    lane::lane(&lane::Arguments {
        timeout: LIMIT,
        files: vec![
            Extra::at(tests, "real"),
            Extra::at(root().join("ci/lane/prove.sh"), "prove.sh"),
            Extra::program(target().join("parts/bottle-bundle")),
            Extra::program(busybox()?),
        ],
        environment: Vec::new(),
        verbose: false,
        emulate: arguments.emulate,
        no_build: true,
        command: words.into_iter().chain(patterns).collect(),
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
