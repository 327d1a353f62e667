//! Addresses in a subnet.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 subnet in CIDR form, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// `None` when it is not IPv4 in CIDR form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some(Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        })
    }

    /// The address with this host number, when the subnet has it (network and broadcast addresses are none).
    pub(crate) fn host(self, number: u8) -> Option<IpAddr> {
        let last = !mask(self.prefix);
        let number = u32::from(number);
        (number > 0 && number < last).then(|| IpAddr::V4(Ipv4Addr::from(self.base + number)))
    }

    /// The host number of an address.
    pub(crate) fn number(self, address: Ipv4Addr) -> Option<u8> {
        let address = u32::from(address);
        if address & mask(self.prefix) != self.base {
            return None;
        }
        u8::try_from(address - self.base).ok()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("10.1.2.0/24", 2, Some("10.1.2.2"))]
    #[case("10.1.2.128/25", 2, Some("10.1.2.130"))]
    #[case("10.1.0.0/16", 254, Some("10.1.0.254"))]
    #[case("10.1.2.0/29", 6, Some("10.1.2.6"))]
    #[case("10.1.2.0/29", 7, None)]
    #[case("10.1.2.0/24", 255, None)]
    #[case("10.1.2.0/24", 0, None)]
    #[case("10.1.2.0/32", 1, None)]
    fn host_numbers(#[case] cidr: &str, #[case] number: u8, #[case] expected: Option<&str>) {
        let cidr = Cidr::parse(cidr).unwrap();
        let address = cidr.host(number);
        assert_eq!(address.map(|address| address.to_string()).as_deref(), expected);
        if let Some(IpAddr::V4(address)) = address {
            assert_eq!(cidr.number(address), Some(number));
        }
    }

    #[rstest]
    #[case("10.1.2.0")]
    #[case("10.1.2.0/33")]
    #[case("2001:db8::/64")]
    fn not_a_subnet(#[case] text: &str) {
        assert_eq!(Cidr::parse(text), None);
    }
}
