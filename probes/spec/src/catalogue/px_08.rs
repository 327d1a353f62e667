//! PX-08: CONNECT against SNI against Host.

use super::make::{NONCE_FIELD, connect, field, get, listen, proxy, tls_h2, tunnel, tunnel_sending, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-08",
    title: "CONNECT against SNI against Host",
    requirement: "Inside CONNECT, the authority, the server name of the handshake and the authority of every request MUST be one and the same.",
    why: "Domain fronting: the proxy decides on one name, the origin serves another on the same address.",
    source: "Seen in: microsandbox hostname_source_sni_*, iron-proxy SNIHostMismatch/snipeek.",
    does: "Opens tunnels to an allowed host and speaks of others inside: in the handshake, in Host, in an absolute target, in HTTP/2 and with a handshake in pieces.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Compare all three, and refuse handshakes without a server name.",
    priority: Priority::P0,
    tags: &["proxy", "tls", "confusion"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let (allowed, fronted, denied) = (world::ALLOWED, world::FRONTED, world::DENIED);
    let to = "allowed.test:443";
    let inner_target = format!("GET https://{fronted}/{{nonce}} HTTP/1.1\r\nHost: {fronted}\r\n{NONCE_FIELD}\r\n");
    let split = Step::Tls {
        sni: Some(fronted.to_owned()),
        alpn: Vec::new(),
        split: Some(7),
    };
    let h2 = Step::H2 {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        authority: fronted.to_owned(),
        path: "/{nonce}".to_owned(),
        fields: vec![field("x-bottle-nonce", "{nonce}")],
        body: String::new(),
    };
    [
        ("sni-and-host-fronted", tunnel(to, Some(fronted), fronted)),
        ("sni-fronted", tunnel(to, Some(fronted), allowed)),
        ("host-fronted", tunnel(to, Some(allowed), fronted)),
        ("sni-and-host-denied", tunnel(to, Some(denied), denied)),
        ("host-denied", tunnel(to, Some(allowed), denied)),
        ("host-other-port", tunnel(to, Some(allowed), "allowed.test:8443")),
        ("sni-missing", tunnel(to, None, allowed)),
        ("sni-missing-host-fronted", tunnel(to, None, fronted)),
        ("inner-target-fronted", tunnel_sending(to, Some(allowed), inner_target)),
        (
            "handshake-in-pieces",
            proxy([connect(to), Step::Success, split, get(fronted), listen()]),
        ),
        (
            "h2-authority-fronted",
            proxy([connect(to), Step::Success, tls_h2(allowed), h2]),
        ),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp, Vantage::Origin])
            .denied()
            .controls(&[Leak::PxNoBind])
    })
    .into()
}
