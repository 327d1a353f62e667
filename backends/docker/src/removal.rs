//! Finding and removing what is ours.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::{
    InspectContainerOptions, InspectNetworkOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptions, RemoveVolumeOptions,
};
use bottle_backend::{BackendError, BackendErrorKind, Resource, ResourceKind, patient};

use crate::Docker;
use crate::call::{QUICK, call, failed};

/// How long a removal is tried while the engine still holds the thing (a container that is being removed, a network or
/// volume whose container is).
const HELD: Duration = Duration::from_secs(15);
/// How long a network without members is tried while the engine says that it has some: endpoints of a container that is
/// just ending are counted for a moment after it has left the list.
const MISCOUNTED: Duration = Duration::from_secs(1);
/// How long between the first two tries. It doubles from try to try: most things are gone in a few milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// How long between two tries at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The pauses between tries.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

impl Docker {
    pub(crate) async fn remove_resource(&self, resource: &Resource) -> Result<(), BackendError> {
        let name = format!("remove {} {}", kind_name(resource.kind), resource.name);
        let begun = tokio::time::Instant::now();
        let until = begun + patient(HELD);
        let mut pauses = Pauses::new();
        loop {
            let error = match self.remove_once(&name, resource).await {
                Ok(()) => return self.until_gone(&name, resource, until).await,
                Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(()),
                Err(error) => error,
            };
            let held = error.kind == BackendErrorKind::Conflict
                || error.problem.contains("active endpoints")
                || error.problem.contains("in progress");
            if !held || tokio::time::Instant::now() >= until {
                return Err(error);
            }
            if resource.kind == ResourceKind::Network
                && begun.elapsed() >= MISCOUNTED
                && self.is_without_members(&resource.id).await
            {
                let problem = format!(
                    "{}; yet the engine lists no member of it: it has lost count (seen on 20.10), which only its restart \
                     mends. Restart the engine, then run `bottle cleanup`",
                    error.problem
                );
                return Err(failed(&name, BackendErrorKind::Conflict, problem));
            }
            pauses.pause().await;
        }
    }

    /// Whether the engine lists nothing on a network. Every launch sweeps first, so a network that no wait will free must not
    /// cost each of them the whole of [`HELD`].
    async fn is_without_members(&self, id: &str) -> bool {
        let looked = self.client.inspect_network(id, None::<InspectNetworkOptions>);
        call(format!("inspect network {id}"), QUICK, looked)
            .await
            .is_ok_and(|network| network.containers.is_none_or(|members| members.is_empty()))
    }

    async fn remove_once(&self, name: &str, resource: &Resource) -> Result<(), BackendError> {
        match resource.kind {
            ResourceKind::Container => {
                let options = RemoveContainerOptions {
                    force: true,
                    v: true,
                    link: false,
                };
                call(name, QUICK, self.client.remove_container(&resource.id, Some(options))).await
            }
            ResourceKind::Network => call(name, QUICK, self.client.remove_network(&resource.id)).await,
            ResourceKind::Volume => {
                let options: Option<RemoveVolumeOptions> = None;
                call(name, QUICK, self.client.remove_volume(&resource.id, options)).await
            }
        }
    }

    /// A container that removes itself may still be there when the engine has agreed to its removal.
    async fn until_gone(
        &self,
        name: &str,
        resource: &Resource,
        until: tokio::time::Instant,
    ) -> Result<(), BackendError> {
        if resource.kind != ResourceKind::Container {
            return Ok(());
        }
        let mut pauses = Pauses::new();
        loop {
            let looked = self
                .client
                .inspect_container(&resource.id, None::<InspectContainerOptions>);
            match call(format!("{name}: look"), QUICK, looked).await {
                Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) if tokio::time::Instant::now() >= until => {
                    return Err(failed(
                        name,
                        BackendErrorKind::TimedOut,
                        "the engine still has it after its removal",
                    ));
                }
                Ok(_) => pauses.pause().await,
            }
        }
    }

    pub(crate) async fn find_resources(&self, label: &str, value: Option<&str>) -> Result<Vec<Resource>, BackendError> {
        let wanted = value.map_or_else(|| label.to_owned(), |value| format!("{label}={value}"));
        let filters = Some(HashMap::from([("label".to_owned(), vec![wanted])]));
        let containers = ListContainersOptions {
            all: true,
            filters: filters.clone(),
            ..Default::default()
        };
        let networks = ListNetworksOptions {
            filters: filters.clone(),
        };
        let volumes = ListVolumesOptions { filters };
        let (containers, networks, volumes) = tokio::join!(
            call("list containers", QUICK, self.client.list_containers(Some(containers))),
            call("list networks", QUICK, self.client.list_networks(Some(networks))),
            call("list volumes", QUICK, self.client.list_volumes(Some(volumes))),
        );
        let containers = containers?.into_iter().filter_map(|one| {
            let name = one.names?.first()?.trim_start_matches('/').to_owned();
            Some(resource(
                ResourceKind::Container,
                name,
                one.id?,
                one.labels.unwrap_or_default(),
            ))
        });
        let networks = networks?.into_iter().filter_map(|one| {
            Some(resource(
                ResourceKind::Network,
                one.name?,
                one.id?,
                one.labels.unwrap_or_default(),
            ))
        });
        let volumes = volumes?
            .volumes
            .unwrap_or_default()
            .into_iter()
            .map(|one| resource(ResourceKind::Volume, one.name.clone(), one.name, one.labels));
        let mut found: Vec<Resource> = containers.chain(networks).chain(volumes).collect();
        found.sort();
        Ok(found)
    }
}

fn resource(kind: ResourceKind, name: String, id: String, labels: HashMap<String, String>) -> Resource {
    Resource {
        kind,
        name,
        id,
        labels: labels.into_iter().collect(),
    }
}

fn kind_name(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Container => "container",
        ResourceKind::Network => "network",
        ResourceKind::Volume => "volume",
    }
}
