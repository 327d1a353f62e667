//! The image with real tools for the tests: the recommended agent image, and what else is tried in bottles.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

use crate::packages;
use crate::process::{has, say};

/// What the tests are told the image by.
pub const VARIABLE: &str = "BOTTLE_TEST_TOOLS_IMAGE";

/// What is tried besides what the recommended image has. Of Debian's two cargos, the one that reads sparse registries.
const PACKAGES: [&str; 3] = ["cargo-web", "openjdk-17-jdk-headless", "python3-requests"];

/// An image being made. It takes minutes where the engine does not have it, most of them waiting for downloads and the disk.
pub struct Making(Child);

/// Begins to make the image.
pub fn begin(programs: &Path) -> anyhow::Result<Making> {
    packages::ensure("the tools' image", &[("/usr/bin/mmdebstrap", "mmdebstrap")])?;
    if !has("npm") {
        packages::ensure("the tools' image", &[("/usr/bin/npm", "npm")])?;
    }
    say("bottle image build, for the tests with real tools");
    let mut command = Command::new(programs.join("bottle"));
    command.args(["image", "build"]);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    Ok(Making(child.context("could not start bottle")?))
}

impl Making {
    /// Waits for it; its name.
    pub fn end(self) -> anyhow::Result<String> {
        let output = self.0.wait_with_output().context("could not wait for bottle")?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || name.is_empty() {
            bail!("bottle image build ended with {}", output.status);
        }
        Ok(name)
    }
}
