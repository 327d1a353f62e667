//! The files of an image, for a guest that is no container.

use std::collections::BTreeMap;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptions;
use bottle_backend::{BackendError, Labels, Resource, ResourceKind};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::Docker;
use crate::call::{BULK, QUICK, call, lacking};

/// What an image says about the programs that run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramSettings {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
}

impl Docker {
    /// What an image says about its programs.
    ///
    /// # Errors
    /// The engine's.
    pub async fn image_settings(&self, id: &str) -> Result<ProgramSettings, BackendError> {
        let name = format!("inspect image {id}");
        let found = call(&*name, QUICK, self.client.inspect_image(id)).await?;
        let config = found.config.ok_or_else(|| lacking(&name, "Config"))?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let env = config.env.unwrap_or_default().into_iter().map(|line| {
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            (name.to_owned(), value.to_owned())
        });
        Ok(ProgramSettings {
            env: env.collect(),
            user: filled(config.user),
            workdir: filled(config.working_dir),
        })
    }

    /// Sends an image's files as one archive, piece by piece. The engine can export containers only, so one is made that
    /// is never started; it has these labels and is removed in any case.
    ///
    /// # Errors
    /// The engine's. A failure in the middle is sent as a piece too, so that nobody takes half an archive for a whole one.
    pub async fn export_image(
        &self,
        id: &str,
        labels: &Labels,
        pieces: &mpsc::Sender<Result<Bytes, String>>,
    ) -> Result<(), BackendError> {
        let body = ContainerCreateBody {
            image: Some(id.to_owned()),
            // Never run; an image without a command of its own could not be made a container of.
            cmd: Some(vec!["/".to_owned()]),
            labels: Some(
                labels
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            ),
            network_disabled: Some(true),
            ..Default::default()
        };
        let options: Option<CreateContainerOptions> = None;
        let name = format!("create a container to export {id}");
        let made = call(name, QUICK, self.client.create_container(options, body)).await?;
        let sent = self.send_files(&made.id, pieces).await;
        if let Err(error) = &sent {
            // Nobody listens any more when it was the listener that failed.
            let _ = pieces.send(Err(error.to_string())).await;
        }
        let remains = Resource {
            kind: ResourceKind::Container,
            name: made.id.clone(),
            id: made.id,
            labels: labels.clone(),
        };
        let removed = self.remove_resource(&remains).await;
        sent.and(removed)
    }

    async fn send_files(&self, id: &str, pieces: &mpsc::Sender<Result<Bytes, String>>) -> Result<(), BackendError> {
        let name = format!("export {id}");
        let mut archive = std::pin::pin!(self.client.export_container(id));
        loop {
            let next = async { archive.next().await.transpose() };
            let Some(piece) = call(&*name, BULK, next).await? else {
                return Ok(());
            };
            if pieces.send(Ok(piece)).await.is_err() {
                // The one who reads has its own reason, and tells it.
                return Ok(());
            }
        }
    }
}
