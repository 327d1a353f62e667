//! Builds the static parts that run inside guests and bundles, then the two programs that embed them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::process::{cargo, run, say, target};

/// Flags of everything static. The `getrandom` setting keeps the crate from looking for `getrandom(2)` by `dlsym`, which a
/// static program has not, and from falling back to a `/dev/urandom` that an empty root may lack.
pub const STATIC_FLAGS: &str = "-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"";

/// A part: package, profile, features, and the name under which it is kept.
pub struct Part {
    package: &'static str,
    profile: &'static str,
    features: &'static [&'static str],
    /// Name of its file.
    pub name: &'static str,
}

/// In this order: the bundle embeds the guest's init.
pub const PARTS: &[Part] = &[
    Part {
        package: "bottle-guest",
        profile: "guest",
        features: &[],
        name: "bottle-guest",
    },
    Part {
        package: "bottle-probe",
        profile: "guest",
        features: &[],
        name: "bottle-probe",
    },
    Part {
        package: "bottle-bundle",
        profile: "release",
        features: &[],
        name: "bottle-bundle",
    },
    Part {
        package: "bottle-bundle",
        profile: "release",
        features: &["leaky"],
        name: "bottle-bundle-leaky",
    },
    Part {
        package: "bottle-witness",
        profile: "release",
        features: &[],
        name: "bottle-witness",
    },
];

/// The programs for the host.
const PROGRAMS: &[&str] = &["bottle", "bottle-conform"];

/// Where the two programs are.
pub struct Built {
    /// Directory with `bottle` and `bottle-conform`.
    pub programs: PathBuf,
}

/// What builds for one target.
pub struct Toolchain {
    /// The target's name.
    pub triple: String,
    /// Where it leaves what it builds.
    pub target: PathBuf,
    /// Cargo's `build` for the target, or what takes its place: environment and flags of the compiler are set.
    pub build: Box<dyn Fn() -> Command>,
}

impl Toolchain {
    /// This machine's own.
    pub fn own() -> anyhow::Result<Self> {
        let triple = triple()?;
        let own = triple.clone();
        Ok(Self {
            triple,
            target: target(),
            build: Box::new(move || {
                let mut command = cargo();
                command.args(["build", "--target", &own]).env("RUSTFLAGS", STATIC_FLAGS);
                command
            }),
        })
    }

    /// Where cargo leaves a program.
    fn output(&self, profile: &str, program: &str) -> PathBuf {
        self.target.join(&self.triple).join(profile).join(program)
    }
}

/// Builds everything.
pub fn build() -> anyhow::Result<Built> {
    let toolchain = Toolchain::own()?;
    parts(&toolchain, &own_parts(), |_| true)?;
    say("building bottle and bottle-conform");
    let programs = target().join("programs");
    self::programs(&toolchain, ("BOTTLE_PARTS_DIR", &own_parts()), &programs)?;
    Ok(Built { programs })
}

/// Where the parts for this machine are kept.
pub fn own_parts() -> PathBuf {
    target().join("parts")
}

/// Builds the wanted parts into a directory.
pub fn parts(toolchain: &Toolchain, directory: &Path, wanted: fn(&Part) -> bool) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    for part in PARTS.iter().filter(|part| wanted(part)) {
        say(&format!("building {} for {}", part.name, toolchain.triple));
        let mut command = (toolchain.build)();
        command
            .args(["--locked", "--profile", part.profile, "-p", part.package])
            .env("BOTTLE_PARTS_DIR", directory);
        for feature in part.features {
            command.args(["--features", feature]);
        }
        run(&mut command)?;
        keep(
            &toolchain.output(part.profile, part.package),
            &directory.join(part.name),
        )?;
    }
    Ok(())
}

/// Builds the two programs into a directory. The variable names what they embed.
pub fn programs(toolchain: &Toolchain, embedded: (&str, &Path), directory: &Path) -> anyhow::Result<()> {
    let mut command = (toolchain.build)();
    command.args(["--locked", "--release"]).env(embedded.0, embedded.1);
    for program in PROGRAMS {
        command.args(["-p", program]);
    }
    run(&mut command)?;
    fs::create_dir_all(directory)?;
    for program in PROGRAMS {
        keep(&toolchain.output("release", program), &directory.join(program))?;
    }
    Ok(())
}

/// A kind of program that cargo leaves among its own.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Integration tests.
    Tests,
    /// A benchmark.
    Bench,
}

/// Builds tests or a benchmark statically, so that it runs on another Linux too; where it is.
pub fn apart(package: &str, kind: Kind, name: &str) -> anyhow::Result<PathBuf> {
    let (command, option, what) = match kind {
        Kind::Tests => ("test", "--test", "tests"),
        Kind::Bench => ("bench", "--bench", "bench"),
    };
    say(&format!("building the {what} {name} of {package}"));
    let profile: &[&str] = if command == "test" { &["--release"] } else { &[] };
    let output = cargo()
        .args([command, "--locked", "--target", &triple()?, "--no-run"])
        .args(profile)
        .args(["-p", package, option, name, "--message-format=json-render-diagnostics"])
        .env("RUSTFLAGS", STATIC_FLAGS)
        .env("BOTTLE_PARTS_DIR", own_parts())
        .stderr(Stdio::inherit())
        .output()
        .context("could not start cargo")?;
    if !output.status.success() {
        bail!(
            "the {what} {name} of {package} were not built: cargo ended with {}",
            output.status
        );
    }
    let said = String::from_utf8_lossy(&output.stdout);
    executable(&said).with_context(|| format!("expected cargo to name the {what} {name}, found no executable"))
}

/// The last executable that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    })
}

/// Copies a file when it differs, so that what embeds it is not built again for nothing.
pub fn keep(from: &Path, to: &Path) -> anyhow::Result<()> {
    let new = fs::read(from).with_context(|| format!("expected a built program at {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // A running program cannot be overwritten; a new file in its place can be made.
    if to.exists() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to).with_context(|| format!("could not copy to {}", to.display()))?;
    Ok(())
}

/// The target of guests and programs: Linux with this machine's architecture.
fn triple() -> anyhow::Result<String> {
    if cfg!(not(target_os = "linux")) {
        bail!(
            "the guest parts are Linux programs and are built on Linux only as yet; expected a Linux machine, found {}; \
             build in a Linux container or VM",
            std::env::consts::OS
        );
    }
    Ok(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_executable_is_the_tests_own() {
        let messages = "not json\n{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"executable\":\"/t/helper\"}\n{\"executable\":\"/t/real-1\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/real-1")));
        assert_eq!(executable(""), None);
    }
}
