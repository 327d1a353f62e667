//! Distribution packages that our commands use: installed where missing and where that is allowed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::{has, run, say, target};

/// A file that shows that a package is there, and the package.
pub type Needed = (&'static str, &'static str);

/// Makes sure that packages are there; `purpose` completes "… needs X".
pub fn ensure(purpose: &str, needed: &[Needed]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(privilege) = Privilege::find().filter(|_| has("apt-get")) else {
        bail!(
            "{purpose} needs {}; install them with this system's package manager, then run this again",
            missing.join(", ")
        );
    };
    say(&format!("installing what {purpose} needs: {}", missing.join(", ")));
    install(&privilege, &missing)
}

/// `apt-get install`, after a fresh list. One at a time: apt fails where another one is at work, and CI runs two of our commands at once.
pub fn install(privilege: &Privilege, packages: &[&str]) -> anyhow::Result<()> {
    fs::create_dir_all(target())?;
    let turn = fs::File::create(target().join("packages.lock")).context("could not make the lock of packages")?;
    turn.lock().context("could not wait for another installation")?;
    run(privilege.command("apt-get").args(["update", "-q"]))?;
    run(privilege
        .command("env")
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(packages))
}

/// How commands that need root are run.
pub enum Privilege {
    /// We are root.
    Root,
    /// Through sudo.
    Sudo,
}

impl Privilege {
    /// What there is on this machine.
    pub fn find() -> Option<Self> {
        let root = fs::read_to_string("/proc/self/status").ok()?.lines().any(|line| {
            line.strip_prefix("Uid:")
                .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
        });
        if root {
            Some(Self::Root)
        } else if has("sudo") {
            Some(Self::Sudo)
        } else {
            None
        }
    }

    /// A command that will run as root.
    pub fn command(&self, program: &str) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                command
            }
        }
    }
}
