//! The trait, call by call: the guest is a machine, everything else is the engine's.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bottle_backend::{
    Backend, BackendError, BackendErrorKind, BoxFuture, CapabilityContract, EngineFacts, Exec, ExecSpec, Labels,
    NetworkMade, Observed, Resource, Role, Streams,
};
use bottle_plan::{BackendKind, ContainerPlan, LABEL_ROLE, NetworkMode, NetworkPlan, VolumePlan};
use bytes::Bytes;

use crate::image::{self, Image};
use crate::journal::{Entry, Kind, id, of_id};
use crate::machine::{Machine, observed};
use crate::program::{error, refused, unexpected};
use crate::{Smolvm, facts, firewall, images_in_use, listing};

/// Role of the container out of which an image is exported.
const EXPORT: &str = "image-export";

impl Backend for Smolvm {
    fn kind(&self) -> BackendKind {
        BackendKind::Smolmachines
    }

    fn contract(&self) -> CapabilityContract {
        facts::contract()
    }

    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, BackendError>> {
        Box::pin(async {
            let mut facts = self.inner.facts().await?;
            if !facts.shares_kernel {
                let problem = format!(
                    "the engine ({}) runs on another kernel than this machine's, so that sockets of its containers cannot be \
                     handed to a machine here; use an engine on this machine, or the backend `docker`",
                    facts.engine
                );
                return Err(refused("look at the engine", problem));
            }
            facts.engine = format!("{} with smolvm {}", facts.engine, self.maker.program.version());
            Ok(facts)
        })
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>> {
        Box::pin(async move {
            if image::is_path(reference) {
                let found = image::directory(reference)?;
                return Ok(found.map(|image| image.directory.display().to_string()));
            }
            self.inner.find_image(reference).await
        })
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
        Box::pin(async move {
            self.site.make_state()?;
            self.maker.shared.make(&self.maker.journal, plan, labels)
        })
    }

    fn create<'a>(
        &'a self,
        role: Role,
        plan: &'a ContainerPlan,
        labels: &'a Labels,
        subnets: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, BackendError>> {
        Box::pin(async move {
            match role {
                Role::Guest => self.make_machine(plan, labels, subnets).await,
                Role::Bundle => {
                    let plan = self.maker.shared.for_engine(plan);
                    self.inner.create(role, &plan, labels, subnets).await
                }
            }
        })
    }

    fn attach<'a>(&'a self, role: Role, id: &'a str, tty: bool) -> BoxFuture<'a, Result<Streams, BackendError>> {
        match of_id(id) {
            None => self.inner.attach(role, id, tty),
            Some(_) => Box::pin(async move { self.machine(id)?.attach(tty) }),
        }
    }

    fn start<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(id) {
            None => self.inner.start(role, id),
            Some(_) => Box::pin(async move { self.maker.start(&*self.machine(id)?, &self.starts).await }),
        }
    }

    fn observe<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<Observed, BackendError>> {
        Box::pin(async move {
            let Some((_, name)) = of_id(id) else {
                let mut seen = self.inner.observe(role, id).await?;
                seen.applied = self.maker.shared.as_planned(seen.applied);
                return Ok(seen);
            };
            match self.machine(id) {
                Ok(machine) => self.maker.observe(&machine).await,
                Err(_) => self.observe_anothers(name).await,
            }
        })
    }

    fn observe_network<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NetworkPlan, BackendError>> {
        self.inner.observe_network(name)
    }

