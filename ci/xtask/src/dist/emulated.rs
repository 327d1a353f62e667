//! The tests of the parts for arm64 with the very programs that are shipped. Elsewhere than on arm64, QEMU's user-mode emulation
//! runs them: it translates their instructions and hands their system calls to this machine's kernel.
//!
//! The bundle starts its daemons by itself, so the kernel has to know the emulator. Its table of emulators belongs to a user
//! namespace (Linux 6.7): the tests get one of their own, and nothing else on this machine sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::packages::{self, Privilege};
use crate::process::{cargo, code, say};

/// What is tested.
pub const ARCHITECTURE: &str = "aarch64";

/// The emulator, and what tells the kernel of it.
const EMULATOR: &[packages::Needed] = &[("/usr/lib/binfmt.d/qemu-aarch64.conf", "qemu-user-static")];
/// An entry of the machine's own table.
const KNOWN: &str = "/proc/sys/fs/binfmt_misc/qemu-aarch64";

/// Runs in the namespaces, as soon as they have users: makes a table with the emulator, then becomes the tests.
const ENTER: &str = "read -r _ && mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc \
                     && cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register || exit 70; \
                     exec \"$@\" </dev/null";
/// Its exit code when there is no such table.
const NO_TABLE: u8 = 70;

/// How long namespaces may take to be made.
const LIMIT: Duration = Duration::from_secs(10);

/// Packages with tests of their part, which has their name.
pub const PACKAGES: [&str; 3] = ["bottle-guest", "bottle-probe", "bottle-bundle"];

/// Tests that are left out (beginnings of their names), and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "ctrl_",
        "there the guest is setsid's child, not process 1, and QEMU knows no other reaper of orphans",
    ),
    (
        "the_command_leads_a_session_of_its_own",
        "it compares process ids that are seen from two namespaces",
    ),
    (
        "the_end_of_the_command_ends_what_it_left",
        "it looks from outside for a process id that was seen from inside",
    ),
    (
        "a_slow_reader_holds_the_sender_and_loses_nothing",
        "it measures memory, and most of that is the emulator's",
    ),
    (
        "starting_is_fast_and_small",
        "it measures memory and time, and most of both is the emulator's",
    ),
];

/// Runs the tests on the parts in this directory.
pub fn test(parts: &Path) -> anyhow::Result<ExitCode> {
    let is_native = std::env::consts::ARCH == ARCHITECTURE;
    if !is_native {
        packages::ensure("running programs of arm64", EMULATOR)?;
    }
    if !matches!(Privilege::find(), Some(Privilege::Root)) {
        bail!("expected to be root, as whom the bundle's daemons change their users; run this again as root");
    }
    for (name, why) in LEFT_OUT {
        say(&format!("left out: {name}: {why}"));
    }
    let mut worst = 0;
    for package in PACKAGES {
        say(&format!("tests of {package} on the program for arm64"));
        let mut tests = cargo();
        tests
            .args(["test", "--locked", "--no-fail-fast", "-p", package, "--test", "*"])
            .env("BOTTLE_TEST_PARTS", parts);
        tests.arg("--");
        for (name, _) in LEFT_OUT {
            tests.args(["--skip", name]);
        }
        let ended = if is_native || Path::new(KNOWN).exists() {
            code(&mut tests)?
        } else {
            with_emulator(&tests)?
        };
        worst = worst.max(ended);
    }
    Ok(ExitCode::from(worst))
}

/// Runs a command in namespaces of its own, in which the kernel knows the emulator; its exit code.
fn with_emulator(command: &Command) -> anyhow::Result<u8> {
    let mut inside = Command::new("unshare");
    inside
        .args(["--user", "--mount", "sh", "-c", ENTER, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped());
    if let Some(directory) = command.get_current_dir() {
        inside.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    let mut child = inside.spawn().context("could not start unshare")?;
    if let Err(error) = give_users(child.id(), child.stdin.take()) {
        // It waits for a line that will not come: the end of its input ends it.
        let _ = child.wait();
        return Err(error);
    }
    let status = child.wait().context("could not wait for the tests")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    if code == NO_TABLE {
        bail!(
            "expected a table of emulators of our own (Linux 6.7 or newer), found none; register QEMU with this machine \
             (`systemctl restart systemd-binfmt` does after qemu-user-static is installed), then run this again"
        );
    }
    Ok(code)
}

/// Gives the user namespace of a process our own users, and has it go on.
fn give_users(id: u32, input: Option<impl std::io::Write>) -> anyhow::Result<()> {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user"));
    let own = of("self").context("could not read our own user namespace")?;
    let until = Instant::now() + LIMIT;
    while of(&id.to_string()).is_ok_and(|space| space == own) {
        if Instant::now() > until {
            bail!("expected unshare to make a user namespace within {} s", LIMIT.as_secs());
        }
        sleep(Duration::from_millis(5));
    }
    for map in ["uid_map", "gid_map"] {
        let ours =
            fs::read_to_string(format!("/proc/self/{map}")).with_context(|| format!("could not read our {map}"))?;
        let path = PathBuf::from(format!("/proc/{id}/{map}"));
        fs::write(&path, same(&ours)).with_context(|| format!("could not write {}", path.display()))?;
    }
    let mut input = input.context("expected the input of unshare")?;
    input.write_all(b"\n").context("could not tell unshare to go on")
}

/// A map under which every user that a namespace with this map has is itself.
fn same(map: &str) -> String {
    map.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [inside, _, count] = fields[..] else { return None };
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_stay_themselves() {
        assert_eq!(same("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(same("0 100000 1000\n1000 0 1\n"), "0 0 1000\n1000 1000 1\n");
    }
}
