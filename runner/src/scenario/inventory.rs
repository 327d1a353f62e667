//! What the engine and the kernel of the host hold of one bottle.
//!
//! Only what bears a mark of the bottle (its slug, ids of its containers and networks, its overlay directories) counts, so
//! that other things of the machine that come and go meanwhile are never taken for leftovers.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions};
use bottle_backend::{Backend, BackendError, ResourceKind, Role};
use bottle_launch::Bottle;
use bottle_plan::LABEL_SLUG;
use probe_spec::InventoryKind;

use crate::processes;

/// What a bottle's things can be recognised by.
pub struct Marks {
    slug: String,
    /// Ids of its containers.
    containers: Vec<String>,
    /// Names of the bridges of its own networks.
    bridges: Vec<String>,
    /// Interfaces of the host that its containers are connected by.
    interfaces: Vec<String>,
    /// Names of its overlay directories.
    overlays: Vec<String>,
    /// Its state directory.
    state: std::path::PathBuf,
}

impl Marks {
    /// Reads them from a bottle that is up.
    pub async fn of(backend: &dyn Backend, bottle: &Bottle) -> Result<Self, BackendError> {
        let slug = bottle.slug().to_owned();
        let resources = backend.inventory(LABEL_SLUG, Some(&slug)).await?;
        let networks = resources
            .iter()
            .filter(|resource| resource.kind == ResourceKind::Network);
        let bridges: Vec<String> = networks
            .map(|network| format!("br-{}", &network.id[..network.id.len().min(12)]))
            .collect();
        let mut interfaces = bridges.clone();
        let mut overlays = Vec::new();
        for role in [Role::Guest, Role::Bundle] {
            let seen = backend.observe(role, bottle.id(role)).await?;
            let Some(pid) = seen.pid else { continue };
            // A machine is a process of the host: what such a one has, the host keeps.
            if !shares(pid, "net") {
                interfaces.extend(host_ends(pid));
            }
            if !shares(pid, "mnt") {
                overlays.extend(overlay_of(pid));
            }
        }
        let containers = vec![bottle.guest().id.clone(), bottle.bundle().id.clone()];
        Ok(Self {
            slug,
            containers,
            bridges,
            interfaces,
            overlays,
            state: bottle.state().to_owned(),
        })
    }

    /// Of a bottle that nothing but its slug is known of.
    pub fn named(slug: &str) -> Self {
        Self {
            slug: slug.to_owned(),
            containers: Vec::new(),
            bridges: Vec::new(),
            interfaces: Vec::new(),
            overlays: Vec::new(),
            state: std::path::PathBuf::new(),
        }
    }

    /// The slug.
    pub fn slug(&self) -> &str {
        &self.slug
    }

    fn are_in(&self, text: &str) -> bool {
        let all = self.containers.iter().chain(&self.bridges).chain(&self.overlays);
        text.contains(&self.slug) || all.into_iter().any(|mark| text.contains(mark))
    }

    /// What there is of a kind. An error says what could not be read.
    pub async fn inventory(&self, backend: &dyn Backend, kind: InventoryKind) -> Result<BTreeSet<String>, String> {
        let of_engine = |kind| async move {
            let all = backend
                .inventory(LABEL_SLUG, Some(&self.slug))
                .await
                .map_err(|error| error.to_string())?;
            Ok(all
                .into_iter()
                .filter(|one| one.kind == kind)
                .map(|one| one.name)
                .collect())
        };
        match kind {
            InventoryKind::Containers => of_engine(ResourceKind::Container).await,
            InventoryKind::Networks => of_engine(ResourceKind::Network).await,
            InventoryKind::Volumes => of_engine(ResourceKind::Volume).await,
            InventoryKind::Interfaces => Ok(self
                .interfaces
                .iter()
                .filter(|name| Path::new("/sys/class/net").join(name).exists())
                .cloned()
                .collect()),
            InventoryKind::FirewallRules => self.firewall_rules(),
            InventoryKind::Mounts => self.lines_of("/proc/self/mountinfo"),
            InventoryKind::Cgroups => Ok(self.below(Path::new("/sys/fs/cgroup"), 5)),
            InventoryKind::LoopDevices => Ok(self.loop_devices()),
            InventoryKind::Processes => Ok(self.processes()),
            InventoryKind::Sockets => Ok(self.sockets()),
            InventoryKind::TemporaryFiles => Ok(self.below(&std::env::temp_dir(), 4)),
            InventoryKind::UnlabelledNetworks => self.unlabelled(ResourceKind::Network).await,
            InventoryKind::UnlabelledVolumes => self.unlabelled(ResourceKind::Volume).await,
            InventoryKind::StateDirectory => Ok(std::fs::symlink_metadata(&self.state)
                .map(|_| self.state.display().to_string())
                .into_iter()
                .collect()),
        }
    }

