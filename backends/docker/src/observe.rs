//! From the engine's shapes back to the plan's, so that drift is a comparison.
//!
//! Only what the engine says about the container as it is made is used; what it does not report (`no_copy` of a mount) is
//! not part of the plan's shape either.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, EndpointSettings, HostConfig, IpamConfig, MountPoint, NetworkInspect,
    PortMap,
};
use bottle_backend::{BackendError, Observed};
use bottle_plan::{
    Attachment, ContainerPlan, Hardening, LABEL_ROLE, Limits, Mount, MountSource, NetworkMode, NetworkPlan, Subnet,
};

use crate::call::lacking;
use crate::request::{INHIBIT_IPV4, MASQUERADE, MEMBERS_GATEWAY};
use crate::subnet::Cidr;

/// What a container was given. `subnets` has the subnets of its networks, `seccomp` says whether the engine confines by
/// default at all.
pub(crate) fn container(
    call: &str,
    found: ContainerInspectResponse,
    subnets: &BTreeMap<String, String>,
    seccomp: bool,
) -> Result<Observed, BackendError> {
    let id = found.id.ok_or_else(|| lacking(call, "Id"))?;
    let config = found.config.ok_or_else(|| lacking(call, "Config"))?;
    let host = found.host_config.ok_or_else(|| lacking(call, "HostConfig"))?;
    let name = found.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let settings = found.network_settings.unwrap_or_default();
    let networks = settings.networks.unwrap_or_default();
    let applied = plan(
        &id,
        name,
        &config,
        &host,
        &networks,
        found.mounts.unwrap_or_default(),
        subnets,
        seccomp,
    );
    let state = found.state.unwrap_or_default();
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    Ok(Observed {
        applied,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        addresses: networks
            .iter()
            .map(|(name, endpoint)| (name.clone(), addresses(endpoint)))
            .collect(),
        published: published(&settings.ports.unwrap_or_default()),
        pid,
        running: state.running.unwrap_or(false),
        id,
    })
}

#[expect(clippy::too_many_arguments, reason = "the parts of one answer, each used once")]
fn plan(
    id: &str,
    name: String,
    config: &ContainerConfig,
    host: &HostConfig,
    networks: &HashMap<String, EndpointSettings>,
    mounts: Vec<MountPoint>,
    subnets: &BTreeMap<String, String>,
    seccomp: bool,
) -> ContainerPlan {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    ContainerPlan {
        name,
        image: config.image.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        command: config.cmd.clone().unwrap_or_default(),
        env: environment(config.env.as_deref().unwrap_or_default()),
        user: filled(&config.user),
        workdir: filled(&config.working_dir),
        hostname: filled(&config.hostname),
        tty: config.tty.unwrap_or(false),
        stdin: config.open_stdin.unwrap_or(false),
        network: network_mode(id, host, networks, subnets),
        dns: host
            .dns
            .iter()
            .flatten()
            .filter_map(|server| server.parse().ok())
            .collect(),
        extra_hosts: host
            .extra_hosts
            .iter()
            .flatten()
            .filter_map(|line| {
                line.split_once(':')
                    .map(|(name, address)| (name.to_owned(), address.to_owned()))
            })
            .collect(),
        publish: publish(host.port_bindings.as_ref()),
        mounts: mounts.into_iter().filter_map(mount).collect(),
        tmpfs: host
            .tmpfs
            .iter()
            .flatten()
            .map(|(path, options)| tmpfs(path, options))
            .collect(),
        hardening: hardening(host, seccomp),
        limits: limits(host),
        auto_remove: host.auto_remove.unwrap_or(false),
    }
}

