//! `bottle run -- true` from its first byte to its exit, against `docker run --rm` of the same image and against two containers of
//! `docker-compose`; what the launcher holds in memory meanwhile, and what many bottles leave in the engine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bottle_backend::Backend;
use bottle_bench::{BUSYBOX, Samples, image, milliseconds, print, resident};
use bottle_docker::Docker;

/// Rounds; the sides take turns.
const ROUNDS: usize = 12;
/// Bottles one after another, for what they leave.
const BOTTLES: usize = 20;

/// Where it is launched from.
struct Site {
    directory: tempfile::TempDir,
    bottle: PathBuf,
    guest: String,
}

impl Site {
    fn make(guest: String) -> anyhow::Result<Self> {
        let programs = std::env::var_os("BOTTLE_PROGRAMS_DIR").context("run this by `cargo xtask bench`")?;
        let directory = tempfile::tempdir()?;
        let manifest = format!("version: 1\nbottles:\n  bench:\n    image: {guest}\n    user: \"1000:1000\"\n");
        std::fs::write(directory.path().join("bottle.yaml"), manifest)?;
        // The guest has no network and the other one has: the halves of a sealed bottle.
        let compose = format!(
            "version: \"3.7\"\nservices:\n  bundle:\n    image: {guest}\n    command: [sleep, \"600\"]\n    init: true\n  \
             guest:\n    image: {guest}\n    command: [\"true\"]\n    network_mode: none\n    depends_on: [bundle]\n"
        );
        std::fs::write(directory.path().join("docker-compose.yml"), compose)?;
        Ok(Self {
            directory,
            bottle: Path::new(&programs).join("bottle"),
            guest,
        })
    }

    /// `bottle run -- COMMAND`.
    fn bottle(&self, command: &[&str]) -> Command {
        let mut bottle = Command::new(&self.bottle);
        bottle
            .args(["run", "--yes", "--bottle", "bench", "--", "/bin/busybox"])
            .args(command)
            .env("BOTTLE_STATE_DIR", self.directory.path().join("state"));
        self.quiet(bottle)
    }

    fn docker(&self) -> Command {
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", &self.guest, "true"]);
        self.quiet(docker)
    }

    fn compose(&self, words: &[&str]) -> Command {
        let mut compose = Command::new("docker-compose");
        compose.args(["--project-name", "bottlebench"]).args(words);
        self.quiet(compose)
    }

    fn quiet(&self, mut command: Command) -> Command {
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

/// How long commands take one after another; each must succeed.
fn time(commands: Vec<Command>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    for mut command in commands {
        let status = command.status().with_context(|| format!("{command:?}"))?;
        ensure!(status.success(), "{command:?} ended with {status}");
    }
    Ok(begun.elapsed())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let docker = Docker::connect().await?;
    let guest = image(Path::new(BUSYBOX), "bottle-bench-guest", "/bin/busybox")?;
    if docker.find_image(&guest.reference).await?.is_none() {
        docker.load_image(&guest.reference, guest.archive.clone()).await?;
    }
    let site = Site::make(guest.reference.clone())?;
    // The first run loads the bundle's image.
    time(vec![site.bottle(&["true"])])?;
    let (mut bottle, mut plain, mut compose) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        bottle.push(time(vec![site.bottle(&["true"])])?);
        plain.push(time(vec![site.docker()])?);
        let up = site.compose(&["up", "--abort-on-container-exit"]);
        compose.push(time(vec![up, site.compose(&["down", "--volumes", "--timeout", "0"])])?);
    }
    let own = bottle.median().as_secs_f64();
    let row = |name: &str, samples: &mut Samples| {
        let median = samples.median();
        vec![
            name.to_owned(),
            milliseconds(median),
            milliseconds(samples.quantile(0.9)),
            format!("{:.2} x", own / median.as_secs_f64()),
        ]
    };
    print(
        "`true` from start to exit, everything removed",
        &["command", "p50", "p90", "bottle against it"],
        &[
            row("bottle run -- true", &mut bottle),
            row("docker run --rm", &mut plain),
            row("docker-compose up, down (1.29)", &mut compose),
        ],
    );
    memory(&site)?;
    leftovers(&site)
}

/// What the launcher holds while a command runs.
fn memory(site: &Site) -> anyhow::Result<()> {
    let mut command = site.bottle(&["sh", "-c", "echo up; exec /bin/busybox sleep 600"]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("expected its output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    std::thread::sleep(Duration::from_millis(500));
    let held = resident(child.id());
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    let status = child.wait()?;
    ensure!(line == "up\n", "expected the command to say `up`, found `{line}`");
    ensure!(
        ended?.success() && !status.success(),
        "the launcher did not end by the signal: {status}"
    );
    let held = held.context("expected the launcher's memory")?;
    println!(
        "\nresident memory of the launcher while a command runs: {:.1} MB",
        held as f64 / 1e6
    );
    Ok(())
}

/// What many bottles one after another leave in the engine.
fn leftovers(site: &Site) -> anyhow::Result<()> {
    let before = everything()?;
    let took = time((0..BOTTLES).map(|_| site.bottle(&["true"])).collect())?;
    let after = everything()?;
    ensure!(
        before == after,
        "{BOTTLES} bottles left something: {before:?}, then {after:?}"
    );
    println!(
        "{BOTTLES} bottles one after another: {:.1} s, the engine's containers, networks and volumes are as before",
        took.as_secs_f64()
    );
    Ok(())
}

/// Every container, network and volume of the engine, ours or not.
fn everything() -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for words in [
        ["ps", "--all", "--quiet", "--no-trunc"].as_slice(),
        &["network", "ls", "--quiet", "--no-trunc"],
        &["volume", "ls", "--quiet"],
    ] {
        let output = Command::new("docker").args(words).output()?;
        ensure!(
            output.status.success(),
            "docker {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        all.extend(String::from_utf8(output.stdout)?.lines().map(str::to_owned));
    }
    all.sort();
    Ok(all)
}
