//! `bottle cleanup`.

use bottle_docker::Docker;
use bottle_launch::{SweepScope, sweep};

use crate::failure::Failure;
use crate::host::state_dir;

/// Removes what dead launchers left and says what it was.
pub async fn cleanup() -> Result<u8, Failure> {
    let docker = Docker::connect().await?;
    let scope = SweepScope {
        state_dir: Some(state_dir()),
        run: None,
    };
    let report = sweep(&docker, &scope).await?;
    for resource in &report.removed {
        println!(
            "removed {} {}",
            format!("{:?}", resource.kind).to_lowercase(),
            resource.name
        );
    }
    for directory in &report.directories {
        println!("removed directory {}", directory.display());
    }
    if report.removed.is_empty() && report.directories.is_empty() && report.failed.is_empty() {
        println!("nothing to remove");
    }
    if report.alive > 0 {
        println!("{} objects belong to bottles that run, and stay", report.alive);
    }
    if report.foreign > 0 {
        println!(
            "{} objects belong to launchers that cannot be looked up from here, and stay",
            report.foreign
        );
    }
    if report.failed.is_empty() {
        return Ok(0);
    }
    let failed = report.failed.iter().map(|(what, problem)| format!("{what}: {problem}"));
    Err(Failure::LeftBehind(failed.collect()))
}
