//! TX-07: the token towards other hosts.

use super::make::{NONCE_FIELD, connect, field, listen, proxy, secret_unseen, send, tls, tls_h2, tunnel_sending};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-07",
    title: "the token towards other hosts",
    requirement: "A token MUST be added for the host and port of its own route only.",
    why: "An injector that replaces placeholders wherever they appear sends the token to any allowed host that the guest names.",
    source: "Seen in: matchlock SecretBlockedOnUnauthorizedHost, microsandbox no_substitute_for_wrong_host, gondolin.",
    does: "Sends the placeholder to an allowed host that has no route: in fields, query, body, cookie, Basic credentials, WebSocket and HTTP/2. The origin reports what arrived.",
    on_breach: "Bind every token to host and port, over verified TLS, and replace nothing. Rotate the token.",
    priority: Priority::P0,
    tags: &["token", "injection", "proxy"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let host = world::ALLOWED;
    let head = |path: &str, extra: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}{NONCE_FIELD}\r\n");
    let inside = |text: String| tunnel_sending("allowed.test:443", Some(host), text);
    let body = "key=${token.placeholder}&n={nonce}";
    let opened = |last: Vec<Step>| {
        let mut steps = vec![connect("allowed.test:443"), Step::Success];
        steps.extend(last);
        proxy(steps)
    };
    let h2 = Step::H2 {
        method: "POST".to_owned(),
        scheme: "https".to_owned(),
        authority: host.to_owned(),
        path: "/{nonce}".to_owned(),
        fields: vec![
            field("x-api-key", "${token.placeholder}"),
            field("x-bottle-nonce", "{nonce}"),
        ],
        body: body.to_owned(),
    };
    let websocket = Step::WebSocket {
        host: host.to_owned(),
        path: "/{nonce}".to_owned(),
        fields: vec![
            field("x-api-key", "${token.placeholder}"),
            field("x-bottle-nonce", "{nonce}"),
        ],
        text: body.to_owned(),
    };
    let plain = format!(
        "GET http://{host}/{{nonce}} HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: ${{token.placeholder}}\r\n{NONCE_FIELD}\r\n"
    );
    [
        ("field", inside(head("/{nonce}", "X-Api-Key: ${token.placeholder}\r\n"))),
        ("query", inside(head("/{nonce}?key=${token.placeholder}", ""))),
        (
            "basic",
            inside(head(
                "/{nonce}",
                "Authorization: Basic {b64:user:${token.placeholder}}\r\n",
            )),
        ),
        (
            "cookie",
            inside(head("/{nonce}", "Cookie: key=${token.placeholder}\r\n")),
        ),
        (
            "bearer",
            inside(head("/{nonce}", "Authorization: Bearer ${token.placeholder}\r\n")),
        ),
        ("h2", opened(vec![tls_h2(host), h2])),
        ("websocket", opened(vec![tls(host), websocket, listen()])),
        ("plain-http", proxy([send(plain), listen()])),
    ]
    .map(|(name, action)| {
        secret_unseen(name, action)
            .alive(&[Vantage::Origin])
            .controls(&[Leak::InjAny])
    })
    .into()
}
