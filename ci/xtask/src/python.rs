//! Python with the client of its registry, from which we take programs that the distribution has not.

use std::process::Command;

use crate::packages;

/// Debian's client.
const PIP: &[packages::Needed] = &[("/usr/lib/python3/dist-packages/pip", "python3-pip")];

/// A Python with pip: one that is there, or the distribution's. `purpose` completes "… needs X".
pub fn with_pip(purpose: &str) -> anyhow::Result<&'static str> {
    let has_pip = |name: &&str| {
        let tried = Command::new(name).args(["-m", "pip", "--version"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    if let Some(name) = ["python3", "python"].into_iter().find(has_pip) {
        return Ok(name);
    }
    packages::ensure(purpose, PIP)?;
    Ok("/usr/bin/python3")
}