    fn exec<'a>(&'a self, role: Role, id: &'a str, spec: &'a ExecSpec) -> BoxFuture<'a, Result<Exec, BackendError>> {
        match of_id(id) {
            None => self.inner.exec(role, id, spec),
            Some(_) => Box::pin(async move {
                let machine = self.machine(id)?;
                let number = self.execs.fetch_add(1, Ordering::Relaxed);
                let exec_id = format!("{id}/{number}");
                let (exec, terminal) = self.maker.exec(&machine, spec, exec_id.clone())?;
                if let Some(terminal) = terminal {
                    self.terminals().insert(exec_id, terminal);
                }
                Ok(exec)
            }),
        }
    }

    fn resize<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        exec: Option<&'a str>,
        columns: u16,
        rows: u16,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(id) {
            None => self.inner.resize(role, id, exec, columns, rows),
            Some(_) => Box::pin(async move {
                let terminal = match exec {
                    Some(exec) => self.terminals().get(exec).cloned(),
                    None => self.machine(id)?.terminal(),
                };
                let call = format!("resize the terminal of {id}");
                let terminal = terminal.ok_or_else(|| refused(&*call, "it has none"))?;
                let resized = terminal.resize(columns, rows);
                resized.map_err(|problem| unexpected(call, problem.to_string()))
            }),
        }
    }

    fn put<'a>(
        &'a self,
        role: Role,
        id: &'a str,
        directory: &'a str,
        archive: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(id) {
            None => self.inner.put(role, id, directory, archive),
            Some((_, name)) => Box::pin(async move {
                let files = files_of(directory, &archive)
                    .map_err(|problem| refused(format!("put into {directory} of {name}"), problem))?;
                self.maker.put(name, &files).await
            }),
        }
    }

    fn wait<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>> {
        match of_id(id) {
            None => self.inner.wait(role, id),
            Some(_) => Box::pin(async move {
                let mut end = self.machine(id)?.end();
                let end = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
                end.unwrap_or_else(|| {
                    Err(unexpected(
                        format!("wait for {id}"),
                        "it was removed before its end was seen",
                    ))
                })
            }),
        }
    }

    fn signal<'a>(&'a self, role: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(id) {
            None => self.inner.signal(role, id, signal),
            Some(_) => Box::pin(async move { self.maker.signal(&*self.machine(id)?, signal).await }),
        }
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(&resource.id) {
            Some((Kind::Machine, name)) => Box::pin(self.remove_machine(name)),
            Some((Kind::Directory, name)) => {
                Box::pin(async move { self.maker.shared.remove(&self.maker.journal, name) })
            }
            // What a launch made as a volume is named by its name.
            None => Box::pin(async move {
                match self.maker.journal.read(&resource.name) {
                    Ok(Some(entry)) if entry.resource().kind == resource.kind && entry.kind == Kind::Directory => {
                        self.maker.shared.remove(&self.maker.journal, &resource.name)
                    }
                    _ => self.inner.remove(resource).await,
                }
            }),
        }
    }

    fn inventory<'a>(
        &'a self,
        label: &'a str,
        value: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Resource>, BackendError>> {
        Box::pin(async move {
            let mut found = self.inner.inventory(label, value).await?;
            let ours = self.maker.journal.all()?;
            let is_meant = |entry: &Entry| {
                let own = entry.labels.get(label);
                own.is_some_and(|own| value.is_none_or(|value| own == value))
            };
            found.extend(ours.iter().filter(|entry| is_meant(entry)).map(Entry::resource));
            found.sort();
            Ok(found)
        })
    }
}

impl Smolvm {
    fn machine(&self, id: &str) -> Result<Arc<Machine>, BackendError> {
        let name = of_id(id).map_or(id, |(_, name)| name);
        let found = self.machines().get(name).cloned();
        found.ok_or_else(|| {
            let problem = format!("there is no machine {name} of this process");
            error("look for a machine", BackendErrorKind::NotFound, problem)
        })
    }

    async fn make_machine(
        &self,
        plan: &ContainerPlan,
        labels: &Labels,
        subnets: &BTreeMap<String, String>,
    ) -> Result<String, BackendError> {
        let proxy = proxy(plan, subnets)?;
        self.site.make_state()?;
        let image = self.image(plan, labels).await?;
        let entry = Entry::new(Kind::Machine, &plan.name, labels);
        let machine = self.maker.create(plan, &image, proxy, entry).await?;
        self.machines().insert(plan.name.clone(), Arc::new(machine));
        Ok(id(Kind::Machine, &plan.name))
    }

    async fn image(&self, plan: &ContainerPlan, labels: &Labels) -> Result<Image, BackendError> {
        let missing = || {
            let problem = "it is not there (any more)";
            error(
                format!("look for image {}", plan.image),
                BackendErrorKind::NotFound,
                problem,
            )
        };
        if image::is_path(&plan.image) {
            return image::directory(&plan.image)?.ok_or_else(missing);
        }
        let id = self.inner.find_image(&plan.image).await?.ok_or_else(missing)?;
        self.site.make_cache()?;
        let mut labels = labels.clone();
        labels.insert(LABEL_ROLE.to_owned(), EXPORT.to_owned());
        let used = images_in_use(&self.maker.journal)?;
        self.cache.take(&self.source, &id, &labels, &used).await
    }

    async fn observe_anothers(&self, name: &str) -> Result<Observed, BackendError> {
        let entry = self.maker.journal.read(name)?;
        let listed = listing::see(&self.maker.program, name, self.maker.limits.look).await?;
        let plan = entry.as_ref().and_then(|entry| entry.plan.clone());
        let plan = plan.ok_or_else(|| unexpected(format!("observe {name}"), "the journal has no plan of it"))?;
        Ok(observed(
            &listed,
            &plan,
            entry.map(|entry| entry.labels).unwrap_or_default(),
        ))
    }

