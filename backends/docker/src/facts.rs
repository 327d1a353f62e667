//! What the engine and its machine are like, and what the backend cannot do.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bollard::query_parameters::ListNetworksOptions;
use bottle_backend::{BackendError, CapabilityContract, EngineFacts};
use bottle_plan::{BackendKind, Topology};

use crate::Docker;
use crate::call::{QUICK, call};

/// What a docker bottle does not have: (topology, need, reason). The needs are those of the probes' own contract
/// (`probe_spec`): few on purpose, because an attempt that cannot succeed is still worth making.
const CANNOT: &[(Topology, &str, &str)] = &[(
    Topology::Sealed,
    "ip-address",
    "a sealed guest has no network and no address that could be taken over or given again",
)];

pub(crate) fn contract() -> CapabilityContract {
    CapabilityContract {
        backend: BackendKind::Docker,
        topologies: vec![Topology::Sealed, Topology::Routed],
        cannot: CANNOT
            .iter()
            .map(|(topology, name, reason)| (*topology, (*name).to_owned(), (*reason).to_owned()))
            .collect(),
    }
}

impl Docker {
    pub(crate) async fn find_facts(&self) -> Result<EngineFacts, BackendError> {
        let (version, info, networks) = tokio::join!(
            call("version", QUICK, self.client.version()),
            call("info", QUICK, self.client.info()),
            call(
                "list networks",
                QUICK,
                self.client.list_networks(None::<ListNetworksOptions>)
            ),
        );
        let (version, info, networks) = (version?, info?, networks?);
        let mut subnets: BTreeSet<String> = networks
            .into_iter()
            .filter_map(|network| network.ipam?.config)
            .flatten()
            .filter_map(|pool| pool.subnet)
            .collect();
        let kernel = info.kernel_version.unwrap_or_default();
        let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        subnets.extend(route_subnets(&routes));
        Ok(EngineFacts {
            engine: format!("docker {}", version.version.unwrap_or_default()),
            api: version.api_version.unwrap_or_default(),
            platform: format!(
                "{}/{}",
                version.os.unwrap_or_default(),
                version.arch.unwrap_or_default()
            ),
            // The socket is a local one (no other is supported), so the same release is the same kernel. An engine in a VM
            // of its own comes with a kernel of its own.
            shares_kernel: !kernel.is_empty() && own.trim() == kernel,
            relay: None,
            kernel,
            subnets: subnets.into_iter().collect(),
            processors: info
                .ncpu
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0),
        })
    }
}

/// Destinations in `/proc/net/route` (proc(5): address and mask as 32-bit hexadecimal in the machine's byte order), without
/// the default route.
fn route_subnets(table: &str) -> Vec<String> {
    let number = |field: Option<&&str>| {
        u32::from_str_radix(field?, 16)
            .ok()
            .map(|raw| u32::from_be_bytes(raw.to_ne_bytes()))
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (base, mask) = (number(fields.get(1))?, number(fields.get(7))?);
            (mask != 0).then(|| format!("{}/{}", Ipv4Addr::from(base), mask.leading_ones()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn routes_without_the_default() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
            eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(route_subnets(table), ["10.0.2.0/24"]);
    }

    #[test]
    fn every_reason_is_said_once() {
        let names: BTreeSet<(Topology, &str)> = CANNOT.iter().map(|(topology, name, _)| (*topology, *name)).collect();
        assert_eq!(names.len(), CANNOT.len());
    }
}
