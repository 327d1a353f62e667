//! Known-leaky bottles: the plan of a shipped bottle with exactly one control taken away, and the ground that they stand on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use bottle_backend::Role;
use bottle_leaky::{AppliesTo, HOST_SOCKET, LeakyWorld, Removed, Side, apply, overlay, planted_files};
use bottle_plan::{BackendKind, MountSource, NetworkMode, Plan, Topology};
use probe_spec::{Leak, Nonce};

use crate::addresses::candidates;
use crate::error::SuiteError;
use crate::fixture::{self, Fixture, Kind};
use crate::lab::{Lab, NetworkKind};
use crate::outside::Outside;

/// Host number of a bundle on a private network. The engine gives the lowest that are free to whoever is a member before it.
const PRIVATE_BUNDLE: u8 = 99;
/// Host number of a routed guest that is started before its bundle.
const EARLY_GUEST: u8 = 3;
/// Last octet of the host's address on the ordinary network; `.1` is the witness's there.
const NATTED_HOST: u8 = 254;
/// The addresses of its own loopback at which a machine has the host's listeners: the last ones for those on all addresses.
const LOOPBACK4: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254"];

/// A plan with what was taken away from it, and the token that it will be given.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// What an overlay took away beyond it.
    pub removed: Removed,
    /// The sentinel that is the bottle's token.
    pub token: Nonce,
    /// Which bottle of the manifest.
    pub kind: Kind,
    /// The control that was taken away.
    pub leak: Option<Leak>,
}

/// Networks and directories that only known-leaky bottles use; made once a run, when the first needs them.
pub struct LeakyGround {
    natted: (String, IpAddr),
    gwhost: (String, IpAddr),
    shared: PathBuf,
    outside: PathBuf,
    /// The witness that is the world on the ordinary network.
    pub second: Outside,
}

impl LeakyGround {
    /// Makes them.
    pub async fn make(lab: &Lab) -> Result<Self, SuiteError> {
        let (natted, subnet) = lab
            .make_network(NetworkKind::Natted, &candidates(215, NATTED_HOST, Some(1)))
            .await?;
        let natted_host = address(&subnet, NATTED_HOST);
        let second = lab.start_witness(&natted, &subnet, "second-witness").await?.0;
        let (gwhost, subnet) = lab
            .make_network(NetworkKind::InternalWithHost, &candidates(216, 1, None))
            .await?;
        let directory = |name: &str| {
            use std::os::unix::fs::PermissionsExt;
            // Below the system's directory for temporary files, since guests must be able to enter it.
            let path = std::env::temp_dir().join(format!("bottle-conform-{}-{name}", lab.run));
            let made = std::fs::create_dir(&path)
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)));
            lab.remove_at_end(path.clone());
            made.map(|()| path.clone())
                .map_err(|source| SuiteError::Path { path, source })
        };
        Ok(Self {
            natted: (natted, natted_host),
            gwhost: (gwhost, address(&subnet, 1)),
            shared: directory("shared")?,
            outside: directory("outside")?,
            second,
        })
    }
}

