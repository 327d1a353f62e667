//! XB-13: answers and connections of the peer.

use super::make::{
    NONCE_FIELD, OK_FIELD, absolute_ok, absolute_text, connect_with, get_ok, listen, proxy, runner, send, tls,
};
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-13",
    title: "answers and connections of the peer",
    requirement: "A guest MUST NOT be served an answer, a session or an upstream connection that belongs to another bottle.",
    why: "Caches and connection pools are shared by default in proxies, and an authenticated answer is as good as the token.",
    source: "Seen in: cleanroom TestUpstreamTransportIsolationDisablesSharedPooling.",
    does: "The peer fetches from its own route; then the bottle under test asks for the same, behind an allowed request on its own connection.",
    on_breach: "Upstream connections, TLS sessions and answers are never shared between bottles nor between hosts.",
    priority: Priority::P0,
    tags: &["peer", "proxy", "cache"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let (route, allowed) = (world::PEER_ROUTE, world::ALLOWED);
    let request =
        |path: &str, extra: &str, field: &str| format!("GET {path} HTTP/1.1\r\nHost: {route}\r\n{extra}{field}\r\n");
    let before = |path: &str| {
        proxy([
            connect_with("api.peer.test:443", OK_FIELD),
            Step::Success,
            tls(route),
            send(request(path, "", OK_FIELD)),
            Step::Response,
        ])
    };
    let open = || vec![connect_with("allowed.test:443", OK_FIELD), Step::Success, tls(allowed)];
    let first = || [send(get_ok(allowed)), Step::Response];
    let after = |text: String| {
        let mut steps = open();
        steps.extend(first());
        steps.extend([send(text), listen()]);
        proxy(steps)
    };
    let at_once = |text: String| {
        let mut steps = open();
        steps.extend([send(get_ok(allowed) + &text), listen(), listen()]);
        proxy(steps)
    };
    let plain = proxy([
        send(absolute_ok(allowed)),
        Step::Response,
        send(absolute_text(route, route)),
        listen(),
    ]);
    [
        (
            "cached-answer",
            before("/"),
            after(request("/?{nonce}", "", NONCE_FIELD)),
        ),
        (
            "cookie",
            before("/cookie"),
            after(request("/cookie?{nonce}", "Cookie: session=witness\r\n", NONCE_FIELD)),
        ),
        (
            "pooled-connection",
            before("/"),
            at_once(request("/?{nonce}", "", NONCE_FIELD)),
        ),
        ("plain-after-plain", before("/"), plain),
    ]
    .map(|(name, peer, own)| {
        runner(name, RunnerCase::PeerThenSelf { peer, own })
            .alive(&[Vantage::InternetTcp, Vantage::PeerBundle])
            .denied()
            .controls(&[Leak::PxOnce])
    })
    .into()
}
