//! Containers: made, started, watched, entered.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions};
use bollard::models::{ContainerStateStatusEnum, NetworkConnectRequest, NetworkDisconnectRequest};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, ImportImageOptions, InspectContainerOptions,
    KillContainerOptions, ResizeContainerTTYOptions, StartContainerOptions, UploadToContainerOptions,
    WaitContainerOptions,
};
use bottle_backend::{
    BackendError, BackendErrorKind, Exec, ExecSpec, Labels, Observed, Output, Resource, ResourceKind, Streams,
};
use bottle_plan::{ContainerPlan, NetworkMode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::Docker;
use crate::call::{BULK, QUICK, call, failed, lacking};
use crate::hijack::{Hijacked, hijack};
use crate::{observe, request};

/// Key sequence by which a client on a terminal leaves without ending the program. The default (`ctrl-p,ctrl-q`) swallows
/// keys that people use, and none at all cannot be asked for, so it is one that nobody types.
const DETACH_KEYS: &str = "ctrl-%5E,ctrl-_,ctrl-%5E,ctrl-_,ctrl-%5E,ctrl-_";
/// How often an exec is looked at while its output is still open (a child of it may hold the output for good).
const LOOK: Duration = Duration::from_secs(1);

impl Docker {
    pub(crate) async fn find_image_id(&self, reference: &str) -> Result<Option<String>, BackendError> {
        match call(
            format!("inspect image {reference}"),
            QUICK,
            self.client.inspect_image(reference),
        )
        .await
        {
            Ok(found) => Ok(Some(found.id.ok_or_else(|| lacking("inspect image", "Id"))?)),
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn load(&self, reference: &str, archive: Bytes) -> Result<(), BackendError> {
        let name = format!("load image {reference}");
        let answers = self
            .client
            .import_image(ImportImageOptions::default(), bollard::body_full(archive), None);
        call(&*name, BULK, answers.try_collect::<Vec<_>>()).await?;
        if self.find_image_id(reference).await?.is_none() {
            let problem = "the engine took the archive, but the image is not there under its reference";
            return Err(failed(&name, BackendErrorKind::Unexpected, problem));
        }
        Ok(())
    }

    pub(crate) async fn make_container(
        &self,
        plan: &ContainerPlan,
        labels: &Labels,
        subnets: &BTreeMap<String, String>,
    ) -> Result<String, BackendError> {
        let name = format!("create container {}", plan.name);
        let body = request::container(&name, plan, labels, subnets)?;
        let options = CreateContainerOptions {
            name: Some(plan.name.clone()),
            ..Default::default()
        };
        let made = call(&*name, QUICK, self.client.create_container(Some(options), body)).await?;
        for warning in &made.warnings {
            tracing::warn!(container = plan.name, warning, "engine");
        }
        if let Err(error) = self.join_networks(plan, &made.id, subnets).await {
            let remains = Resource {
                kind: ResourceKind::Container,
                name: plan.name.clone(),
                id: made.id,
                labels: labels.clone(),
            };
            if let Err(stays) = self.remove_resource(&remains).await {
                tracing::warn!(error = %stays, "a container that could not be completed stays");
            }
            return Err(error);
        }
        Ok(made.id)
    }

    /// Connects a container to its second and further networks.
    async fn join_networks(
        &self,
        plan: &ContainerPlan,
        id: &str,
        subnets: &BTreeMap<String, String>,
    ) -> Result<(), BackendError> {
        let NetworkMode::Networks(attachments) = &plan.network else {
            return Ok(());
        };
        for attachment in attachments.iter().skip(1) {
            let name = format!("connect {} to network {}", plan.name, attachment.network);
            let body = NetworkConnectRequest {
                container: id.to_owned(),
                endpoint_config: Some(request::endpoint(&name, attachment, subnets)?),
            };
            call(name, QUICK, self.client.connect_network(&attachment.network, body)).await?;
        }
        Ok(())
    }

    /// Connects a running container to one more network.
    ///
    /// # Errors
    /// When the engine refuses, or either is not there.
    pub async fn join_network(&self, network: &str, container: &str) -> Result<(), BackendError> {
        let body = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: None,
        };
        let name = format!("connect {container} to network {network}");
        call(name, QUICK, self.client.connect_network(network, body)).await
    }

    /// Disconnects a container from a network; one that is not a member is no failure.
    ///
    /// # Errors
    /// When the engine refuses for another reason.
    pub async fn leave_network(&self, network: &str, container: &str) -> Result<(), BackendError> {
        let body = NetworkDisconnectRequest {
            container: container.to_owned(),
            force: Some(true),
        };
        let name = format!("disconnect {container} from network {network}");
        match call(name, QUICK, self.client.disconnect_network(network, body)).await {
            Err(error) if error.kind == BackendErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn attach_streams(&self, id: &str, tty: bool) -> Result<Streams, BackendError> {
        let path =
            format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1&logs=0&detachKeys={DETACH_KEYS}");
        let name = format!("attach to {id}");
        Ok(hijack(&name, &self.socket, &path, Bytes::new(), tty, QUICK)
            .await?
            .streams)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), BackendError> {
        call(
            format!("start {id}"),
            QUICK,
            self.client.start_container(id, None::<StartContainerOptions>),
        )
        .await
    }

    pub(crate) async fn look_at_container(&self, id: &str) -> Result<Observed, BackendError> {
        let name = format!("inspect {id}");
        let found = call(
            &*name,
            QUICK,
            self.client.inspect_container(id, None::<InspectContainerOptions>),
        )
        .await?;
        let networks = found
            .network_settings
            .as_ref()
            .and_then(|settings| settings.networks.as_ref());
        let mut subnets = BTreeMap::new();
        for network in networks
            .into_iter()
            .flatten()
            .filter(|(_, endpoint)| endpoint.ipam_config.is_some())
        {
            let seen = self.look_at_network(network.0).await?;
            subnets.extend(
                seen.subnets
                    .into_iter()
                    .next()
                    .map(|subnet| (network.0.clone(), subnet.cidr)),
            );
        }
        observe::container(&name, found, &subnets, self.seccomp)
    }

    pub(crate) async fn run_exec(&self, id: &str, spec: &ExecSpec) -> Result<Exec, BackendError> {
        let program = spec.command.first().map_or("", String::as_str);
        let name = format!("exec {program} in {id}");
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(spec.tty),
            detach_keys: Some(DETACH_KEYS.replace("%5E", "^")),
            env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: Some(spec.command.clone()),
            user: spec.user.clone(),
            working_dir: spec.workdir.clone(),
            ..Default::default()
        };
        let exec = call(&*name, QUICK, self.client.create_exec(id, options)).await?.id;
        let body = serde_json::json!({ "Detach": false, "Tty": spec.tty }).to_string();
        let path = format!("/exec/{exec}/start");
        let Hijacked { streams, ended } = hijack(&name, &self.socket, &path, body.into(), spec.tty, QUICK).await?;
        let exit = Box::pin(exec_exit(self.clone(), name, exec.clone(), ended));
        Ok(Exec {
            id: exec,
            streams,
            exit,
        })
    }

    pub(crate) async fn resize_terminal(
        &self,
        id: &str,
        exec: Option<&str>,
        columns: u16,
        rows: u16,
    ) -> Result<(), BackendError> {
        match exec {
            Some(exec) => {
                let size = ResizeExecOptions {
                    height: rows,
                    width: columns,
                };
                call(
                    format!("resize exec {exec}"),
                    QUICK,
                    self.client.resize_exec(exec, size),
                )
                .await
            }
            None => {
                let size = ResizeContainerTTYOptions {
                    h: rows.into(),
                    w: columns.into(),
                };
                call(
                    format!("resize {id}"),
                    QUICK,
                    self.client.resize_container_tty(id, size),
                )
                .await
            }
        }
    }

    pub(crate) async fn put_archive(&self, id: &str, directory: &str, archive: Bytes) -> Result<(), BackendError> {
        let options = UploadToContainerOptions {
            path: directory.to_owned(),
            ..Default::default()
        };
        let upload = self
            .client
            .upload_to_container(id, Some(options), bollard::body_full(archive));
        call(format!("put into {directory} of {id}"), BULK, upload).await
    }

    /// The time limit is for the first part of the answer: an archive may be long.
    pub(crate) async fn get_archive(&self, id: &str, path: &str) -> Result<Output, BackendError> {
        let name = format!("get {path} of {id}");
        let (client, id) = (self.client.clone(), id.to_owned());
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let (mut to, from) = tokio::io::duplex(256 * 1024);
        let (sender, first) = oneshot::channel();
        tokio::spawn(async move {
            let mut parts = std::pin::pin!(client.download_from_container(&id, Some(options)));
            let part = match parts.next().await.transpose() {
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
                Ok(part) => part,
            };
            // Who asked may have given up; the first write fails then.
            let _ = sender.send(Ok(()));
            let mut next = part;
            while let Some(part) = next {
                if to.write_all(&part).await.is_err() {
                    return;
                }
                // An archive that is cut has no end, which its reader notices.
                next = parts.next().await.and_then(Result::ok);
            }
        });
        let lost = |_| Error::IOError {
            err: std::io::Error::other("the answer was given up"),
        };
        call(name, BULK, async { first.await.map_err(lost)? }).await?;
        Ok(Box::pin(from))
    }

    /// No time limit: a container may run for days.
    pub(crate) async fn wait_for_end(&self, id: &str) -> Result<i64, BackendError> {
        let name = format!("wait for {id}");
        let found = call(
            &*name,
            QUICK,
            self.client.inspect_container(id, None::<InspectContainerOptions>),
        )
        .await?;
        let status = found.state.and_then(|state| state.status);
        // "Not running" is true of a container that was never started.
        let created = status == Some(ContainerStateStatusEnum::CREATED);
        let condition = if created { "next-exit" } else { "not-running" };
        let options = WaitContainerOptions {
            condition: condition.to_owned(),
        };
        let mut answers = std::pin::pin!(self.client.wait_container(id, Some(options)));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // The library makes an error of every exit code but 0.
            Some(Err(Error::DockerContainerWaitError { code, error })) if error.is_empty() => Ok(code),
            Some(Err(other)) => call(name, QUICK, std::future::ready(Err(other))).await,
            None => Err(failed(
                &name,
                BackendErrorKind::Unexpected,
                "the engine's answer is empty",
            )),
        }
    }

    pub(crate) async fn send_signal(&self, id: &str, signal: &str) -> Result<(), BackendError> {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        call(
            format!("signal {signal} to {id}"),
            QUICK,
            self.client.kill_container(id, Some(options)),
        )
        .await
    }
}

/// The exit code of an exec: its output ends with it, unless a child of it holds the output open.
async fn exec_exit(
    docker: Docker,
    name: String,
    exec: String,
    mut ended: oneshot::Receiver<()>,
) -> Result<i64, BackendError> {
    let mut output_open = true;
    loop {
        if output_open {
            tokio::select! {
                _ = &mut ended => output_open = false,
                () = tokio::time::sleep(LOOK) => {}
            }
        } else {
            // The output has ended; the engine notes the exit code a moment later.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let found = call(format!("{name}: look"), QUICK, docker.client.inspect_exec(&exec)).await?;
        if found.running == Some(false) {
            return found.exit_code.ok_or_else(|| lacking(&name, "ExitCode"));
        }
    }
}