fn address(subnet: &str, last: u8) -> IpAddr {
    let text = crate::addresses::in_subnet(subnet, last);
    text.and_then(|text| text.parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Whether a leak changes the neighbour's plan too.
pub fn concerns_peer(leak: Leak) -> bool {
    overlay(leak).is_some_and(|overlay| overlay.applies_to == AppliesTo::Both)
}

/// The plan of a bottle, with a control removed when a leak is named. `peer` is the neighbour that a leaky bottle under test
/// leaks to; a leaky neighbour has none.
pub async fn plan(
    lab: &Lab,
    kind: Kind,
    topology: Topology,
    leak: Option<Leak>,
    peer: Option<&Fixture>,
) -> Result<Planned, SuiteError> {
    let mut plan = fixture::plan(lab, kind, topology).await?;
    let token = lab.redaction.sentinel();
    let mut removed = Removed::default();
    if let Some(leak) = leak {
        let world = world(lab, leak, &plan, peer, &token).await?;
        let side = if kind == Kind::Peer { Side::Peer } else { Side::Own };
        removed = apply(leak, side, &mut plan, &world);
        if leak == Leak::Early && plan.backend == BackendKind::Docker {
            step_aside(&mut plan);
        }
        if removed.needs_leaky_bundle() {
            plan.bundle.image = lab.images.leaky_bundle.reference.clone();
        }
    }
    Ok(Planned {
        plan,
        removed,
        token,
        kind,
        leak,
    })
}

/// Takes a control away from a plan of a bottle of its own kind, with no neighbour.
#[cfg(test)]
pub async fn take_away(lab: &Lab, leak: Leak, plan: &mut Plan) -> Result<Removed, SuiteError> {
    let world = world(lab, leak, plan, None, &lab.redaction.sentinel()).await?;
    Ok(apply(leak, Side::Own, plan, &world))
}

/// A guest that is started first would be given the address that the bundle's own is planned to be.
fn step_aside(plan: &mut Plan) {
    if let (Topology::Routed, NetworkMode::Networks(networks)) = (plan.topology, &mut plan.guest.network)
        && let Some(inner) = networks.first_mut()
    {
        inner.host_number = Some(EARLY_GUEST);
    }
}

async fn world(
    lab: &Lab,
    leak: Leak,
    plan: &Plan,
    peer: Option<&Fixture>,
    token: &Nonce,
) -> Result<LeakyWorld, SuiteError> {
    let ground = lab.leaky().await?;
    let needs_private = match leak {
        Leak::DnsFwd | Leak::SideAdm => true,
        Leak::Relay => plan.backend == BackendKind::Smolmachines,
        _ => false,
    };
    let private = if needs_private {
        Some(
            lab.make_network(NetworkKind::Private, &candidates(217, 1, None))
                .await?,
        )
    } else {
        None
    };
    let (private_network, private_subnet) = private.unwrap_or_default();
    let peer_network = peer.and_then(|peer| peer.inner()).map(|(name, _)| name.clone());
    let peer_bundle = peer.and_then(|peer| peer.inner_address(Role::Bundle));
    let peer_volume = peer.and_then(|peer| {
        peer.bottle
            .plan()
            .bundle
            .mounts
            .iter()
            .find_map(|mount| match &mount.source {
                MountSource::Volume(name) => Some(name.clone()),
                MountSource::Bind(_) => None,
            })
    });
    let (host_sockets, later_port) = if leak == Leak::HostSock {
        let later = free_port()?;
        (host_sockets(lab, &plan.slug, &ground.shared, later)?, Some(later))
    } else {
        (Vec::new(), None)
    };
    let text = |path: &PathBuf| path.display().to_string();
    Ok(LeakyWorld {
        natted_network: ground.natted.0.clone(),
        natted_host: ground.natted.1,
        sinkhole_network: lab.network.clone(),
        v6_network: lab.network.clone(),
        gwhost_network: ground.gwhost.0.clone(),
        gwhost_gateway: ground.gwhost.1,
        private_bundle: address(&private_subnet, PRIVATE_BUNDLE),
        private_network,
        private_bundle_number: PRIVATE_BUNDLE,
        peer_network: peer_network.unwrap_or_default(),
        peer_bundle: peer_bundle
            .and_then(|text| text.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        peer_volume: peer_volume.unwrap_or_default(),
        shared_dir: text(&ground.shared),
        planted_dir: if leak == Leak::File {
            planted(lab, plan, token)?
        } else {
            text(&ground.outside)
        },
        outside_dir: text(&ground.outside),
        host_sockets,
        later_port,
        engine_sockets: vec!["/var/run/docker.sock".to_owned()],
        capabilities: capabilities(),
        token: token.to_string(),
    })
}

/// A port of the loopback at which nobody listens.
fn free_port() -> Result<u16, SuiteError> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(bound.map_err(SuiteError::Host)?.port())
}

/// Hands over the listeners of the host's loopback that LB-01 to LB-03 attack, one socket an address at which they attack it.
fn host_sockets(lab: &Lab, slug: &str, directory: &Path, later: u16) -> Result<Vec<(SocketAddr, String)>, SuiteError> {
    let port = |key: &str| lab.keys.get(key).and_then(|port| port.parse::<u16>().ok());
    let lo4 = ["host.lo4.tcp", "host.lo4.low", "host.any.tcp", "host.published.tcp"].map(|key| (LOOPBACK4[0], key));
    let other = LOOPBACK4[1..].iter().map(|address| (*address, "host.any.tcp"));
    let lo6 = ["host.lo6.tcp", "host.any.tcp"].map(|key| ("::1", key));
    let mut places: Vec<SocketAddr> = lo4
        .into_iter()
        .chain(other)
        .chain(lo6)
        .filter_map(|(address, key)| Some(SocketAddr::new(address.parse().ok()?, port(key)?)))
        .chain([SocketAddr::from((Ipv4Addr::LOCALHOST, later))])
        .collect();
    places.sort_unstable();
    places.dedup();
    let hand_over = |(number, listen): (usize, SocketAddr)| {
        let name = format!("{HOST_SOCKET}{slug}-{number}.sock");
        let path = directory.join(&name);
        let to = if listen.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            listen.ip()
        };
        lab.host
            .hand_over(&path, SocketAddr::new(to, listen.port()))
            .map_err(|source| SuiteError::Path { path, source })?;
        Ok((listen, name))
    };
    places.into_iter().enumerate().map(hand_over).collect()
}

/// Writes the files of K-FILE for one bottle; their directory.
fn planted(lab: &Lab, plan: &Plan, token: &Nonce) -> Result<String, SuiteError> {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("bottle-conform-{}-{}", lab.run, plan.slug));
    lab.remove_at_end(directory.clone());
    let failed = |path: &PathBuf, source| SuiteError::Path {
        path: path.clone(),
        source,
    };
    for file in planted_files(token.as_str()) {
        let path = directory.join(file.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|source| failed(&path, source))?;
        }
        std::fs::write(&path, &file.content)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)))
            .map_err(|source| failed(&path, source))?;
    }
    Ok(directory.display().to_string())
}

/// The capabilities that the engine can give: `ALL`, or those of this host's own bounding set when that is smaller.
fn capabilities() -> Vec<String> {
    let facts = crate::facts::of_process(1);
    let set = facts
        .iter()
        .find(|(name, _)| name == "CapBnd")
        .and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok());
    let all = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    match (set, all) {
        (Some(set), Some(last)) if set != (1u64 << (last + 1)) - 1 => {
            let names = CAPABILITIES.iter().enumerate().filter(|(bit, _)| set & (1 << bit) != 0);
            names.map(|(_, name)| (*name).to_owned()).collect()
        }
        _ => vec!["ALL".to_owned()],
    }
}

/// Names by number (linux/capability.h), as far as engine 20.10 knows them.
const CAPABILITIES: [&str; 38] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
];
