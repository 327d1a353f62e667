//! The network that a routed guest shares with its bundle.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bottle_policy::{Listen, PROXY_PORT};
use sha2::{Digest, Sha256};

use crate::plan::{BackendKind, NetworkPlan, Plan, Subnet, Topology};
use crate::prepare::{PlanError, guest, state_file, trust};

/// Host number of the bundle on the inner network.
pub(super) const BUNDLE_HOST: u8 = 2;

/// How many subnets are offered to the engine: the facts may be old by the time of the launch.
const CANDIDATES: usize = 16;

/// Second octets of the subnets that are taken from: 10.213.0.0/16 to 10.222.0.0/16.
const SECOND: std::ops::RangeInclusive<u8> = 213..=222;

/// Subnets to try in order: different bottles begin at different places, so that they seldom meet.
pub(super) fn candidates(slug: &str, in_use: &[String]) -> Result<Vec<Subnet>, PlanError> {
    let mut taken = Vec::new();
    for text in in_use {
        taken.extend(ipv4_range(text)?);
    }
    let start = Sha256::digest(slug)[0];
    let free = SECOND
        .flat_map(|second| (0..=255u8).map(move |step| [10, second, start.wrapping_add(step), 0]))
        .filter(|octets| {
            let first = u32::from_be_bytes(*octets);
            taken.iter().all(|(low, high)| first + 255 < *low || *high < first)
        })
        .take(CANDIDATES)
        .map(|[a, b, c, _]| Subnet {
            cidr: format!("{a}.{b}.{c}.0/24"),
            gateway: Some(IpAddr::V4(Ipv4Addr::new(a, b, c, 1))),
            members_gateway: None,
        });
    let free: Vec<Subnet> = free.collect();
    if free.is_empty() {
        Err(PlanError::NoSubnet)
    } else {
        Ok(free)
    }
}

/// First and last address of an IPv4 subnet; nothing for an IPv6 one.
fn ipv4_range(text: &str) -> Result<Option<(u32, u32)>, PlanError> {
    let wrong = || PlanError::Fact {
        fact: "subnets",
        expected: "a subnet such as `10.1.0.0/16`".to_owned(),
        found: format!("`{text}`"),
    };
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let bits: u32 = bits.parse().map_err(|_| wrong())?;
    if address.parse::<Ipv6Addr>().is_ok() && bits <= 128 {
        return Ok(None);
    }
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    if bits > 32 {
        return Err(wrong());
    }
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let low = u32::from(address) & mask;
    // A default route or the like is no network in use.
    Ok((bits > 0).then_some((low, low | !mask)))
}

/// The inner network: nothing is forwarded out of it. The host has no address on it, unless the guest is a machine whose
/// connections the host makes.
pub(super) fn network(name: String, subnets: &[Subnet], backend: BackendKind) -> NetworkPlan {
    NetworkPlan {
        name,
        role: "inner-network".to_owned(),
        internal: true,
        host_absent: backend == BackendKind::Docker,
        masquerade: false,
        subnets: subnets.to_vec(),
        ipv6: None,
    }
}

/// Where pipelock listens in a subnet: at the bundle's own address on it, so that its outer leg offers nothing.
pub(super) fn listen(cidr: &str) -> Option<Listen> {
    let (address, bits) = cidr.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    if !(8..=29).contains(&bits) {
        return None;
    }
    let network = u32::from(address) & (u32::MAX << (32 - bits));
    let own = Ipv4Addr::from(network + u32::from(BUNDLE_HOST));
    Some(Listen::Tcp(SocketAddr::new(IpAddr::V4(own), PROXY_PORT)))
}

impl Plan {
    /// The same plan on another inner subnet.
    ///
    /// A plan of a routed bottle names the first of its candidates wherever an address is needed (where pipelock listens,
    /// the guest's proxy variables, the state file). Only the engine knows which candidate it takes, so the launcher calls
    /// this with the subnet that it was given, before it makes a container. A sealed plan comes back unchanged.
    ///
    /// `None` when `cidr` is not an IPv4 subnet with room for the bundle (a prefix of 8 to 29 bits).
    pub fn with_inner_subnet(&self, cidr: &str) -> Option<Plan> {
        let mut plan = self.clone();
        if self.topology == Topology::Sealed {
            return Some(plan);
        }
        let new = listen(cidr)?;
        let (Some(Listen::Tcp(old)), Listen::Tcp(address)) = (self.config.listen.first(), &new) else {
            return None;
        };
        let java = |address: &std::net::SocketAddr| trust::java_options(&address.to_string());
        let (old_java, new_java) = (java(old), java(address));
        if let Some(value) = plan
            .guest
            .env
            .get_mut(trust::JAVA_VARIABLE)
            .filter(|value| **value == old_java)
        {
            *value = new_java;
        }
        // Only values that this crate put there are rewritten; a variable of the user's that looks alike is theirs.
        let (old, address) = (
            guest::proxy_url(&old.to_string()),
            guest::proxy_url(&address.to_string()),
        );
        for name in guest::PROXY_VARIABLES {
            if let Some(value) = plan.guest.env.get_mut(name).filter(|value| **value == old) {
                *value = address.clone();
            }
        }
        let before = state_file(&plan.config);
        plan.config.listen[0] = new;
        for file in plan.state.iter_mut().filter(|file| **file == before) {
            *file = state_file(&plan.config);
        }
        Some(plan)
    }
}
