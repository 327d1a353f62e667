//! The backend that a plan is for.

use std::path::PathBuf;
use std::sync::Arc;

use bottle_backend::Backend;
use bottle_docker::Docker;
use bottle_plan::BackendKind;
use bottle_smolvm::{Settings, Smolvm};

use crate::failure::Failure;

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
    let kind = if bottle_smolvm::remains(&Settings::from_env())?.is_empty() {
        BackendKind::Docker
    } else {
        BackendKind::Smolmachines
    };
    open(kind, None).await
}
