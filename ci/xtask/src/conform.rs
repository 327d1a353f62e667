//! `cargo xtask conform`: from nothing to verdicts.

use std::process::{Command, ExitCode};

use crate::process::{code, say, target};
use crate::{build, engine};

#[derive(clap::Args)]
pub struct Arguments {
    /// Shows what the engine is asked to do.
    #[arg(long)]
    verbose: bool,
    /// Probes to run (globs over ids); all by default.
    patterns: Vec<String>,
}

/// Runs the conformance matrix on real bottles; the exit code is `bottle-conform`'s.
pub fn conform(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    engine::ensure()?;
    let built = build::build()?;
    let program = built.programs.join("bottle-conform");
    let out = target().join("conform");
    let common = |command: &mut Command| {
        command.args(&arguments.patterns).arg("--out").arg(&out);
        if arguments.verbose {
            command.arg("--verbose");
        }
    };
    // A verdict counts only with a fresh self-test of the same suite on the same engine; `--if-stale` makes one where there is none.
    say("bottle-conform self-test --if-stale");
    let mut self_test = Command::new(&program);
    self_test.args(["self-test", "--if-stale"]);
    common(&mut self_test);
    let proven = code(&mut self_test)?;
    say("bottle-conform run --backend docker --topology sealed,routed");
    let mut run = Command::new(&program);
    run.args(["run", "--backend", "docker", "--topology", "sealed,routed"]);
    common(&mut run);
    let verdict = code(&mut run)?;
    say(&format!(
        "reports: {}/junit.xml, report.json, evidence.jsonl",
        out.display()
    ));
    Ok(ExitCode::from(if verdict == 0 { proven } else { verdict }))
}
