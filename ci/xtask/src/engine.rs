//! Finds a container engine; installs and starts the distribution's where there is none and that is allowed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::Context;

use crate::packages::{self, Privilege};
use crate::process::{has, run, say, target};

/// There is no engine and none could be had. Exit code 69.
#[derive(Debug)]
pub struct NoEngine(String);

impl std::fmt::Display for NoEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoEngine {}

/// Socket of the engine where `DOCKER_HOST` does not say otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// How long a started engine may take to answer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Makes sure that an engine answers.
pub fn ensure() -> anyhow::Result<()> {
    if answers() {
        return Ok(());
    }
    if let Some(host) = std::env::var_os("DOCKER_HOST") {
        return Err(NoEngine(format!(
            "DOCKER_HOST is {} and no engine answers there; start that engine, or unset DOCKER_HOST",
            host.to_string_lossy()
        ))
        .into());
    }
    let Some(privilege) = Privilege::find() else {
        return Err(NoEngine(steps()).into());
    };
    if !has("dockerd") {
        if !has("apt-get") {
            return Err(NoEngine(steps()).into());
        }
        say("no container engine found: installing this distribution's Docker Engine (apt-get install docker.io)");
        packages::install(&privilege, &["docker.io", "iptables"])?;
    }
    if answers() {
        return Ok(());
    }
    start(&privilege)?;
    let begun = Instant::now();
    while begun.elapsed() < START_LIMIT {
        if answers() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err(NoEngine(format!(
        "the engine was started but did not answer on {SOCKET} within {} s; its log is {} (or `journalctl -u docker`)",
        START_LIMIT.as_secs(),
        log_path().display()
    ))
    .into())
}

/// What the tests on real engines and networks use, by the file that shows it is there and the package that has it.
const TEST_PROGRAMS: &[packages::Needed] = &[
    ("/usr/share/doc/busybox-static/copyright", "busybox-static"),
    ("/usr/bin/curl", "curl"),
    ("/bin/ip", "iproute2"),
    ("/usr/bin/unshare", "util-linux"),
];

/// Makes sure that the programs which tests use are there; installs what is missing where that is allowed.
pub fn ensure_test_programs() -> anyhow::Result<()> {
    packages::ensure("the tests", TEST_PROGRAMS)
}

/// Starts an installed engine: by systemd where that runs the machine, by hand elsewhere.
fn start(privilege: &Privilege) -> anyhow::Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        say("starting the container engine (systemctl start docker)");
        return run(privilege.command("systemctl").args(["start", "docker"]));
    }
    say("starting the container engine (dockerd, in the background)");
    let log = log_path();
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)?;
    }
    let out = fs::File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
    let errors = out.try_clone()?;
    // A session of its own, so that the engine outlives this command and its terminal.
    privilege
        .command("setsid")
        .arg("dockerd")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .context("could not start dockerd")?;
    Ok(())
}

fn log_path() -> std::path::PathBuf {
    target().join("engine").join("dockerd.log")
}

/// Whether an engine answers a ping.
pub fn answers() -> bool {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = match host.strip_prefix("unix://") {
        Some(path) => path.to_owned(),
        None if host.is_empty() => SOCKET.to_owned(),
        // Anything but a socket of this machine is asked through the client.
        None => {
            return Command::new("docker")
                .args(["version"])
                .output()
                .is_ok_and(|output| output.status.success());
        }
    };
    ping(&path).unwrap_or(false)
}

/// `GET /_ping` over a UNIX socket.
fn ping(path: &str) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.") && answer.get(9..12) == Some(b"200"))
}

/// What to do where we may not or cannot do it.
fn steps() -> String {
    let todo = if cfg!(target_os = "macos") {
        "install Docker Desktop, OrbStack or colima, start it, and check that `docker version` shows a server"
    } else if has("apt-get") {
        "run `sudo apt-get update && sudo apt-get install docker.io`, then `sudo systemctl start docker`, and add yourself to \
         the group `docker` (`sudo usermod -aG docker $USER`, then log in again)"
    } else if has("dnf") {
        "run `sudo dnf install moby-engine`, then `sudo systemctl start docker`, and add yourself to the group `docker`"
    } else if has("pacman") {
        "run `sudo pacman -S docker`, then `sudo systemctl start docker`, and add yourself to the group `docker`"
    } else if has("apk") {
        "run `apk add docker`, then `rc-service docker start`"
    } else {
        "install Docker Engine 20.10 or newer, start it, and check that `docker version` shows a server"
    };
    format!(
        "expected a container engine on {SOCKET}, found none that answers, and may not install one; {todo}; then run this again"
    )
}
