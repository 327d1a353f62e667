//! PX-06: absolute-form requests.

use super::make::{NONCE_FIELD, absolute, listen, proxy, send, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-06",
    title: "absolute-form requests",
    requirement: "The proxy MUST apply its rules to absolute-form requests as it does to CONNECT.",
    why: "Filters made for HTTPS look at CONNECT alone, and plain HTTP passes beside them.",
    source: "RFC 9112 section 3.2.2; seen in: claude-code #40213, OpenShell forward_proxy tests.",
    does: "Sends absolute-form requests to denied hosts and addresses, with a body, another port and the https scheme.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Both forms must end in the same decision.",
    priority: Priority::P0,
    tags: &["proxy", "http"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let denied = world::DENIED;
    let post = format!(
        "POST http://{denied}/ HTTP/1.1\r\nHost: {denied}\r\nContent-Length: 30\r\n{NONCE_FIELD}\r\n{{nonce}}\r\n"
    );
    let https = format!("GET https://{denied}/{{nonce}} HTTP/1.1\r\nHost: {denied}\r\n{NONCE_FIELD}\r\n");
    [
        ("get", absolute(denied)),
        ("get-8080", absolute("denied.test:8080")),
        ("post", proxy([send(post), listen()])),
        ("https-scheme", proxy([send(https), listen()])),
        ("address", absolute("${sink}")),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp])
            .denied()
            .controls(&[Leak::PxHttpFree])
    })
    .into()
}
