//! What a lab made in the engine beside bottles, and its removal.

use std::sync::{Mutex, PoisonError};

use bottle_backend::{Backend, Labels, Resource, ResourceKind};
use tokio::task::JoinHandle;

/// What was made in the engine beside bottles.
#[derive(Default)]
pub struct Made {
    resources: Mutex<Vec<Resource>>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Made {
    /// Has a reading task end with the lab.
    pub fn listen(&self, listener: JoinHandle<()>) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    /// Notes one thing to remove.
    pub fn add(&self, kind: ResourceKind, name: &str, id: &str) {
        let resource = Resource {
            kind,
            name: name.to_owned(),
            id: id.to_owned(),
            labels: Labels::new(),
        };
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(resource);
    }

    /// What there is to remove.
    pub fn resources(&self) -> Vec<Resource> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes everything (or containers only), last made first; what could not be removed.
    pub async fn remove(&self, backend: &dyn Backend, containers_only: bool) -> Vec<String> {
        for listener in std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner)) {
            listener.abort();
        }
        let resources = {
            let mut all = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, later) = std::mem::take(&mut *all)
                .into_iter()
                .partition(|resource| !containers_only || resource.kind == ResourceKind::Container);
            *all = later;
            let now: Vec<Resource> = now;
            now
        };
        let mut left = Vec::new();
        for resource in resources.iter().rev() {
            if let Err(error) = backend.remove(resource).await {
                left.push(format!("{:?} {}: {error}", resource.kind, resource.name));
            }
        }
        left
    }
}
