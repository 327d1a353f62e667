//! The trait, call by call.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bottle_plan::{BackendKind, ContainerPlan, NetworkPlan, Topology, VolumePlan};
use bytes::Bytes;

use super::Fake;
use crate::{
    Backend, BackendError, BackendErrorKind, BoxFuture, CapabilityContract, EngineFacts, Exec, ExecSpec, Labels,
    NetworkMade, Observed, Output, RelaySecret, Resource, Role, Streams,
};

fn done<'a, T: Send + 'a>(outcome: T) -> BoxFuture<'a, T> {
    // A real backend is never done at once: other tasks get their turn here too.
    Box::pin(async move {
        tokio::task::yield_now().await;
        outcome
    })
}

impl Backend for Fake {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn contract(&self) -> CapabilityContract {
        let topologies = vec![Topology::Sealed, Topology::Routed];
        CapabilityContract {
            backend: self.kind,
            topologies,
            cannot: Vec::new(),
        }
    }

    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, BackendError>> {
        done(self.call("facts".to_owned(), |_| {
            Ok(EngineFacts {
                engine: "fake 1".to_owned(),
                api: "1.41".to_owned(),
                platform: "linux/amd64".to_owned(),
                kernel: "0".to_owned(),
                subnets: Vec::new(),
                shares_kernel: false,
                relay: None,
                processors: None,
            })
        }))
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>> {
        done(self.call(format!("find image {reference}"), |state| {
            let there = state.images.as_ref().is_none_or(|images| images.contains(reference));
            Ok(there.then(|| format!("image-{reference}")))
        }))
    }

    fn load_image<'a>(&'a self, reference: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.call(format!("load image {reference}"), |state| {
            state.images.get_or_insert_default().insert(reference.to_owned());
            Ok(())
        }))
    }

    fn create_network<'a>(
        &'a self,
        plan: &'a NetworkPlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<NetworkMade, BackendError>> {
        done(self.make_network(plan, labels))
    }

    fn create_volume<'a>(
        &'a self,
        plan: &'a VolumePlan,
        labels: &'a Labels,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.call(format!("create volume {}", plan.name), |state| {
            match state.volumes.insert(plan.name.clone(), labels.clone()) {
                None => Ok(()),
                Some(_) => Err(BackendErrorKind::Conflict),
            }
        }))
    }

    fn create<'a>(
        &'a self,
        role: Role,
        plan: &'a ContainerPlan,
        labels: &'a Labels,
        _: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, BackendError>> {
        done(self.make_container(role, plan, labels))
    }

    fn attach<'a>(&'a self, role: Role, id: &'a str, _: bool) -> BoxFuture<'a, Result<Streams, BackendError>> {
        done(self.container("attach", id, |_| ()).map(|()| self.open(role, id)))
    }

    fn relay<'a>(&'a self, guest: &'a str, to: SocketAddr, _: RelaySecret) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.call(format!("relay {guest} to {to}"), |_| Ok(())))
    }

    fn start<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.container("start", id, |container| container.running = true))
    }

    fn observe<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<Observed, BackendError>> {
        done(self.see(id))
    }

    fn observe_network<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NetworkPlan, BackendError>> {
        done(self.call(format!("observe network {name}"), |state| {
            state
                .networks
                .get(name)
                .map(|(plan, _)| plan.clone())
                .ok_or(BackendErrorKind::NotFound)
        }))
    }

    fn exec<'a>(&'a self, _: Role, id: &'a str, spec: &'a ExecSpec) -> BoxFuture<'a, Result<Exec, BackendError>> {
        done(self.run(id, spec))
    }

    fn resize<'a>(
        &'a self,
        _: Role,
        id: &'a str,
        _: Option<&'a str>,
        _: u16,
        _: u16,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.container("resize", id, |_| ()))
    }

    fn put<'a>(&'a self, _: Role, id: &'a str, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.container("put", id, |_| ()))
    }

    fn get<'a>(&'a self, role: Role, id: &'a str, path: &'a str) -> BoxFuture<'a, Result<Output, BackendError>> {
        done(Err(BackendError {
            call: format!("get {path} of the {role:?} {id}"),
            problem: "there are no files in a stand-in".to_owned(),
            kind: BackendErrorKind::Refused,
        }))
    }

    fn wait<'a>(&'a self, _: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>> {
        let exit = self.container("wait", id, |container| container.exit.subscribe());
        Box::pin(async move {
            let mut exit = exit?;
            let ended = exit.wait_for(Option::is_some).await.map(|code| *code);
            ended.ok().flatten().ok_or_else(|| BackendError {
                call: format!("wait {id}"),
                problem: "it was removed".to_owned(),
                kind: BackendErrorKind::NotFound,
            })
        })
    }

    fn signal<'a>(&'a self, _: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        let outcome = self.container(&format!("signal {signal}"), id, |_| ());
        if outcome.is_ok() {
            self.end(id, 143);
        }
        done(outcome)
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Result<(), BackendError>> {
        done(self.take_away(resource))
    }

    fn inventory<'a>(
        &'a self,
        label: &'a str,
        value: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Resource>, BackendError>> {
        let outcome = self.call(format!("inventory {label}"), |_| Ok(()));
        let mut found = self.resources();
        found.retain(|one| match value {
            Some(value) => one.labels.get(label).is_some_and(|have| have == value),
            None => one.labels.contains_key(label),
        });
        done(outcome.map(|()| found))
    }
}
