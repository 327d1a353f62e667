//! The trait, call by call: the guest is a machine, everything else is the engine's.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bottle_backend::{
    Backend, BackendError, BackendErrorKind, BoxFuture, CapabilityContract, EngineFacts, Exec, ExecSpec, Labels,
    NetworkMade, Observed, Output, RelaySecret, Resource, Role, Streams,
};
use bottle_plan::{BackendKind, ContainerPlan, LABEL_ROLE, NetworkPlan, VolumePlan, is_path};
use bytes::Bytes;

use crate::image::{self, Image, OnDisk};
use crate::inside::Inside;
use crate::journal::{Entry, Kind, id, of_id};
use crate::machine::Machine;
use crate::program::{error, refused, unexpected};
use crate::routing::route;
use crate::{Smolvm, facts, images_in_use, listing, loopback, shared};

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
            facts.relay = self.settings.relay(&*self.inner, &facts).await?;
            facts.engine = format!("{} with smolvm {}", facts.engine, self.maker.program.version());
            Ok(facts)
        })
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, BackendError>> {
        Box::pin(async move {
            if is_path(reference) {
                let found = image::on_disk(reference)?;
                return Ok(found.map(|found| match found {
                    OnDisk::Directory(image) => image.directory.display().to_string(),
                    OnDisk::File(file) => file.id().to_owned(),
                }));
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
                    loopback::provide_for(plan).await?;
                    let shared = &self.maker.shared;
                    let plan_for_engine = shared.for_engine(plan);
                    let id = self.inner.create(role, &plan_for_engine, labels, subnets).await?;
                    let shares = shared.of_plan(plan);
                    self.shares()
                        .extend(shares.map(|(target, directory)| ((id.clone(), target.to_owned()), directory)));
                    Ok(id)
                }
            }
        })
    }

    fn attach<'a>(&'a self, role: Role, id: &'a str, tty: bool) -> BoxFuture<'a, Result<Streams, BackendError>> {
        match of_id(id) {
            None => self.inner.attach(role, id, tty),
            Some((_, name)) => Box::pin(async move {
                if self.machine(id).is_err() && self.maker.journal.read(name)?.is_some() {
                    let problem = "the command of a machine is on the terminal of the launcher that started it, and smolvm joins no \
                                   second one to it; `bottle exec` runs another program in the machine";
                    return Err(refused(format!("attach to {name}"), problem));
                }
                self.machine(id)?.attach(tty)
            }),
        }
    }

    fn relay<'a>(
        &'a self,
        guest: &'a str,
        to: SocketAddr,
        secret: RelaySecret,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.maker.relay(&*self.machine(guest)?, to, &secret) })
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
                let (name, inside) = self.inside(id)?;
                let number = self.execs.fetch_add(1, Ordering::Relaxed);
                let exec_id = format!("{id}/{number}");
                let (exec, further) = self.maker.exec(name, &inside, spec, exec_id.clone())?;
                self.further().insert(exec_id, further);
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
                    Some(exec) => self.further().get(exec).and_then(|further| further.terminal.clone()),
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
            None => {
                let share = self.shares().get(&(id.to_owned(), directory.to_owned())).cloned();
                match share {
                    Some(share) => Box::pin(async move { shared::unpack(&share, &archive) }),
                    None => self.inner.put(role, id, directory, archive),
                }
            }
            Some((_, name)) => Box::pin(async move {
                if let Ok(machine) = self.machine(id)
                    && !machine.has_begun()
                {
                    self.maker.bring_up(&machine, &self.starts).await?;
                    return self.maker.unpack(name, machine.inside(), directory, &archive).await;
                }
                let files = files_of(directory, &archive)
                    .map_err(|problem| refused(format!("put into {directory} of {name}"), problem))?;
                self.maker.put(name, &files).await
            }),
        }
    }

    fn get<'a>(&'a self, role: Role, id: &'a str, path: &'a str) -> BoxFuture<'a, Result<Output, BackendError>> {
        match of_id(id) {
            None => self.inner.get(role, id, path),
            Some(_) => Box::pin(async move {
                let (name, inside) = self.inside(id)?;
                self.maker.get(name, &inside, path)
            }),
        }
    }

    fn wait<'a>(&'a self, role: Role, id: &'a str) -> BoxFuture<'a, Result<i64, BackendError>> {
        match of_id(id) {
            None => self.inner.wait(role, id),
            Some(_) => Box::pin(async move {
                // The machine is let go of before its end is waited for.
                let ended = self.machine(id)?.ended();
                ended.await
            }),
        }
    }

    fn signal<'a>(&'a self, role: Role, id: &'a str, signal: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        match of_id(id) {
            None => self.inner.signal(role, id, signal),
            Some(_) => Box::pin(async move {
                let (name, inside) = self.inside(id)?;
                self.maker.signal(name, &inside, signal).await
            }),
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
                    _ => {
                        self.inner.remove(resource).await?;
                        self.shares().retain(|(bundle, _), _| *bundle != resource.id);
                        Ok(())
                    }
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

    /// A machine by its name, and how programs run in it: one of this process, or another's that the journal knows.
    fn inside<'a>(&self, id: &'a str) -> Result<(&'a str, Inside), BackendError> {
        let name = of_id(id).map_or(id, |(_, name)| name);
        if let Ok(machine) = self.machine(id) {
            return Ok((name, machine.inside().clone()));
        }
        let call = format!("look for the machine {name}");
        let Some(entry) = self.maker.journal.read(name)? else {
            return Err(error(call, BackendErrorKind::NotFound, "there is none (any more)"));
        };
        let plan = entry
            .plan
            .ok_or_else(|| unexpected(call, "the journal has no plan of it"))?;
        Ok((name, Inside::of(&plan, &entry.settings)?))
    }

    async fn make_machine(
        &self,
        plan: &ContainerPlan,
        labels: &Labels,
        subnets: &BTreeMap<String, String>,
    ) -> Result<String, BackendError> {
        let route = route(plan, subnets, self.narrowing.as_ref())?;
        self.site.make_state()?;
        let image = self.image(plan, labels).await?;
        let entry = Entry::new(Kind::Machine, &plan.name, labels);
        let machine = self.maker.create(plan, &image, route, entry).await?;
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
        let used = images_in_use(&self.maker.journal)?;
        if is_path(&plan.image) {
            return match image::on_disk(&plan.image)?.ok_or_else(missing)? {
                OnDisk::Directory(image) => Ok(image),
                OnDisk::File(file) => {
                    self.site.make_cache()?;
                    self.cache.take_file(file, &used).await
                }
            };
        }
        let id = self.inner.find_image(&plan.image).await?.ok_or_else(missing)?;
        self.site.make_cache()?;
        let mut labels = labels.clone();
        labels.insert(LABEL_ROLE.to_owned(), EXPORT.to_owned());
        self.cache.take(&self.source, &id, &labels, &used).await
    }

    async fn observe_anothers(&self, name: &str) -> Result<Observed, BackendError> {
        let entry = self.maker.journal.read(name)?;
        let listed = listing::see(&self.maker.program, name, self.maker.limits.look).await?;
        let missing = || unexpected(format!("observe {name}"), "the journal has no plan of it");
        let entry = entry.ok_or_else(missing)?;
        let plan = entry.plan.ok_or_else(missing)?;
        let inside = Inside::of(&plan, &entry.settings)?;
        Ok(listing::observed(name, Some(&listed), &plan, &inside, entry.labels))
    }

    async fn remove_machine(&self, name: &str) -> Result<(), BackendError> {
        self.maker.remove(name).await?;
        let machine = self.machines().remove(name);
        if let Some(machine) = machine {
            machine.release();
        }
        self.further()
            .retain(|exec, _| !exec.starts_with(&format!("{}/", id(Kind::Machine, name))));
        Ok(())
    }
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
