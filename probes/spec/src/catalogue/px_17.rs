//! PX-17: redirects of an allowed origin.

use super::make::{OK_FIELD, connect_with, listen, proxy, send, tls, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Step, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-17",
    title: "redirects of an allowed origin",
    requirement: "The bundle MUST NOT follow a redirect by itself.",
    why: "An allowed origin that answers 30x would choose what the bundle dials next, and with which credentials.",
    source: "Seen in: gondolin drops auth on cross-origin redirect, runvendo redirect probe.",
    does: "Has an allowed origin redirect to a denied host, to the bundle's loopback and to the metadata service. The nonce is only in the redirect.",
    on_breach: "Hand 30x answers to the guest as they are; its next request is then decided on like any other.",
    priority: Priority::P0,
    tags: &["proxy", "redirect", "ssrf"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let location = |code: u16, to: &str| format!("/redirect?code={code}&to_b64={{b64:{to}/{{nonce}}}}");
    let allowed = world::ALLOWED;
    let plain = |code, to: &str| {
        let text = format!(
            "GET http://{allowed}{} HTTP/1.1\r\nHost: {allowed}\r\n{OK_FIELD}\r\n",
            location(code, to)
        );
        proxy([send(text), listen(), listen()])
    };
    let inside = format!(
        "GET {} HTTP/1.1\r\nHost: {allowed}\r\n{OK_FIELD}\r\n",
        location(302, "http://denied.test")
    );
    let tunnelled = proxy([
        connect_with("allowed.test:443", OK_FIELD),
        Step::Success,
        tls(allowed),
        send(inside),
        listen(),
        listen(),
    ]);
    vec![
        unseen("moved-denied", plain(301, "http://denied.test")).alive(&[Vantage::Origin, Vantage::InternetTcp]),
        unseen("permanent-denied", plain(308, "http://denied.test:8080"))
            .alive(&[Vantage::Origin, Vantage::InternetTcp]),
        unseen("found-loopback", plain(302, "http://127.0.0.1")).alive(&[Vantage::Origin, Vantage::OwnBundle]),
        unseen("temporary-metadata", plain(307, "http://169.254.169.254")).alive(&[Vantage::Origin, Vantage::Metadata]),
        unseen("tunnel-denied", tunnelled).alive(&[Vantage::Origin, Vantage::InternetTcp]),
    ]
    .into_iter()
    .map(|case| case.controls(&[Leak::PxFollow]))
    .collect()
}
