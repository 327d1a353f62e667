//! The backend that a plan is for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bottle_backend::Backend;
use bottle_docker::Docker;
use bottle_launch::{SweepReport, SweepScope, sweep};
use bottle_plan::BackendKind;
use bottle_smolvm::{Settings, Smolvm};

use crate::failure::Failure;
use crate::host::state_dir;

/// Connects to it. Every backend needs an engine, where the bundle lives.
pub async fn open(kind: BackendKind, smolvm: Option<PathBuf>) -> Result<Arc<dyn Backend>, Failure> {
    let docker = Arc::new(Docker::connect().await?);
    match kind {
        BackendKind::Docker => Ok(docker),
        BackendKind::Smolmachines => {
            let mut settings = Settings::from_env();
            settings.program = smolvm.or(settings.program);
            let machines = Smolvm::open(docker.clone(), docker, &settings).await?;
            Ok(Arc::new(machines))
        }
    }
}

/// Everything that launchers may have left things in. Machines are looked after only where there have been some.
pub async fn with_remains() -> Result<Arc<dyn Backend>, Failure> {
    let settings = Settings::from_env();
    let remains = bottle_smolvm::remains(&settings)?;
    if remains.names.is_empty() {
        return open(BackendKind::Docker, None).await;
    }
    // What the operator says counts, or has on the path, then what the machines were made with.
    let named = if settings.finds_program() {
        settings.program
    } else {
        remains.program
    };
    open(BackendKind::Smolmachines, named).await
}

/// Removes what dead launchers left.
pub async fn sweep_all(backend: &dyn Backend) -> Result<SweepReport, Failure> {
    Ok(sweep(backend, &SweepScope::all(state_dir())).await?)
}

/// How long a command that has done its work may go on for the sake of others'.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// Sweeps, as every command does that looks at bottles: after it has looked, since what a dead launcher left may be what was asked
/// for. A command has succeeded when this does not.
pub async fn sweep_dead() {
    let swept = tokio::time::timeout(SWEEP_LIMIT, async { sweep_all(&*with_remains().await?).await });
    match swept.await {
        Ok(Ok(_)) => {}
        Ok(Err(problem)) => tracing::warn!(%problem, "what dead launchers left stays"),
        Err(_) => tracing::warn!("what dead launchers left was not removed in time"),
    }
}
