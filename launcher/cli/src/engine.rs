//! The engine, for commands about bottles that run.

use std::sync::Arc;

use bottle_backend::Backend;
use bottle_docker::Docker;

use crate::failure::Failure;

/// The engine that holds the bottles. Every backend's bundle is a container of it, and so far every guest is one too.
pub async fn engine() -> Result<Arc<dyn Backend>, Failure> {
    Ok(Arc::new(Docker::connect().await?))
}
