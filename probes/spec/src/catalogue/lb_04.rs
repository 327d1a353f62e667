//! LB-04: the gateway of the guest's network.

use super::make::{tcp, udp, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-04",
    title: "the gateway of the guest's network",
    requirement: "A guest MUST NOT reach a service of the host through a gateway address.",
    why: "Engines give the host the first address of every bridge, internal ones too, so that whatever listens on 0.0.0.0 is one hop away from the guest.",
    source: "Seen in: moby #47356/#47481, libnetwork #1151, smolvm #784.",
    does: "Connects over TCP and UDP and sends echo requests to the address that the host would have on the guest's network, to the engine's default bridge, and to the gateways that container engines and virtual machines use by default.",
    on_breach: "Make the guest's network with `com.docker.network.bridge.inhibit_ipv4=true`, or seal the bottle. Compare with `docker network inspect` and `ip address` on the host.",
    priority: Priority::P0,
    tags: &["gateway", "host", "network"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let echo = Action::Icmp {
        to: "${inner.gateway}".to_owned(),
        raw: false,
        send: "{nonce}".to_owned(),
        answer_is_finding: true,
    };
    let own = [
        ("own-gateway-tcp", tcp("${inner.gateway}:${host.any.tcp}")),
        ("own-gateway-echo", echo),
        ("host-on-own-network-tcp", tcp("${host.address.inner}:${host.any.tcp}")),
    ];
    let own_udp = [
        ("own-gateway-udp", udp("${inner.gateway}:${host.any.udp}")),
        ("host-on-own-network-udp", udp("${host.address.inner}:${host.any.udp}")),
    ];
    // Docker's default bridge and its pools, slirp and user-mode networks, Docker Desktop, gvproxy.
    let guesses = [
        ("default-bridge", "${host.address.docker0}"),
        ("guess-172-18-0-1", "172.18.0.1"),
        ("guess-192-168-0-1", "192.168.0.1"),
        ("guess-10-0-2-2", "10.0.2.2"),
        ("guess-192-168-65-2", "192.168.65.2"),
        ("guess-192-168-127-1", "192.168.127.1"),
        ("guess-100-96-0-1", "100.96.0.1"),
    ];
    let mut cases: Vec<CaseSpec> = Vec::new();
    cases.extend(own.map(|(name, action)| {
        let needs: &[&str] = if name == "own-gateway-echo" { &["icmp"] } else { &[] };
        unseen(name, action)
            .alive(&[Vantage::HostWildcard])
            .controls(&[Leak::GwHost])
            .needs(needs)
    }));
    cases.extend(own_udp.map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::HostUdp])
            .controls(&[Leak::GwHost])
    }));
    cases.extend(guesses.map(|(name, host)| {
        unseen(name, tcp(format!("{host}:${{host.any.tcp}}")))
            .alive(&[Vantage::HostWildcard, Vantage::InternetTcp])
            .controls(&[Leak::Bridge])
    }));
    cases
}
