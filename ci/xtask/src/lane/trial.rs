//! One try: boot, run, bring out, power off, with the watchdog beside.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Run;
use super::image::Image;
use super::machine::Machine;
use super::payload::{self, Keys, Setting};
use super::session::Session;
use super::smolvm::fresh;
use super::watch::{Limits, Phase, Seen, Watch, decide};
use crate::process::say;

/// From QEMU's start to an engine that answers and a shell: less than half a minute on a quiet machine.
const BOOT: Duration = Duration::from_secs(300);

/// The machine writes to its console every 5 seconds of its own time.
const SILENCE: Duration = Duration::from_secs(180);

/// Bringing out, powering off.
const AFTER: Duration = Duration::from_secs(300);

/// One virtual processor under software emulation: everything may take longer. A guest of smolvm that comes up at all does so
/// within a minute.
const SLOW: [(&str, &str); 3] = [
    ("BOTTLE_PATIENCE", "5"),
    ("BOTTLE_SMOLVM_START_SECONDS", "240"),
    ("BOTTLE_SMOLVM_START_TRIES", "3"),
];

/// How a try ended.
pub enum Outcome {
    /// The command ended with this code.
    Ended(u8),
    /// The command was over its time.
    TimedOut,
    /// The machine was no good.
    Broken(String),
}

/// Where a try keeps its console and logs.
pub fn directory(run: &Run<'_>, attempt: u8) -> PathBuf {
    run.directory.join(format!("try-{attempt}"))
}

/// Makes a machine, runs the command in it, brings out what it left.
pub fn once(run: &Run<'_>, image: &Image, attempt: u8) -> anyhow::Result<Outcome> {
    let out = fresh(&run.directory.join("out"))?;
    let directory = fresh(&directory(run, attempt))?;
    let session = Session::new(&directory)?;
    let payload = directory.join("payload.tar");
    payload::write(
        &payload,
        &Keys {
            host: &session.host_key(),
            authorized: &session.authorized(),
        },
        &payload::script(&environment(run), &run.arguments.command),
        &run.programs,
        &run.arguments.files,
    )?;
    let begun = Instant::now();
    let mut machine = Machine::start(
        image,
        &payload,
        session.port,
        &directory,
        &run.directory.join("qemu.pid"),
        run.arguments.verbose,
    )?;
    let outcome = drive(run, &mut machine, &session, &out, begun);
    if matches!(outcome, Ok(Outcome::Ended(_) | Outcome::TimedOut)) && machine.alive()? {
        power_off(machine, &session)?;
    } else {
        drop(machine);
    }
    // Console and logs stay; keys and the copy of the programs do not.
    session.forget();
    fs::remove_file(&payload).with_context(|| format!("could not remove {}", payload.display()))?;
    outcome
}

/// The command's environment: what an emulated machine needs, and what was asked for, which counts when it is the same setting.
fn environment(run: &Run<'_>) -> Vec<Setting> {
    let slow = SLOW.map(|(name, value)| Setting {
        name: name.to_owned(),
        value: value.to_owned(),
    });
    slow.into_iter().chain(run.arguments.environment.clone()).collect()
}

/// From the boot to the last byte out.
fn drive(
    run: &Run<'_>,
    machine: &mut Machine,
    session: &Session,
    out: &std::path::Path,
    begun: Instant,
) -> anyhow::Result<Outcome> {
    let limits = Limits {
        boot: BOOT,
        silence: SILENCE,
        command: Duration::from_secs(run.arguments.timeout),
    };
    while !machine.ready() {
        if machine.failed() {
            return Ok(Outcome::Broken(
                "its engine did not start; the console has the end of its log".to_owned(),
            ));
        }
        if let Watch::Broken(why) = look(machine, Phase::Boot(begun.elapsed()), limits)? {
            return Ok(Outcome::Broken(why.to_owned()));
        }
        thread::sleep(Duration::from_millis(100));
    }
    say(&format!("the machine booted in {} s", begun.elapsed().as_secs()));
    let started = Instant::now();
    let mut child = session.spawn("lane-run", Stdio::inherit(), Stdio::inherit())?;
    let watched = wait(machine, &mut child, started, limits)?;
    if let Some(Watch::Broken(why)) = watched {
        return Ok(Outcome::Broken(why.to_owned()));
    }
    say(&format!("the command ran for {} s", started.elapsed().as_secs()));
    if let Some(why) = bring_out(machine, session, out)? {
        return Ok(match watched {
            Some(_) => Outcome::TimedOut,
            None => Outcome::Broken(why),
        });
    }
    let code = out.join(CODE);
    let text = fs::read_to_string(&code).unwrap_or_default();
    if !text.is_empty() {
        fs::remove_file(&code)?;
    }
    Ok(match (watched, text.trim().parse()) {
        (Some(_), _) => Outcome::TimedOut,
        (None, Ok(code)) => Outcome::Ended(code),
        (None, Err(_)) => Outcome::Broken("the command left no exit code".to_owned()),
    })
}

/// Name under which the exit code comes out.
const CODE: &str = ".lane-exit-code";

/// Looks at the machine once.
fn look(machine: &mut Machine, phase: Phase, limits: Limits) -> anyhow::Result<Watch> {
    let seen = Seen {
        silent: machine.silent()?,
        alive: machine.alive()?,
        phase,
    };
    Ok(decide(seen, limits))
}

/// Waits for a client of the machine's shell; what the watchdog says if that ends it.
fn wait(machine: &mut Machine, child: &mut Child, started: Instant, limits: Limits) -> anyhow::Result<Option<Watch>> {
    loop {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        let watch = look(machine, Phase::Command(started.elapsed()), limits)?;
        if watch != Watch::Wait {
            child.kill()?;
            child.wait()?;
            return Ok(Some(watch));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Brings out the command's work directory and its exit code; why not, if it cannot.
fn bring_out(machine: &mut Machine, session: &Session, out: &std::path::Path) -> anyhow::Result<Option<String>> {
    let archive = out.with_extension("tar");
    let file = fs::File::create(&archive).with_context(|| format!("could not make {}", archive.display()))?;
    let command = format!(
        "cp /var/lib/lane/code /{0}/{CODE} 2>/dev/null; tar -C /{0} -cf - .",
        payload::WORK
    );
    let mut child = session.spawn(&command, file.into(), Stdio::inherit())?;
    let limits = Limits {
        boot: BOOT,
        silence: SILENCE,
        command: AFTER,
    };
    let watched = wait(machine, &mut child, Instant::now(), limits)?;
    if watched.is_some() || !child.wait()?.success() {
        return Ok(Some("its work directory could not be brought out".to_owned()));
    }
    crate::process::run(
        Command::new("tar")
            .arg("-C")
            .arg(out)
            .args(["--no-same-owner", "-xf"])
            .arg(&archive),
    )?;
    fs::remove_file(&archive)?;
    Ok(None)
}

/// Lets the machine power itself off.
fn power_off(mut machine: Machine, session: &Session) -> anyhow::Result<()> {
    let mut child = session.spawn(
        "sync; (sleep 0.2; echo o >/proc/sysrq-trigger) >/dev/null 2>&1 &",
        Stdio::null(),
        Stdio::null(),
    )?;
    let limits = Limits {
        boot: BOOT,
        silence: SILENCE,
        command: AFTER,
    };
    wait(&mut machine, &mut child, Instant::now(), limits)?;
    machine.off()
}