    /// Networks or volumes with the slug in their name and another label than the bottle's, or none.
    async fn unlabelled(&self, kind: ResourceKind) -> Result<BTreeSet<String>, String> {
        let said = |error: bollard::errors::Error| error.to_string();
        let engine = bollard::Docker::connect_with_defaults().map_err(said)?;
        let all: Vec<(String, HashMap<String, String>)> = if kind == ResourceKind::Network {
            let networks = engine.list_networks(None::<ListNetworksOptions>).await.map_err(said)?;
            let named = networks.into_iter().map(|one| (one.name, one.labels));
            named
                .filter_map(|(name, labels)| Some((name?, labels.unwrap_or_default())))
                .collect()
        } else {
            let volumes = engine.list_volumes(None::<ListVolumesOptions>).await.map_err(said)?;
            let volumes = volumes.volumes.unwrap_or_default().into_iter();
            volumes.map(|one| (one.name, one.labels)).collect()
        };
        let is_ours = |labels: &HashMap<String, String>| labels.get(LABEL_SLUG) == Some(&self.slug);
        Ok(all
            .into_iter()
            .filter(|(name, labels)| name.contains(&self.slug) && !is_ours(labels))
            .map(|(name, _)| name)
            .collect())
    }

    fn lines_of(&self, path: &str) -> Result<BTreeSet<String>, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(text
            .lines()
            .filter(|line| self.are_in(line))
            .map(str::to_owned)
            .collect())
    }

    fn firewall_rules(&self) -> Result<BTreeSet<String>, String> {
        let mut rules = BTreeSet::new();
        for program in ["iptables-save", "ip6tables-save"] {
            let said = Command::new(program)
                .output()
                .map_err(|error| format!("{program}: {error}"))?;
            if !said.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&said.stderr)));
            }
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            rules.extend(text.lines().filter(|line| self.are_in(line)).map(str::to_owned));
        }
        Ok(rules)
    }

    /// Paths with a mark, at most `depth` directories below. Directories that cannot be read hold nothing of ours.
    fn below(&self, directory: &Path, depth: usize) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_str().is_some_and(|name| self.are_in(name)) {
                found.insert(path.display().to_string());
            } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(self.below(&path, depth - 1));
            }
        }
        found
    }

    fn loop_devices(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
                self.are_in(&file)
                    .then(|| format!("{} of {}", entry.file_name().display(), file.trim()))
            })
            .collect()
    }

    fn processes(&self) -> BTreeSet<String> {
        let all = processes::all().into_iter();
        all.filter_map(|pid| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            self.containers
                .iter()
                .any(|id| groups.contains(id))
                .then(|| format!("{pid} {}", name.trim()))
        })
        .collect()
    }

    /// UNIX sockets that any of its processes has, by the tables of their network namespaces; and those of the host with a mark
    /// in their path, listened at or not.
    fn sockets(&self) -> BTreeSet<String> {
        let mut found: BTreeSet<String> = [std::env::temp_dir(), "/run".into()]
            .iter()
            .flat_map(|directory| self.below(directory, 4))
            .filter(|path| std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()))
            .collect();
        let host = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let paths = host.lines().filter_map(|line| line.split_whitespace().nth(7));
        found.extend(paths.filter(|path| self.are_in(path)).map(str::to_owned));
        for process in self.processes() {
            let pid = process.split(' ').next().unwrap_or_default();
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
            found.extend(
                table
                    .lines()
                    .skip(1)
                    .filter_map(|line| line.split_whitespace().nth(7))
                    .map(str::to_owned),
            );
        }
        found
    }
}

/// Whether a process is in our own namespace of a kind.
fn shares(pid: i32, kind: &str) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
    of("self").is_some_and(|own| of(&pid.to_string()) == Some(own))
}

/// The host's ends of a process's interfaces: those whose peer's index is one of the process's own.
fn host_ends(pid: i32) -> Vec<String> {
    let inside = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/{name}/iflink")).ok();
    let mut indices: Vec<u32> = Vec::new();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    for name in table
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
        .filter(|name| *name != "lo")
    {
        indices.extend(inside(name).and_then(|text| text.trim().parse::<u32>().ok()));
    }
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let index = std::fs::read_to_string(entry.path().join("ifindex")).unwrap_or_default();
            index.trim().parse().is_ok_and(|index: u32| indices.contains(&index))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Name of the overlay directory of a process's root, as the mount table has it.
fn overlay_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let root = text.lines().find(|line| line.split(' ').nth(4) == Some("/"))?;
    let upper = root.split("upperdir=").nth(1)?.split([',', ' ']).next()?;
    let directory = Path::new(upper).parent()?;
    directory.file_name().map(|name| name.to_string_lossy().into_owned())
}
