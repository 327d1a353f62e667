//! Things of the host and the engine that bear a bottle's name and not its label.
//!
//! A shipped bottle makes none of them, so that no inventory of one that is up shows whether it would be seen. They are made
//! here: under another name, to show that the inventory finds each kind, and under a known-leaky bottle's own, as the leftovers
//! of a launcher that cleans nothing up.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use bottle_backend::{Backend, ResourceKind};
use bottle_plan::{NetworkPlan, VolumePlan};
use probe_spec::InventoryKind;

use crate::lab::{Lab, Made};

/// The kinds of which one is made.
pub const KINDS: [InventoryKind; 5] = [
    InventoryKind::LoopDevices,
    InventoryKind::Sockets,
    InventoryKind::TemporaryFiles,
    InventoryKind::UnlabelledNetworks,
    InventoryKind::UnlabelledVolumes,
];

/// What was made. It stays until [`remove`](Self::remove).
pub struct Leftovers {
    files: Vec<PathBuf>,
    /// Held: a socket that is listened at is in the kernel's table too.
    _listener: Option<UnixListener>,
    loop_device: Option<String>,
    objects: Made,
    /// What could not be made, and why.
    pub problems: Vec<(InventoryKind, String)>,
}

impl Leftovers {
    /// Makes one of each kind under a bottle's name. Their labels are the run's, so that a sweep finds them when it dies.
    pub async fn make(lab: &Lab, slug: &str) -> Self {
        let name = |part: &str| format!("bottle-{slug}-{part}");
        let at = |part: &str| std::env::temp_dir().join(name(part));
        let mut made = Self {
            files: Vec::new(),
            _listener: None,
            loop_device: None,
            objects: Made::default(),
            problems: Vec::new(),
        };
        let file = at("left.tmp");
        if let Some(()) = made.keep(InventoryKind::TemporaryFiles, std::fs::write(&file, b"left\n")) {
            made.files.push(file);
        }
        let socket = at("left.sock");
        made._listener = made.keep(InventoryKind::Sockets, UnixListener::bind(&socket));
        made.files.push(socket);
        let image = at("left.img");
        made.loop_device = made.keep(InventoryKind::LoopDevices, attach(&image));
        made.files.push(image);
        // In the engine, where what bears no label is looked for.
        for (kind, outcome) in make_objects(&*lab.engine, lab, &name("left"), "left", &made.objects).await {
            let kind = match kind {
                ResourceKind::Volume => InventoryKind::UnlabelledVolumes,
                _ => InventoryKind::UnlabelledNetworks,
            };
            made.keep(kind, outcome);
        }
        made
    }

    fn keep<T, E: std::fmt::Display>(&mut self, kind: InventoryKind, made: Result<T, E>) -> Option<T> {
        made.map_err(|error| self.problems.push((kind, error.to_string()))).ok()
    }

    /// Removes all of it; what could not be removed.
    pub async fn remove(self, backend: &dyn Backend) -> Vec<String> {
        let mut left = Vec::new();
        if let Some(device) = &self.loop_device
            && let Err(error) = losetup(&["--detach", device])
        {
            left.push(format!("{device}: {error}"));
        }
        for file in &self.files {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    left.push(format!("{}: {error}", file.display()));
                }
                _ => {}
            }
        }
        left.extend(self.objects.remove(backend, false).await);
        left
    }
}

/// Makes a volume and a network of this name that no bottle uses, with the run's labels; what came of each.
pub async fn make_objects(
    backend: &dyn Backend,
    lab: &Lab,
    name: &str,
    role: &str,
    made: &Made,
) -> [(ResourceKind, Result<(), String>); 2] {
    let labels = lab.labels(role);
    let volume = VolumePlan {
        name: name.to_owned(),
        role: role.to_owned(),
        tmpfs_bytes: None,
    };
    let network = NetworkPlan {
        name: name.to_owned(),
        role: role.to_owned(),
        internal: true,
        host_absent: true,
        masquerade: false,
        subnets: Vec::new(),
        ipv6: None,
    };
    let volume = backend.create_volume(&volume, &labels).await;
    let network = backend.create_network(&network, &labels).await;
    [
        (ResourceKind::Volume, volume.map(|()| name.to_owned())),
        (ResourceKind::Network, network.map(|network| network.id)),
    ]
    .map(|(kind, outcome)| {
        let noted = outcome.map(|id| made.add(kind, name, &id));
        (kind, noted.map_err(|error| error.to_string()))
    })
}

/// Makes a file of a mebibyte and a loop device of it; the device.
fn attach(image: &Path) -> io::Result<String> {
    std::fs::File::create_new(image)?.set_len(1 << 20)?;
    let file = image.display().to_string();
    losetup(&["--find", "--show", &file])
        .map_err(|error| io::Error::other(format!("making a loop device needs root and losetup: {error}")))
}

/// What `losetup` says.
fn losetup(arguments: &[&str]) -> io::Result<String> {
    let said = Command::new("losetup").args(arguments).output()?;
    if !said.status.success() {
        let problem = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        return Err(io::Error::other(problem));
    }
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
