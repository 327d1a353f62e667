//! PX-10: the second request on a connection.

use super::make::{
    OK_FIELD, absolute_ok, absolute_text, connect_with, field, get, get_ok, get_text, listen, proxy, send, tls, tls_h2,
    unseen,
};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-10",
    title: "the second request on a connection",
    requirement: "The proxy MUST decide on every request by itself, whatever was allowed on the same connection before.",
    why: "Checking once a connection lets one allowed request open the way for all that follow.",
    source: "Seen in: microsandbox pipelined_*, gondolin pipeline bytes, OpenShell overflow.",
    does: "Sends an allowed request and then a denied one on the same connection: kept alive, pipelined, in a tunnel and in HTTP/2.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Evaluate the policy a request, and never reuse an upstream connection for another host.",
    priority: Priority::P0,
    tags: &["proxy", "http", "keep-alive"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let (allowed, denied) = (world::ALLOWED, world::DENIED);
    let to = "allowed.test:443";
    let open = || connect_with(to, OK_FIELD);
    let h2 = |authority: &str, nonce: &str| Step::H2 {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        authority: authority.to_owned(),
        path: format!("/{nonce}"),
        fields: vec![field("x-bottle-nonce", nonce)],
        body: String::new(),
    };
    let kept = proxy([
        send(absolute_ok(allowed)),
        Step::Response,
        send(absolute_text(denied, denied)),
        listen(),
    ]);
    let piped = proxy([
        send(absolute_ok(allowed) + &absolute_text(denied, denied)),
        listen(),
        listen(),
    ]);
    let inside = proxy([
        open(),
        Step::Success,
        tls(allowed),
        send(get_ok(allowed)),
        Step::Response,
        get(denied),
        listen(),
    ]);
    let inside_piped = proxy([
        open(),
        Step::Success,
        tls(allowed),
        send(get_ok(allowed) + &get_text(denied)),
        listen(),
        listen(),
    ]);
    let streams = proxy([
        open(),
        Step::Success,
        tls_h2(allowed),
        h2(allowed, "{ok}"),
        h2(denied, "{nonce}"),
    ]);
    [
        ("kept-alive", kept),
        ("pipelined", piped),
        ("tunnel-kept-alive", inside),
        ("tunnel-pipelined", inside_piped),
        ("tunnel-h2-stream", streams),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::InternetTcp, Vantage::Origin])
            .denied()
            .controls(&[Leak::PxOnce])
    })
    .into()
}
