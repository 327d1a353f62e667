//! EG-15: tampering with the guest's own network.

use super::make::{sequence, tcp, udp, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Tamper, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-15",
    title: "tampering with the guest's own network",
    requirement: "A guest MUST NOT gain a way out by changing its own routes, addresses, filters or resolver.",
    why: "Filters that live inside the guest's own namespace can be changed by whoever has the capability; those outside cannot.",
    source: "Seen in: gh-aw-firewall network-security.test.ts ('|| echo blocked' passes with no iptables), gh-aw-firewall TAMPER.",
    does: "Tries each change and then, whatever came of it, sends to the internet as EG-01 does. Failing to change anything is fine; only a delivered nonce counts.",
    on_breach: "The filter is inside the guest, or the guest holds CAP_NET_ADMIN. Move the filter out and drop the capability.",
    priority: Priority::P0,
    tags: &["egress", "tamper", "capabilities"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let kinds = [
        ("route", Tamper::Route),
        ("address", Tamper::Address),
        ("hardware-address", Tamper::HardwareAddress),
        ("nftables", Tamper::Nftables),
        ("iptables", Tamper::Iptables),
        ("traffic-control", Tamper::TrafficControl),
        ("bpf", Tamper::Bpf),
        ("resolv-conf", Tamper::ResolvConf),
        ("hosts", Tamper::Hosts),
    ];
    kinds
        .map(|(name, what)| {
            let action = sequence([Action::Tamper { what }, tcp("${sink}:443"), udp("${sink}:443")]);
            unseen(name, action)
                .alive(&[Vantage::InternetTcp, Vantage::InternetUdp])
                .controls(&[Leak::Bridge])
        })
        .into()
}
