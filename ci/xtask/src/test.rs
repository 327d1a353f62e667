//! `cargo xtask test`: every test there is.

use std::process::{Command, ExitCode};

use crate::process::{cargo, code, say, target};
use crate::{arrows, build, engine, tidy, tools};

#[derive(clap::Args)]
pub struct Arguments {
    /// Leaves out the tests that need a container engine, and says which.
    #[arg(long)]
    no_engine: bool,
    /// Builds them only.
    #[arg(long)]
    no_run: bool,
    /// Arguments for the test harness (`-- NAME` filters).
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the repository's rules, then the tests of all crates; fails without an engine unless told otherwise.
pub fn test(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let tests = || {
        let mut command = cargo();
        command
            .args(["test", "--locked", "--workspace", "--no-fail-fast"])
            .env("BOTTLE_PARTS_DIR", build::own_parts());
        command
    };
    if arguments.no_run {
        build::build()?;
        return Ok(ExitCode::from(code(tests().arg("--no-run"))?));
    }
    if !arguments.no_engine {
        engine::ensure()?;
        engine::ensure_test_programs()?;
    }
    let built = build::build()?;
    for (name, rule) in [
        ("tidy", tidy::tidy as fn() -> anyhow::Result<ExitCode>),
        ("arrows", arrows::arrows),
    ] {
        say(name);
        if rule()? != ExitCode::SUCCESS {
            return Ok(ExitCode::FAILURE);
        }
    }
    if !arguments.no_engine {
        // The matrix among the tests calls nothing held that no known-leaky bottle has proven. The digest of a suite covers
        // the embedded parts, so the programs built here prove for the test's own copy.
        say("bottle-conform self-test --if-stale");
        let mut self_test = Command::new(built.programs.join("bottle-conform"));
        self_test
            .args(["self-test", "--if-stale", "--out"])
            .arg(target().join("conform"));
        let proven = code(&mut self_test)?;
        if proven != 0 {
            return Ok(ExitCode::from(proven));
        }
    }
    say("cargo test --workspace");
    let mut command = tests();
    if arguments.no_engine {
        command.env("BOTTLE_TEST_NO_ENGINE", "1");
    } else {
        // Both take minutes on a machine that has neither, and wait for different things.
        let image = tools::begin(&built.programs)?;
        let compiled = code(tests().arg("--no-run"))?;
        command.env(tools::VARIABLE, image.end()?);
        if compiled != 0 {
            return Ok(ExitCode::from(compiled));
        }
    }
    if !arguments.rest.is_empty() {
        command.arg("--").args(&arguments.rest);
    }
    let result = code(&mut command)?;
    if arguments.no_engine {
        say(
            "left out by --no-engine: every test on a real engine (crates bottle-docker, bottle-launch, bottle-smolvm, bottle, bottle-conform), among them the matrix",
        );
    }
    Ok(ExitCode::from(result))
}
