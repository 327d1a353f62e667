//! The host's own addresses, subnets of networks to be made, and arithmetic on a bottle's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bottle_plan::Subnet;
use nix::ifaddrs::getifaddrs;

use crate::sightings::random;

/// Addresses of the host that are not loopback.
#[derive(Debug, Default)]
pub struct HostAddresses {
    /// IPv4, in the order of the interfaces.
    pub v4: Vec<String>,
    /// IPv6, without link-local ones (they need a zone).
    pub v6: Vec<String>,
    /// IPv4 of the engine's default bridge.
    pub docker0: Option<String>,
}

/// Reads them from the kernel.
pub fn of_host() -> HostAddresses {
    let mut found = HostAddresses::default();
    for interface in getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address
            .as_sockaddr_in()
            .map(|v4| v4.ip())
            .filter(|ip| !ip.is_loopback())
        {
            if interface.interface_name == "docker0" {
                found.docker0 = Some(v4.to_string());
            }
            found.v4.push(v4.to_string());
        }
        if let Some(v6) = address.as_sockaddr_in6().map(|v6| v6.ip())
            && !v6.is_loopback()
            && !v6.is_unicast_link_local()
        {
            found.v6.push(v6.to_string());
        }
    }
    found
}

/// The address with this last octet in a /24.
pub fn in_subnet(cidr: &str, last: u8) -> Option<String> {
    let address: Ipv4Addr = cidr.split('/').next()?.parse().ok()?;
    let [a, b, c, _] = address.octets();
    Some(Ipv4Addr::new(a, b, c, last).to_string())
}

/// What a network of `10.SECOND.0.0/16` may have, tried in this order: every eighth /24, from a random one on, so that runs beside
/// each other seldom try the same. The last octets are the host's, and that of the members' gateway where it is another's.
pub fn candidates(second: u8, host: u8, members: Option<u8>) -> Vec<Subnet> {
    let [start] = random();
    (0..32u8)
        .map(|step| start.wrapping_add(step.wrapping_mul(8)))
        .map(|third| {
            let at = |last| IpAddr::V4(Ipv4Addr::new(10, second, third, last));
            Subnet {
                cidr: format!("10.{second}.{third}.0/24"),
                gateway: Some(at(host)),
                members_gateway: members.map(at),
            }
        })
        .collect()
}

/// A /64 in `2001:db8:b000::/36` of the documentation range (RFC 3849); its address with this last group. One of 2^28: a network has
/// one IPv6 subnet and no second choice, and the engine refuses the network when another has it.
pub fn random_network6() -> impl Fn(u16) -> IpAddr {
    let [high, low, third, fourth] = random();
    let site = 0xb000 | (u16::from_be_bytes([high, low]) & 0x0fff);
    let subnet = u16::from_be_bytes([third, fourth]);
    move |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, subnet, 0, 0, 0, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        assert_eq!(in_subnet("10.213.4.0/24", 254).as_deref(), Some("10.213.4.254"));
        assert_eq!(in_subnet("nonsense", 1), None);
    }

    #[test]
    fn candidates_differ_and_have_their_gateways() {
        let all = candidates(215, 254, Some(1));
        let distinct: std::collections::BTreeSet<_> = all.iter().map(|subnet| &subnet.cidr).collect();
        assert_eq!(distinct.len(), 32);
        for subnet in &all {
            let at = |last| in_subnet(&subnet.cidr, last).unwrap().parse::<IpAddr>().ok();
            assert!(
                subnet.cidr.starts_with("10.215.") && subnet.cidr.ends_with(".0/24"),
                "{subnet:?}"
            );
            assert_eq!((subnet.gateway, subnet.members_gateway), (at(254), at(1)));
        }
    }

    #[test]
    fn networks_of_runs_beside_each_other_do_not_meet() {
        // Of 256 prefixes 64 runs would share some, all but surely.
        let prefixes: std::collections::BTreeSet<_> = (0..64).map(|_| random_network6()(0)).collect();
        assert_eq!(prefixes.len(), 64);
        for prefix in prefixes {
            let IpAddr::V6(prefix) = prefix else { panic!("{prefix}") };
            let [a, b, c, _, rest @ ..] = prefix.segments();
            assert_eq!((a, b, c & 0xf000, rest), (0x2001, 0xdb8, 0xb000, [0; 4]));
        }
    }
}