    async fn remove_machine(&self, name: &str) -> Result<(), BackendError> {
        self.maker.remove(name).await?;
        let machine = self.machines().remove(name);
        if let Some(machine) = machine {
            machine.release();
        }
        self.terminals()
            .retain(|exec, _| !exec.starts_with(&format!("{}/", id(Kind::Machine, name))));
        Ok(())
    }
}

/// The one place that a routed guest may connect to: what its plan says is its proxy, on the network that it shares with its
/// bundle.
fn proxy(plan: &ContainerPlan, subnets: &BTreeMap<String, String>) -> Result<Option<SocketAddrV4>, BackendError> {
    let refuse = |problem: &str| Err(refused(format!("plan the network of {}", plan.name), problem));
    let NetworkMode::Networks(networks) = &plan.network else {
        return match plan.network {
            NetworkMode::None => Ok(None),
            _ => refuse("a machine cannot have the host's network"),
        };
    };
    let [network] = &networks[..] else {
        return refuse("expected one network, which it shares with its bundle");
    };
    let proxy = plan.env.get("HTTP_PROXY").and_then(|url| url.strip_prefix("http://"));
    let Some(proxy) = proxy.and_then(|address| address.parse::<SocketAddrV4>().ok()) else {
        return refuse("expected the bundle's address and port in HTTP_PROXY");
    };
    if !subnets
        .get(&network.network)
        .is_some_and(|subnet| has(subnet, *proxy.ip()))
    {
        return refuse("the address in HTTP_PROXY is not on the network that it shares with its bundle");
    }
    match firewall::obstacle() {
        None => Ok(Some(proxy)),
        Some(obstacle) => refuse(&obstacle),
    }
}

/// Whether an address is in a subnet (CIDR).
fn has(subnet: &str, address: Ipv4Addr) -> bool {
    let Some((base, bits)) = subnet.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<Ipv4Addr>(), bits.parse::<u32>()) else {
        return false;
    };
    let Some(mask) = 32u32.checked_sub(bits).and_then(|host| u32::MAX.checked_shl(host)) else {
        return false;
    };
    u32::from(base) & mask == u32::from(address) & mask
}

/// Regular files of an archive: (absolute path, mode, content). Anything else is refused.
fn files_of(directory: &str, archive: &[u8]) -> Result<Vec<(String, u32, Vec<u8>)>, String> {
    let mut files = Vec::new();
    let said = |error: std::io::Error| error.to_string();
    for entry in tar::Archive::new(archive).entries().map_err(said)? {
        let mut entry = entry.map_err(said)?;
        let path = entry.path().map_err(said)?.into_owned();
        let is_inside = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if !is_inside {
            return Err(format!("the entry {} leads out of it", path.display()));
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => continue,
            tar::EntryType::Regular => {}
            other => return Err(format!("the entry {} is a {other:?}, not a file", path.display())),
        }
        let mode = entry.header().mode().map_err(said)? & 0o777;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(said)?;
        files.push((
            format!("{}/{}", directory.trim_end_matches('/'), path.display()),
            mode,
            content,
        ));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_plan::Attachment;

    #[test]
    fn subnets_have_their_addresses() {
        let inside = |subnet: &str, address: [u8; 4]| has(subnet, address.into());
        assert!(inside("10.213.4.0/24", [10, 213, 4, 2]));
        assert!(!inside("10.213.4.0/24", [10, 213, 5, 2]));
        for odd in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/0"] {
            assert!(!inside(odd, [10, 0, 0, 1]), "{odd}");
        }
    }

    #[test]
    fn a_routed_machine_reaches_its_proxy_on_the_shared_network_only() {
        let mut plan = crate::inside::tests::plan();
        let subnets = BTreeMap::from([("inner".to_owned(), "10.213.4.0/24".to_owned())]);
        assert_eq!(proxy(&plan, &subnets), Ok(None));
        plan.network = NetworkMode::Networks(vec![Attachment {
            network: "inner".to_owned(),
            host_number: None,
            aliases: Vec::new(),
        }]);
        assert!(proxy(&plan, &subnets).is_err());
        plan.env
            .insert("HTTP_PROXY".to_owned(), "http://192.0.2.1:8888".to_owned());
        let error = proxy(&plan, &subnets).unwrap_err();
        assert!(error.problem.contains("not on the network"), "{error}");
        plan.network = NetworkMode::Host;
        assert!(proxy(&plan, &subnets).is_err());
    }

    #[test]
    fn files_of_an_archive() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o4755);
        header.set_size(3);
        builder.append_data(&mut header, "a/b", &b"abc"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        assert_eq!(
            files_of("/opt/", &archive),
            Ok(vec![("/opt/a/b".to_owned(), 0o755, b"abc".to_vec())])
        );
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "x", "/etc/passwd").unwrap();
        assert!(files_of("/opt", &builder.into_inner().unwrap()).is_err());
    }
}
