//! PX-07: request target against Host.

use super::make::{NONCE_FIELD, absolute_to, listen, proxy, send, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-07",
    title: "request target against Host",
    requirement: "Where target and Host of an absolute-form request disagree, the proxy MUST refuse it.",
    why: "Whoever checks one and dials or forwards the other lets the guest choose (RFC 9112 3.2.2 makes the target win; origins do not all agree).",
    source: "Seen in: httpjail test_host_header_security, microsandbox duplicate_host_is_blocked.",
    does: "Sends absolute-form requests whose target and Host name different hosts, ports or users, in both directions, and two Host fields.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Target, Host and what is dialled must be one and the same.",
    priority: Priority::P0,
    tags: &["proxy", "http", "confusion"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let (allowed, fronted, denied) = (world::ALLOWED, world::FRONTED, world::DENIED);
    let two_hosts =
        format!("GET http://{allowed}/{{nonce}} HTTP/1.1\r\nHost: {allowed}\r\nHost: {fronted}\r\n{NONCE_FIELD}\r\n");
    let unbound = [
        ("host-fronted", absolute_to(allowed, fronted)),
        ("host-denied", absolute_to(allowed, denied)),
        ("host-other-port", absolute_to(allowed, "allowed.test:22")),
        ("host-address", absolute_to(allowed, "${sink}")),
        ("host-user", absolute_to(allowed, "user@allowed.test")),
        ("host-user-fronted", absolute_to(allowed, "allowed.test@fronted.test")),
        ("target-user", absolute_to("user@allowed.test", allowed)),
        ("two-hosts", proxy([send(two_hosts), listen()])),
    ]
    .map(|(name, action)| unseen(name, action).controls(&[Leak::PxNoBind]));
    // The other way round the target is what is not allowed.
    let target = unseen("target-denied", absolute_to(denied, allowed)).controls(&[Leak::PxHttpFree]);
    unbound
        .into_iter()
        .chain([target])
        .map(|case| case.alive(&[Vantage::InternetTcp, Vantage::Origin]).denied())
        .collect()
}
