//! A backend that adds the removed controls to the configuration that a bundle is sent.
//!
//! The field exists only in the bundle that was built leaky, so no plan can say it; and launching must go through the shipped
//! code. So the one line on its way to the bundle's standard input is changed here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bottle_backend::{
    Backend, BackendError, BoxFuture, CapabilityContract, EngineFacts, Exec, ExecSpec, Input, Labels, NetworkMade,
    Observed, Output, RelaySecret, Resource, Role, Streams,
};
use bottle_leaky::Removed;
use bottle_plan::{BackendKind, ContainerPlan, NetworkPlan, VolumePlan};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Room for a configuration on its way.
const BUFFER: usize = 64 * 1024;

/// The backend behind it, changed for bundles only.
pub struct Injecting {
    /// What does the work.
    pub inner: Arc<dyn Backend>,
    /// What the bundle is told to leave out.
    pub removed: Removed,
    /// Subnets of networks that are no bottle's own, by name: members of them may have a fixed host number.
    pub subnets: BTreeMap<String, String>,
}

impl Injecting {
    fn inject(&self, mut stdin: Input) -> Input {
        let (near, far) = tokio::io::duplex(BUFFER);
        let removed = self.removed.clone();
        tokio::spawn(async move {
            let mut far = BufReader::new(far);
            let mut line = Vec::new();
            if far.read_until(b'\n', &mut line).await.is_ok() {
                // What is not understood goes on as it is: the bundle then says why it refuses.
                if let Ok(mut config) = serde_json::from_slice::<serde_json::Value>(&line) {
                    removed.inject(&mut config);
                    line = config.to_string().into_bytes();
                    line.push(b'\n');
                }
                if stdin.write_all(&line).await.is_ok() && stdin.flush().await.is_ok() {
                    // Its end is the end of the lease, which goes on to the bundle.
                    let _ = tokio::io::copy_buf(&mut far, &mut stdin).await;
                }
            }
            let _ = stdin.shutdown().await;
        });
        Box::pin(near)
    }
}

impl Backend for Injecting {
    fn attach<'a>(&'a self, role: Role, id: &'a str, tty: bool) -> BoxFuture<'a, Result<Streams, BackendError>> {
        Box::pin(async move {
            let mut streams = self.inner.attach(role, id, tty).await?;
            if role == Role::Bundle {
                streams.stdin = self.inject(streams.stdin);
            }
            Ok(streams)
        })
    }

    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn contract(&self) -> CapabilityContract {
        self.inner.contract()
    }

    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, BackendError>> {
        self.inner.facts()
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>> {
        self.inner.find_image(reference)
    }

    fn load_image<'a>(&'a self, reference: &'a str, archive: Bytes) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.load_image(reference, archive)
    }

    fn create_network<'a>(
        &'a self,
        plan: &'a NetworkPlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<NetworkMade, BackendError>> {
        self.inner.create_network(plan, labels)
    }

    fn create_volume<'a>(
        &'a self,
        plan: &'a VolumePlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.create_volume(plan, labels)
    }

    fn create<'a>(
        &'a self,
        role: Role,
        plan: &'a ContainerPlan,
        labels: &'a Labels,
        subnets: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, BackendError>> {
        Box::pin(async move {
            let mut all = self.subnets.clone();
            all.extend(subnets.clone());
            self.inner.create(role, plan, labels, &all).await
        })
    }

    fn relay<'a>(
        &'a self,
        guest: &'a str,
        to: SocketAddr,
        secret: RelaySecret,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.relay(guest, to, secret)
    }

    fn start<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.start(role, id)
    }

    fn observe<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<Observed, BackendError>> {
        self.inner.observe(role, id)
    }

    fn observe_network<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NetworkPlan, BackendError>> {
        self.inner.observe_network(name)
    }

    fn exec<'a>(&'a self, role: Role, id: &'a str, spec: &'a ExecSpec) -> BoxFuture<'a, Result<Exec, BackendError>> {
        self.inner.exec(role, id, spec)
    }

    fn resize<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        exec: Option<&'a str>,
        columns: u16,
        rows: u16,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.resize(role, id, exec, columns, rows)
    }

    fn put<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        directory: &'a str,
        archive: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.put(role, id, directory, archive)
    }

    fn get<'a>(&'a self, role: Role, id: &'a str, path: &'a str) -> BoxFuture<'a, Result<Output, BackendError>> {
        self.inner.get(role, id, path)
    }

    fn wait<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>> {
        self.inner.wait(role, id)
    }

    fn signal<'a>(&'a self, role: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.signal(role, id, signal)
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.remove(resource)
    }

    fn inventory<'a>(
        &'a self,
        label: &'a str,
        value: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Resource>, BackendError>> {
        self.inner.inventory(label, value)
    }
}
