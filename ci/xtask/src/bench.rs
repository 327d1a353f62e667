//! `cargo xtask bench`: figures, side by side with what one would use instead.

use std::process::{Command, ExitCode};

use crate::process::{cargo, has, run, say, target};
use crate::{build, engine, machines, packages};

/// What our proxy is measured against: the newest release that runs on Python 3.11, which Debian 12 has.
const MITMPROXY: &str = "mitmproxy==11.0.2";

#[derive(clap::Args)]
pub struct Arguments {
    /// Only these: `guest`, `launch`, `everyday`, `proxy`, `machines`.
    only: Vec<String>,
}

/// Builds everything as it is shipped, then runs the benchmarks of the workspace one after another.
pub fn bench(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    engine::ensure()?;
    let built = build::build()?;
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    for name in ["guest", "launch", "everyday", "proxy"] {
        if !wanted(name) {
            continue;
        }
        say(&format!("bench {name}"));
        let mut command = cargo();
        command
            .args(["bench", "--locked", "-p", "bottle-bench", "--bench", name])
            .env("BOTTLE_PARTS_DIR", target().join("parts"))
            .env("BOTTLE_PROGRAMS_DIR", &built.programs);
        if name == "everyday" {
            packages::ensure("the comparison", &[("/usr/bin/docker-compose", "docker-compose")])?;
        }
        if name == "proxy" {
            command.env("BOTTLE_BENCH_MITMDUMP", mitmdump()?);
        }
        run(&mut command)?;
    }
    if wanted("machines") {
        say("bench machines");
        return machines::bench();
    }
    Ok(ExitCode::SUCCESS)
}

/// The reference proxy in an environment of its own below the target directory.
fn mitmdump() -> anyhow::Result<std::path::PathBuf> {
    let environment = target().join("mitmproxy");
    let program = environment.join("bin").join("mitmdump");
    if !program.is_file() {
        say(&format!("installing {MITMPROXY} for comparison"));
        let python = if has("python3") { "python3" } else { "python" };
        run(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin").join("pip")).args(["install", "--quiet", MITMPROXY]))?;
    }
    Ok(program)
}
