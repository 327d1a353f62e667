//! A container in the network namespace of another: the one thing that no plan of a bottle can say, and that a witness on a
//! bundle's own loopback needs.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptions;
use bottle_backend::Labels;
use probe_spec::world;

/// Creates the listener; its id.
pub async fn create(
    name: &str,
    image: &str,
    joined: &str,
    labels: &Labels,
) -> Result<String, Box<bollard::errors::Error>> {
    let engine = bollard::Docker::connect_with_defaults()?;
    let port = world::BUNDLE_LOOPBACK_PORT.to_string();
    let command = ["listen", "--ports", &port, "--addresses", "127.0.0.1,::1"]
        .map(str::to_owned)
        .to_vec();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some("0:0".to_owned()),
        entrypoint: Some(vec!["/bottle-probe".to_owned()]),
        cmd: Some(command),
        attach_stdout: Some(true),
        labels: Some(
            labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect::<HashMap<_, _>>(),
        ),
        host_config: Some(HostConfig {
            network_mode: Some(format!("container:{joined}")),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            readonly_rootfs: Some(true),
            auto_remove: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..CreateContainerOptions::default()
    };
    Ok(engine.create_container(Some(options), body).await?.id)
}
