//! The host's own addresses, and arithmetic on a bottle's subnet.

use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        assert_eq!(in_subnet("10.213.4.0/24", 254).as_deref(), Some("10.213.4.254"));
        assert_eq!(in_subnet("nonsense", 1), None);
    }
}
