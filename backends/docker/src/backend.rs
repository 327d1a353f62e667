//! The trait, call by call. Both halves of a bottle are containers here, so the role makes no difference.

use std::collections::BTreeMap;

use bottle_backend::{
    Backend, BackendError, BoxFuture, CapabilityContract, EngineFacts, Exec, ExecSpec, Labels, NetworkMade, Observed,
    Output, Resource, Role, Streams,
};
use bottle_plan::{BackendKind, ContainerPlan, NetworkPlan, VolumePlan};
use bytes::Bytes;

use crate::{Docker, facts};

impl Backend for Docker {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    fn contract(&self) -> CapabilityContract {
        facts::contract()
    }

    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, BackendError>> {
        Box::pin(self.find_facts())
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>> {
        Box::pin(self.find_image_id(reference))
    }

    fn load_image<'a>(&'a self, reference: &'a str, archive: Bytes) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.load(reference, archive))
    }

    fn create_network<'a>(
        &'a self,
        plan: &'a NetworkPlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<NetworkMade, BackendError>> {
        Box::pin(self.make_network(plan, labels))
    }

    fn create_volume<'a>(
        &'a self,
        plan: &'a VolumePlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.make_volume(plan, labels))
    }

    fn create<'a>(
        &'a self,
        _: Role,
        plan: &'a ContainerPlan,
        labels: &'a Labels,
        subnets: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, BackendError>> {
        Box::pin(self.make_container(plan, labels, subnets))
    }

    fn attach<'a>(&'a self, _: Role, id: &'a str, tty: bool) -> BoxFuture<'a, Result<Streams, BackendError>> {
        Box::pin(self.attach_streams(id, tty))
    }

    fn start<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.start_container(id))
    }

    fn observe<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<Observed, BackendError>> {
        Box::pin(self.look_at_container(id))
    }

    fn observe_network<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NetworkPlan, BackendError>> {
        Box::pin(self.look_at_network(name))
    }

    fn exec<'a>(&'a self, _: Role, id: &'a str, spec: &'a ExecSpec) -> BoxFuture<'a, Result<Exec, BackendError>> {
        Box::pin(self.run_exec(id, spec))
    }

    fn resize<'a>(
        &'a self,
        _: Role,
        id: &'a str,
        exec: Option<&'a str>,
        columns: u16,
        rows: u16,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.resize_terminal(id, exec, columns, rows))
    }

    fn put<'a>(
        &'a self,
        _: Role,
        id: &'a str,
        directory: &'a str,
        archive: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.put_archive(id, directory, archive))
    }

    fn get<'a>(&'a self, _: Role, id: &'a str, path: &'a str) -> BoxFuture<'a, Result<Output, BackendError>> {
        Box::pin(self.get_archive(id, path))
    }

    fn wait<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>> {
        Box::pin(self.wait_for_end(id))
    }

    fn signal<'a>(&'a self, _: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.send_signal(id, signal))
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.remove_resource(resource))
    }

    fn inventory<'a>(
        &'a self,
        label: &'a str,
        value: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Resource>, BackendError>> {
        Box::pin(self.find_resources(label, value))
    }
}
