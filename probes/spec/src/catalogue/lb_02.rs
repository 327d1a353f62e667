//! LB-02: host loopback, by its other IPv4 spellings.

use super::make::{tcp, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-02",
    title: "host loopback, by its other IPv4 spellings",
    requirement: "A guest MUST NOT reach the host's wildcard listeners through any address of 127.0.0.0/8 or through 0.0.0.0.",
    why: "Filters often name 127.0.0.1 only, while the whole /8 and the unspecified address lead to the same host.",
    source: "Seen in: shpwrck/tactics #265, agent-egress-bench ssrf-zero-ip.",
    does: "Connects to the host's wildcard listener through 127.0.0.2, 127.1.2.3, 127.255.255.254, 0.0.0.0, `0` and `127.1`, and once from another loopback source address.",
    on_breach: "Block or, better, remove the path instead of the address: the guest must have its own loopback. Check that no rule lists single loopback addresses.",
    priority: Priority::P0,
    tags: &["loopback", "host", "spelling"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let targets = [
        ("127-0-0-2", "127.0.0.2"),
        ("127-1-2-3", "127.1.2.3"),
        ("127-255-255-254", "127.255.255.254"),
        ("unspecified", "0.0.0.0"),
        ("zero", "0"),
        ("short-form", "127.1"),
    ];
    let from_elsewhere = Action::Tcp {
        to: "127.0.0.1:${host.any.tcp}".to_owned(),
        send: "{nonce}\r\n".to_owned(),
        from: Some("127.0.0.5".to_owned()),
    };
    targets
        .map(|(name, host)| unseen(name, tcp(format!("{host}:${{host.any.tcp}}"))))
        .into_iter()
        .chain([unseen("source-127-0-0-5", from_elsewhere)])
        .map(|case| {
            case.alive(&[Vantage::HostWildcard])
                .controls(&[Leak::HostNet, Leak::HostSock])
        })
        .collect()
}
