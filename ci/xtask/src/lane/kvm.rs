//! Whether this machine's own KVM boots a guest. The presence of its file says nothing: where virtualisation is nested, the file
//! may be there and no unmodified kernel ever start.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::smolvm::fresh;
use crate::process::say;

/// How long a guest may take to start; where KVM works it takes about a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the command runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// On this machine.
    Direct,
    /// In the emulated machine.
    Lane,
}

/// What was found about this machine's KVM.
#[derive(Debug)]
pub enum Kvm {
    /// A guest booted and ran a command.
    Boots,
    /// None did, and why.
    Fails(String),
}

/// The way and the reason, to be said.
pub fn choose(kvm: &Kvm, emulate: bool) -> (Way, String) {
    match (kvm, emulate) {
        (_, true) => (Way::Lane, "in the emulated machine: asked for by --emulate".to_owned()),
        (Kvm::Boots, false) => (
            Way::Direct,
            "on this machine, without the lane: its KVM booted a guest of smolvm".to_owned(),
        ),
        (Kvm::Fails(why), false) => (Way::Lane, format!("in the emulated machine: {why}")),
    }
}

/// The reason why there is no use in trying, if the file alone tells it.
pub fn unusable() -> Option<String> {
    let file = Path::new("/dev/kvm");
    if !file.exists() {
        return Some("there is no /dev/kvm here".to_owned());
    }
    fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .err()
        .map(|error| format!("/dev/kvm cannot be opened here: {error}"))
}

/// Boots a guest with smolvm and runs a command in it.
pub fn boot(smolvm: &Path, state: &Path) -> anyhow::Result<Kvm> {
    fresh(state)?;
    let name = "kvm";
    let steps: [&[&str]; 3] = [
        &["create", "--name", name, "--cpus", "1", "--mem", "256"],
        &["start", "--name", name],
        &["exec", "--name", name, "--", "true"],
    ];
    let mut outcome = Kvm::Boots;
    for step in steps {
        if let Some(why) = call(smolvm, state, step)? {
            outcome = Kvm::Fails(format!(
                "no guest boots with this machine's KVM: smolvm machine {} {why}",
                step[0]
            ));
            break;
        }
    }
    if let Some(why) = call(smolvm, state, &["delete", "-f", "--name", name])?
        && matches!(outcome, Kvm::Boots)
    {
        say(&format!(
            "the guest that tried KVM was not removed: smolvm machine delete {why}"
        ));
    }
    Ok(outcome)
}

/// One call within its limit; why it failed, if it did.
fn call(smolvm: &Path, state: &Path, arguments: &[&str]) -> anyhow::Result<Option<String>> {
    let log = state.join("call.log");
    let out = fs::File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
    let mut command = Command::new(smolvm);
    command.arg("--state-dir").arg(state).arg("machine").args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SMOLVM_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("could not start {}", smolvm.display()))?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(None);
            }
            let text = fs::read_to_string(&log).unwrap_or_default();
            let last = text
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("no output");
            return Ok(Some(format!("ended with {status}: {last}")));
        }
        if begun.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("did not end within {} s", LIMIT.as_secs())));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_boots_makes_the_lane_needless() {
        let (way, why) = choose(&Kvm::Boots, false);
        assert_eq!(way, Way::Direct);
        assert!(why.contains("booted a guest"), "{why}");
    }

    #[test]
    fn the_reason_against_kvm_is_said() {
        let (way, why) = choose(&Kvm::Fails("permission denied".to_owned()), false);
        assert_eq!(way, Way::Lane);
        assert!(why.contains("permission denied"), "{why}");
    }

    #[test]
    fn the_lane_can_be_asked_for_where_kvm_works() {
        assert_eq!(choose(&Kvm::Boots, true).0, Way::Lane);
    }

    fn stand_in(name: &str, script: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let directory = std::env::temp_dir().join(format!("xtask-kvm-{name}-{}", std::process::id()));
        fresh(&directory).expect("a directory");
        let program = directory.join("smolvm");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a stand-in");
        crate::lane::smolvm::executable(&program).expect("executable");
        (program, directory)
    }

    #[test]
    fn a_failing_start_is_named_with_its_last_words_and_the_guest_is_removed() {
        let (program, directory) = stand_in(
            "start",
            r#"echo "$4" >>"$0.calls"; [ "$4" != start ] || { echo first; echo no boot progress; exit 1; }"#,
        );
        let kvm = boot(&program, &directory.join("state")).expect("tried");
        let calls = fs::read_to_string(directory.join("smolvm.calls")).expect("calls");
        fs::remove_dir_all(&directory).expect("removed");
        assert_eq!(calls, "create\nstart\ndelete\n");
        match kvm {
            Kvm::Fails(why) => assert!(
                why.contains("start ended with") && why.contains("no boot progress"),
                "{why}"
            ),
            Kvm::Boots => panic!("expected a failure"),
        }
    }

    #[test]
    fn a_guest_that_runs_a_command_boots() {
        let (program, directory) = stand_in("boots", "exit 0");
        let kvm = boot(&program, &directory.join("state")).expect("tried");
        fs::remove_dir_all(&directory).expect("removed");
        assert!(matches!(kvm, Kvm::Boots), "{kvm:?}");
    }
}
