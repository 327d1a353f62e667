//! From the plan's shapes to the engine's.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Ipam, IpamConfig,
    Mount, MountType, MountVolumeOptions, NetworkCreateRequest, NetworkingConfig, PortBinding, PortMap,
    ResourcesUlimits, VolumeCreateRequest,
};
use bottle_backend::{BackendError, BackendErrorKind, Labels};
use bottle_plan::{Attachment, ContainerPlan, Hardening, MountSource, NetworkMode, NetworkPlan, Subnet, VolumePlan};

use crate::call::failed;
use crate::subnet::Cidr;

/// Bridge driver option: the host gets no IPv4 address on the bridge.
pub(crate) const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
/// Bridge driver option: source addresses of what leaves are translated.
pub(crate) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// Auxiliary addresses by which the bridge driver gives members another default gateway.
pub(crate) const MEMBERS_GATEWAY: [&str; 2] = ["DefaultGatewayIPv4", "DefaultGatewayIPv6"];

fn hash(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn whole<T: TryInto<i64>>(number: T) -> i64 {
    // A limit beyond the engine's number range is as good as its largest.
    number.try_into().unwrap_or(i64::MAX)
}

/// The request for a network with one of its candidate subnets (`None`: the engine chooses).
pub(crate) fn network(plan: &NetworkPlan, subnet: Option<&Subnet>, labels: &Labels) -> NetworkCreateRequest {
    let pools: Vec<IpamConfig> = subnet
        .map(|subnet| pool(subnet, MEMBERS_GATEWAY[0]))
        .into_iter()
        .chain(plan.ipv6.as_ref().map(|subnet| pool(subnet, MEMBERS_GATEWAY[1])))
        .collect();
    NetworkCreateRequest {
        name: plan.name.clone(),
        driver: Some("bridge".to_owned()),
        internal: Some(plan.internal),
        enable_ipv6: Some(plan.ipv6.is_some()),
        ipam: (!pools.is_empty()).then(|| Ipam {
            config: Some(pools),
            ..Default::default()
        }),
        options: Some(HashMap::from([
            (INHIBIT_IPV4.to_owned(), plan.host_absent.to_string()),
            (MASQUERADE.to_owned(), plan.masquerade.to_string()),
        ])),
        labels: Some(hash(labels)),
        ..Default::default()
    }
}

fn pool(subnet: &Subnet, members_gateway: &str) -> IpamConfig {
    IpamConfig {
        subnet: Some(subnet.cidr.clone()),
        gateway: subnet.gateway.map(|gateway| gateway.to_string()),
        auxiliary_addresses: subnet
            .members_gateway
            .map(|gateway| HashMap::from([(members_gateway.to_owned(), gateway.to_string())])),
        ..Default::default()
    }
}

/// The request for a volume. The `local` driver mounts a tmpfs when the first container uses it.
pub(crate) fn volume(plan: &VolumePlan, labels: &Labels) -> VolumeCreateRequest {
    let options = plan.tmpfs_bytes.map(|bytes| {
        HashMap::from([
            ("type".to_owned(), "tmpfs".to_owned()),
            ("device".to_owned(), "tmpfs".to_owned()),
            ("o".to_owned(), format!("size={bytes},mode=0755")),
        ])
    });
    VolumeCreateRequest {
        name: Some(plan.name.clone()),
        driver: Some("local".to_owned()),
        driver_opts: options,
        labels: Some(hash(labels)),
        ..Default::default()
    }
}

/// The request for a container, with its first network; the others are connected after it (API before 1.44 takes one).
pub(crate) fn container(
    call: &str,
    plan: &ContainerPlan,
    labels: &Labels,
    subnets: &BTreeMap<String, String>,
) -> Result<ContainerCreateBody, BackendError> {
    let words = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let networking = match &plan.network {
        NetworkMode::Networks(attachments) => match attachments.first() {
            Some(first) => Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(
                    first.network.clone(),
                    endpoint(call, first, subnets)?,
                )])),
            }),
            None => {
                return Err(failed(
                    call,
                    BackendErrorKind::Refused,
                    "the plan attaches it to an empty list of networks",
                ));
            }
        },
        NetworkMode::None | NetworkMode::Host => None,
    };
    Ok(ContainerCreateBody {
        hostname: plan.hostname.clone(),
        user: plan.user.clone(),
        attach_stdin: Some(plan.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(plan.tty),
        open_stdin: Some(plan.stdin),
        // The end of the attached client's stream is the end of standard input: that is the bundle's lease.
        stdin_once: Some(plan.stdin),
        env: Some(plan.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        entrypoint: words(&plan.entrypoint),
        cmd: words(&plan.command),
        image: Some(plan.image.clone()),
        working_dir: plan.workdir.clone(),
        labels: Some(hash(labels)),
        exposed_ports: Some(plan.publish.iter().map(|(port, _, _)| port.clone()).collect()),
        host_config: Some(host_config(plan, labels)),
        networking_config: networking,
        ..Default::default()
    })
}

/// Membership settings of one network.
pub(crate) fn endpoint(
    call: &str,
    attachment: &Attachment,
    subnets: &BTreeMap<String, String>,
) -> Result<EndpointSettings, BackendError> {
    let address = match attachment.host_number {
        None => None,
        Some(number) => {
            let subnet = subnets.get(&attachment.network);
            let address = subnet
                .and_then(|subnet| Cidr::parse(subnet))
                .and_then(|cidr| cidr.host(number));
            Some(address.ok_or_else(|| {
                let problem = format!(
                    "network {} (subnet {subnet:?}) has no host number {number}",
                    attachment.network
                );
                failed(call, BackendErrorKind::Refused, problem)
            })?)
        }
    };
    Ok(EndpointSettings {
        ipam_config: address.map(|address| EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..Default::default()
        }),
        aliases: (!attachment.aliases.is_empty()).then(|| attachment.aliases.clone()),
        ..Default::default()
    })
}

