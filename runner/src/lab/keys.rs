//! What the keys of the world stand for that belong to no bottle.

use std::net::IpAddr;

use probe_spec::world;

use crate::host::HostWitnesses;
use crate::template::Keys;

/// The keys of the world that belong to no bottle.
pub fn keys(host: &HostWitnesses, outside: IpAddr, published: u16) -> Keys {
    let addresses = crate::addresses::of_host();
    let first4 = addresses.v4.first().cloned().unwrap_or_else(|| "127.0.0.1".to_owned());
    let second4 = addresses.v4.get(1).cloned().unwrap_or_else(|| first4.clone());
    let lo6 = if host.loopback6 == 0 {
        host.wildcard
    } else {
        host.loopback6
    };
    [
        ("sink", world::SINK_ADDRESS.to_owned()),
        ("sink6", world::SINK_ADDRESS6.to_owned()),
        ("host.lo4.tcp", host.loopback4.to_string()),
        ("host.lo4.low", host.loopback4_low.to_string()),
        ("host.lo6.tcp", lo6.to_string()),
        ("host.any.tcp", host.wildcard.to_string()),
        ("host.lo4.udp", host.loopback4_udp.to_string()),
        ("host.any.udp", host.wildcard_udp.to_string()),
        ("host.published.tcp", published.to_string()),
        ("host.address.1", first4.clone()),
        ("host.address.2", second4),
        (
            "host.address.docker0",
            addresses.docker0.unwrap_or_else(|| first4.clone()),
        ),
        (
            "host.address6.1",
            addresses.v6.first().cloned().unwrap_or_else(|| "::1".to_owned()),
        ),
        ("witness.dns", format!("{outside}:53")),
        ("host.address.1.dashed", first4.replace('.', "-")),
        ("bundle.lo.tcp", world::BUNDLE_LOOPBACK_PORT.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
