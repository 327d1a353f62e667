//! Where a routed machine may connect to, and who keeps it to that.
//!
//! smolvm allows an address with all of its ports. The one port is the firewall's matter where this process may set its rules,
//! else smolvm's own, which asks before each connection.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use bottle_backend::BackendError;
use bottle_plan::{ContainerPlan, NetworkMode};

use crate::program::refused;

/// The way of a routed machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The one place that it may connect to.
    pub(crate) proxy: SocketAddrV4,
    /// Who keeps it to the port.
    pub(crate) by: Narrowing,
}

/// Who keeps a machine to one port of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrowing {
    /// Rules of the host's firewall on the machine's user.
    Firewall,
    /// smolvm, which asks us.
    Mediation,
}

/// Who can do it here; the obstacle when nobody can.
pub(crate) fn narrowing(sets_rules: bool, mediates: bool) -> Result<Narrowing, String> {
    match (sets_rules, mediates) {
        (true, _) => Ok(Narrowing::Firewall),
        (false, true) => Ok(Narrowing::Mediation),
        (false, false) => Err(
            "a routed machine is kept to its proxy's port by rules of the firewall, which root sets with nftables, or by \
             smolvm 1.32.2 or later, which asks before each connection: found neither; update smolvm, or use the topology \
             `sealed`, which needs none"
                .to_owned(),
        ),
    }
}

/// The one place that a guest may connect to: what its plan says is its proxy, on the network that it shares with its bundle.
/// `None` for a sealed one.
pub(crate) fn route(
    plan: &ContainerPlan,
    subnets: &BTreeMap<String, String>,
    narrowing: Result<&Narrowing, &String>,
) -> Result<Option<Route>, BackendError> {
    let refuse = |problem: &str| Err(refused(format!("plan the network of {}", plan.name), problem));
    let NetworkMode::Networks(networks) = &plan.network else {
        return match plan.network {
            NetworkMode::None => Ok(None),
            _ => refuse("a machine cannot have the host's network"),
        };
    };
    let [network] = &networks[..] else {
        return refuse("expected one network, which it shares with its bundle");
    };
    let proxy = plan.env.get("HTTP_PROXY").and_then(|url| url.strip_prefix("http://"));
    let Some(proxy) = proxy.and_then(|address| address.parse::<SocketAddrV4>().ok()) else {
        return refuse("expected the bundle's address and port in HTTP_PROXY");
    };
    if !subnets
        .get(&network.network)
        .is_some_and(|subnet| has(subnet, *proxy.ip()))
    {
        return refuse("the address in HTTP_PROXY is not on the network that it shares with its bundle");
    }
    match narrowing {
        Ok(by) => Ok(Some(Route { proxy, by: *by })),
        Err(obstacle) => refuse(obstacle),
    }
}

/// Whether an address is in a subnet (CIDR).
fn has(subnet: &str, address: Ipv4Addr) -> bool {
    let Some((base, bits)) = subnet.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<Ipv4Addr>(), bits.parse::<u32>()) else {
        return false;
    };
    let Some(mask) = 32u32.checked_sub(bits).and_then(|host| u32::MAX.checked_shl(host)) else {
        return false;
    };
    u32::from(base) & mask == u32::from(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_plan::Attachment;

    #[test]
    fn rules_come_first_and_somebody_is_needed() {
        assert_eq!(narrowing(true, true), Ok(Narrowing::Firewall));
        assert_eq!(narrowing(true, false), Ok(Narrowing::Firewall));
        assert_eq!(narrowing(false, true), Ok(Narrowing::Mediation));
        assert!(narrowing(false, false).unwrap_err().contains("sealed"));
    }

    #[test]
    fn subnets_have_their_addresses() {
        let inside = |subnet: &str, address: [u8; 4]| has(subnet, address.into());
        assert!(inside("10.213.4.0/24", [10, 213, 4, 2]));
        assert!(!inside("10.213.4.0/24", [10, 213, 5, 2]));
        for odd in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/0"] {
            assert!(!inside(odd, [10, 0, 0, 1]), "{odd}");
        }
    }

    #[test]
    fn a_routed_machine_reaches_its_proxy_on_the_shared_network_only() {
        let mut plan = crate::inside::tests::plan();
        let subnets = BTreeMap::from([("inner".to_owned(), "10.213.4.0/24".to_owned())]);
        let narrowing: Result<_, String> = Ok(Narrowing::Mediation);
        let proxy = |plan: &ContainerPlan, subnets| route(plan, subnets, narrowing.as_ref());
        assert_eq!(proxy(&plan, &subnets), Ok(None));
        plan.network = NetworkMode::Networks(vec![Attachment {
            network: "inner".to_owned(),
            host_number: None,
            aliases: Vec::new(),
        }]);
        assert!(proxy(&plan, &subnets).is_err());
        plan.env
            .insert("HTTP_PROXY".to_owned(), "http://192.0.2.1:8888".to_owned());
        let error = proxy(&plan, &subnets).unwrap_err();
        assert!(error.problem.contains("not on the network"), "{error}");
        plan.env
            .insert("HTTP_PROXY".to_owned(), "http://10.213.4.2:8888".to_owned());
        let expected = Route {
            proxy: "10.213.4.2:8888".parse().unwrap(),
            by: Narrowing::Mediation,
        };
        assert_eq!(proxy(&plan, &subnets), Ok(Some(expected)));
        let obstacle = "too old".to_owned();
        let error = route(&plan, &subnets, Err(&obstacle)).unwrap_err();
        assert!(error.problem.contains("too old"), "{error}");
        plan.network = NetworkMode::Host;
        assert!(proxy(&plan, &subnets).is_err());
    }
}