fn host_config(plan: &ContainerPlan, labels: &Labels) -> HostConfig {
    let hardening = &plan.hardening;
    let limits = &plan.limits;
    let (cap_add, cap_drop) = capabilities(hardening);
    let memory = limits.memory.map(whole);
    HostConfig {
        cap_add,
        cap_drop,
        security_opt: Some(security_options(hardening)),
        privileged: Some(hardening.privileged),
        readonly_rootfs: Some(hardening.read_only_root),
        pid_mode: hardening.host_pid.then(|| "host".to_owned()),
        ipc_mode: hardening.host_ipc.then(|| "host".to_owned()),
        memory,
        // The sum of memory and swap: equal means no swap.
        memory_swap: memory,
        nano_cpus: limits.milli_cpus.map(|milli| whole(milli.saturating_mul(1_000_000))),
        pids_limit: limits.pids.map(i64::from),
        ulimits: limits.open_files.map(|files| {
            let files = Some(i64::from(files));
            vec![ResourcesUlimits {
                name: Some("nofile".to_owned()),
                soft: files,
                hard: files,
            }]
        }),
        init: Some(false),
        auto_remove: Some(plan.auto_remove),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "2".to_owned()),
            ])),
        }),
        network_mode: Some(match &plan.network {
            NetworkMode::None => "none".to_owned(),
            NetworkMode::Host => "host".to_owned(),
            NetworkMode::Networks(attachments) => attachments
                .first()
                .map_or_else(|| "none".to_owned(), |first| first.network.clone()),
        }),
        dns: (!plan.dns.is_empty()).then(|| plan.dns.iter().map(ToString::to_string).collect()),
        extra_hosts: (!plan.extra_hosts.is_empty()).then(|| {
            plan.extra_hosts
                .iter()
                .map(|(name, address)| format!("{name}:{address}"))
                .collect()
        }),
        port_bindings: Some(ports(plan)),
        mounts: Some(plan.mounts.iter().map(|one| mount(one, labels)).collect()),
        tmpfs: Some(
            plan.tmpfs
                .iter()
                .map(|(path, size, options)| (path.clone(), tmpfs_options(*size, options)))
                .collect(),
        ),
        ..Default::default()
    }
}

/// What is added and what is dropped. The engine takes "drop ALL" before "add ALL", so keeping all means dropping none.
fn capabilities(hardening: &Hardening) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let kept = hardening.capabilities.clone();
    if kept.iter().any(|kept| kept == "ALL") {
        return (Some(vec!["ALL".to_owned()]), None);
    }
    ((!kept.is_empty()).then_some(kept), Some(vec!["ALL".to_owned()]))
}

fn security_options(hardening: &Hardening) -> Vec<String> {
    let mut options = Vec::new();
    if hardening.no_new_privileges {
        options.push("no-new-privileges:true".to_owned());
    }
    if !hardening.seccomp {
        options.push("seccomp=unconfined".to_owned());
    }
    options
}

fn tmpfs_options(size: u64, options: &str) -> String {
    if options.is_empty() {
        format!("size={size}")
    } else {
        format!("size={size},{options}")
    }
}

fn ports(plan: &ContainerPlan) -> PortMap {
    let mut ports = PortMap::new();
    for (port, address, host_port) in &plan.publish {
        let binding = PortBinding {
            host_ip: Some(address.to_string()),
            host_port: Some(if *host_port == 0 {
                String::new()
            } else {
                host_port.to_string()
            }),
        };
        ports
            .entry(port.clone())
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    ports
}

fn mount(mount: &bottle_plan::Mount, labels: &Labels) -> Mount {
    let (source, kind, volume) = match &mount.source {
        // Without `no_copy` the engine would first copy what the image has at that path into the volume. The labels are for
        // a volume that is removed (by the sweep after a killed launcher) while the engine still works on a request that
        // uses it: the engine makes it again by its name, and no sweep would know it for ours.
        MountSource::Volume(name) => (
            name,
            MountType::VOLUME,
            Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(hash(labels)),
                ..Default::default()
            }),
        ),
        MountSource::Bind(path) => (path, MountType::BIND, None),
    };
    Mount {
        target: Some(mount.target.clone()),
        source: Some(source.clone()),
        typ: Some(kind),
        read_only: Some(mount.read_only),
        volume_options: volume,
        ..Default::default()
    }
}