fn environment(lines: &[String]) -> BTreeMap<String, String> {
    lines
        .iter()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn network_mode(
    id: &str,
    host: &HostConfig,
    networks: &HashMap<String, EndpointSettings>,
    subnets: &BTreeMap<String, String>,
) -> NetworkMode {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    match mode {
        "none" => return NetworkMode::None,
        "host" => return NetworkMode::Host,
        _ => {}
    }
    let mut attachments: Vec<Attachment> = networks
        .iter()
        .map(|(name, endpoint)| attachment(id, name, endpoint, subnets.get(name).map(String::as_str)))
        .collect();
    attachments.sort_by_key(|attachment| (attachment.network != mode, attachment.network.clone()));
    NetworkMode::Networks(attachments)
}

fn attachment(id: &str, name: &str, endpoint: &EndpointSettings, subnet: Option<&str>) -> Attachment {
    let fixed = endpoint
        .ipam_config
        .as_ref()
        .and_then(|config| config.ipv4_address.as_deref());
    let fixed: Option<Ipv4Addr> = fixed.and_then(|address| address.parse().ok());
    Attachment {
        network: name.to_owned(),
        host_number: fixed
            .zip(subnet.and_then(Cidr::parse))
            .and_then(|(address, cidr)| cidr.number(address)),
        // Engines before 25 add the short id.
        aliases: endpoint
            .aliases
            .iter()
            .flatten()
            .filter(|alias| !id.starts_with(alias.as_str()))
            .cloned()
            .collect(),
    }
}

fn addresses(endpoint: &EndpointSettings) -> Vec<IpAddr> {
    let v4 = endpoint
        .ip_address
        .as_deref()
        .and_then(|address| address.parse::<Ipv4Addr>().ok())
        .map(IpAddr::V4);
    let v6 = endpoint
        .global_ipv6_address
        .as_deref()
        .and_then(|address| address.parse::<Ipv6Addr>().ok())
        .map(IpAddr::V6);
    v4.into_iter().chain(v6).collect()
}

/// Each binding as (container port, host address, host port); no address is every address, no port is 0.
fn bindings(ports: &PortMap) -> impl Iterator<Item = (&String, IpAddr, u16)> {
    ports.iter().flat_map(|(port, bindings)| {
        bindings.iter().flatten().map(move |binding| {
            let address = binding.host_ip.as_deref().and_then(|address| address.parse().ok());
            let host_port = binding.host_port.as_deref().and_then(|port| port.parse().ok());
            (
                port,
                address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                host_port.unwrap_or(0),
            )
        })
    })
}

fn publish(ports: Option<&PortMap>) -> Vec<(String, IpAddr, u16)> {
    let mut list: Vec<_> = ports
        .into_iter()
        .flat_map(bindings)
        .map(|(port, address, host)| (port.clone(), address, host))
        .collect();
    list.sort();
    list
}

fn published(ports: &PortMap) -> BTreeMap<String, Vec<(IpAddr, u16)>> {
    let mut published: BTreeMap<String, Vec<(IpAddr, u16)>> = BTreeMap::new();
    for (port, address, host_port) in bindings(ports) {
        published.entry(port.clone()).or_default().push((address, host_port));
    }
    published
}

/// A mount that the plan can have. Anonymous volumes, which an image's own `VOLUME` lines make, are left out: they are
/// fresh, the container's own, and removed with it.
fn mount(point: MountPoint) -> Option<Mount> {
    let target = point.destination?;
    let read_only = !point.rw.unwrap_or(true);
    let source = match point.typ?.as_str() {
        "volume" => MountSource::Volume(point.name.filter(|name| !is_anonymous(name))?),
        "tmpfs" => return None,
        // Bind mounts, and whatever else an engine may report: never planned, so it shows as a difference.
        _ => MountSource::Bind(point.source.unwrap_or_default()),
    };
    Some(Mount {
        source,
        target,
        read_only,
    })
}

fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn tmpfs(path: &str, options: &str) -> (String, u64, String) {
    let (size, rest): (Vec<&str>, Vec<&str>) = options.split(',').partition(|option| option.starts_with("size="));
    let size = size.first().and_then(|size| size["size=".len()..].parse().ok());
    (path.to_owned(), size.unwrap_or(0), rest.join(","))
}

fn hardening(host: &HostConfig, seccomp: bool) -> Hardening {
    let options = host.security_opt.as_deref().unwrap_or_default();
    let has = |wanted: &[&str]| options.iter().any(|option| wanted.contains(&option.as_str()));
    let bare = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).to_owned();
    let mut capabilities: Vec<String> = host.cap_add.iter().flatten().map(bare).collect();
    let drops_all = host.cap_drop.iter().flatten().any(|name| name == "ALL");
    if !drops_all && !capabilities.iter().any(|name| name == "ALL") {
        // The engine's own set is kept, which no plan means.
        capabilities.push("engine-default".to_owned());
    }
    capabilities.sort();
    Hardening {
        capabilities,
        no_new_privileges: has(&["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"]),
        seccomp: seccomp && !has(&["seccomp=unconfined", "seccomp:unconfined"]),
        read_only_root: host.readonly_rootfs.unwrap_or(false),
        privileged: host.privileged.unwrap_or(false),
        host_pid: host.pid_mode.as_deref() == Some("host"),
        host_ipc: host.ipc_mode.as_deref() == Some("host"),
    }
}

fn limits(host: &HostConfig) -> Limits {
    let positive = |number: Option<i64>| {
        number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    let files = host
        .ulimits
        .iter()
        .flatten()
        .find(|limit| limit.name.as_deref() == Some("nofile"));
    Limits {
        memory: positive(host.memory),
        milli_cpus: positive(host.nano_cpus).map(|nano| nano / 1_000_000),
        pids: positive(host.pids_limit).and_then(|pids| u32::try_from(pids).ok()),
        open_files: positive(files.and_then(|limit| limit.hard)).and_then(|files| u32::try_from(files).ok()),
    }
}

/// What a network was given.
pub(crate) fn network(call: &str, found: NetworkInspect) -> Result<NetworkPlan, BackendError> {
    let name = found.name.ok_or_else(|| lacking(call, "Name"))?;
    let options = found.options.unwrap_or_default();
    let is = |key: &str, default: bool| options.get(key).map_or(default, |value| value == "true");
    let pools = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let (v6, v4): (Vec<Subnet>, Vec<Subnet>) = pools
        .iter()
        .filter_map(subnet)
        .partition(|subnet| subnet.cidr.contains(':'));
    Ok(NetworkPlan {
        name,
        role: found.labels.unwrap_or_default().remove(LABEL_ROLE).unwrap_or_default(),
        internal: found.internal.unwrap_or(false),
        host_absent: is(INHIBIT_IPV4, false),
        masquerade: is(MASQUERADE, true),
        subnets: v4,
        ipv6: v6.into_iter().next(),
    })
}

fn subnet(pool: &IpamConfig) -> Option<Subnet> {
    // Some engines write the gateway with the prefix.
    let address = |text: &String| text.split('/').next().and_then(|text| text.parse().ok());
    let auxiliary = pool.auxiliary_addresses.as_ref();
    Some(Subnet {
        cidr: pool.subnet.clone()?,
        gateway: pool.gateway.as_ref().and_then(address),
        members_gateway: MEMBERS_GATEWAY
            .iter()
            .find_map(|key| auxiliary?.get(*key))
            .and_then(address),
    })
}
