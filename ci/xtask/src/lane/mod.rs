//! `cargo xtask lane -- COMMAND`: runs a command where both kinds of guest can be had, a container engine's and smolvm's.
//!
//! Where this machine's own KVM boots a guest, that is this machine. Elsewhere it is the lane: a small Debian under QEMU with
//! software emulation and nested virtualisation, without a way outside. The programs that were built are copied in, the command's
//! work directory is brought out to `target/lane/out`, its output streams, and its exit code is ours. A machine that wedges is
//! ended by its pid and made once more; when that one fails too, the exit code is 75 and its console is kept.

mod image;
mod kvm;
mod machine;
mod payload;
mod recipe;
mod session;
mod smolvm;
mod trial;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::{say, target};
use crate::{build, engine};
use kvm::{Kvm, Way};
pub use payload::Extra;
use payload::Setting;
use smolvm::fresh;
use trial::Outcome;

/// The lane failed twice.
const LANE_FAILED: u8 = 75;

/// The command took too long; the code of timeout(1).
const TIMED_OUT: u8 = 124;

/// How many machines are tried.
const TRIES: u8 = 2;

#[derive(clap::Args)]
pub struct Arguments {
    /// Longest time for the command, in seconds. Emulation is slow: ten to forty times.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
    /// A file or directory to copy in: among the programs under its own name, or to GUEST (relative: in the work directory).
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub files: Vec<Extra>,
    /// A setting of the command's environment.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<Setting>,
    /// Shows the machine's console.
    #[arg(long)]
    pub verbose: bool,
    /// Takes the emulated machine where KVM works too.
    #[arg(long)]
    pub emulate: bool,
    /// A lane beside others of this work tree; what it leaves is below target/lane-NAME.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Takes the programs as they were built last.
    #[arg(long)]
    pub no_build: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What one run of the lane uses.
struct Run<'a> {
    arguments: &'a Arguments,
    programs: PathBuf,
    directory: PathBuf,
}

/// Runs the command; its exit code, or the lane's own.
pub fn lane(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "the lane is a machine of Linux on x86_64; found {} on {}; run it there",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
    }
    let programs = if arguments.no_build {
        target().join("programs")
    } else {
        build::build()?.programs
    };
    let name = arguments.name.iter().map(|name| format!("-{name}"));
    let directory = target().join(format!("lane{}", name.collect::<String>()));
    fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
    let lock = fs::File::create(directory.join("lock")).context("could not make the lane's lock")?;
    if lock.try_lock().is_err() {
        say("another lane of this work tree and name is running; waiting for its end");
        lock.lock().context("could not lock the lane")?;
    }
    machine::end_left(&directory.join("qemu.pid"))?;
    let run = Run {
        arguments,
        programs,
        directory,
    };
    let (kvm, smolvm) = tried_kvm(&run)?;
    let (way, why) = kvm::choose(&kvm, arguments.emulate);
    say(&format!("running {why}"));
    let code = match (way, smolvm) {
        (Way::Direct, Some(smolvm)) => direct(&run, &smolvm)?,
        _ => emulated(&run)?,
    };
    say(&format!(
        "exit code {code}; what the command left: {}",
        run.directory.join("out").display()
    ));
    Ok(ExitCode::from(code))
}

/// Whether KVM boots a guest here, and where smolvm is if that had to be tried.
fn tried_kvm(run: &Run<'_>) -> anyhow::Result<(Kvm, Option<PathBuf>)> {
    if run.arguments.emulate {
        return Ok((Kvm::Fails("not tried".to_owned()), None));
    }
    if let Some(why) = kvm::unusable() {
        return Ok((Kvm::Fails(why), None));
    }
    let smolvm = image::ensure_smolvm()?;
    let kvm = kvm::boot(&smolvm.join("smolvm"), &run.directory.join("kvm"))?;
    Ok((kvm, Some(smolvm)))
}

/// Runs the command in the emulated machine; makes that once more when it fails.
fn emulated(run: &Run<'_>) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let image = image::ensure()?;
    say(&format!(
        "the machine's parts are there after {} s",
        begun.elapsed().as_secs()
    ));
    for attempt in 1..=TRIES {
        // What an earlier run kept would be taken for this one's.
        fresh(&trial::directory(run, attempt))?;
    }
    for attempt in 1..=TRIES {
        match trial::once(run, &image, attempt)? {
            Outcome::Ended(code) => return Ok(code),
            Outcome::TimedOut => {
                say(&format!("the command did not end within {} s", run.arguments.timeout));
                return Ok(TIMED_OUT);
            }
            Outcome::Broken(why) => say(&format!(
                "the lane failed (try {attempt} of {TRIES}): {why}; console and logs: {}",
                trial::directory(run, attempt).display()
            )),
        }
    }
    say(&format!("the lane failed {TRIES} times; the command has no result"));
    Ok(LANE_FAILED)
}

/// Runs the command on this machine, with smolvm on its PATH.
fn direct(run: &Run<'_>, smolvm: &Path) -> anyhow::Result<u8> {
    engine::ensure()?;
    let out = fresh(&run.directory.join("out"))?;
    let extras = fresh(&run.directory.join("bin"))?;
    for file in &run.arguments.files {
        let to = match &file.guest {
            Some(path) if path.is_absolute() => bail!(
                "expected a relative path after the colon of --file, since the command runs on this machine; found {}",
                path.display()
            ),
            Some(path) => out.join(path),
            None => extras.join(file.host.file_name().context("expected a file's name in --file")?),
        };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        crate::process::run(Command::new("cp").arg("-r").arg(&file.host).arg(&to))?;
    }
    let mut path = vec![run.programs.clone(), extras, smolvm.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut child = Command::new("bash")
        .arg("-c")
        .arg(payload::script(&run.arguments.environment, &run.arguments.command))
        .env("PATH", std::env::join_paths(path)?)
        .current_dir(&out)
        .stdin(Stdio::null())
        .spawn()
        .context("could not start bash")?;
    Ok(within(&mut child, Duration::from_secs(run.arguments.timeout))?.unwrap_or(TIMED_OUT))
}

/// Waits for a child's exit code; ends it by its pid after the limit.
fn within(child: &mut Child, limit: Duration) -> anyhow::Result<Option<u8>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(
                status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
            ));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from([&["lane"], words].concat()).map(|line| line.arguments)
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let arguments = parse(&[
            "--timeout",
            "60",
            "--env",
            "A=b",
            "--file",
            "x:y",
            "--",
            "bottle-conform",
            "run",
            "--verbose",
        ])
        .expect("arguments");
        assert_eq!(arguments.timeout, 60);
        assert_eq!(arguments.command, ["bottle-conform", "run", "--verbose"]);
        assert!(!arguments.verbose);
        assert_eq!(arguments.files.len() + arguments.environment.len(), 2);
    }

    #[test]
    fn a_lane_without_a_command_or_with_a_bad_setting_is_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--env", "A", "--", "true"]).is_err());
        assert!(parse(&["--file", "a:../b", "--", "true"]).is_err());
        assert!(parse(&["true"]).is_err());
    }

    #[test]
    fn a_command_over_its_time_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        assert_eq!(within(&mut child, Duration::from_millis(1)).expect("waited"), None);
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().expect("sh");
        assert_eq!(within(&mut child, Duration::from_secs(60)).expect("waited"), Some(7));
    }
}
