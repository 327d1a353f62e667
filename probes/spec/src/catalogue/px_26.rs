//! PX-26: bad certificates upstream.

use super::make::{tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-26",
    title: "bad certificates upstream",
    requirement: "The bundle MUST verify the upstream's certificate for the name that was asked for.",
    why: "Behind an intercepting proxy the client sees the proxy's certificate only; if the proxy does not verify, nobody does.",
    source: "Seen in: undici CVE-2026-9697 class, iron-proxy.",
    does: "Asks for allowed hosts whose certificates are self-signed, expired, for another name, or from an unknown authority.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Verification has no switch in a bottle; look for a custom verifier.",
    priority: Priority::P0,
    tags: &["proxy", "tls", "certificate"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    ["selfsigned", "expired", "wrongname", "untrusted"]
        .map(|kind| {
            let host = format!("{kind}.{}", world::BAD_CERTIFICATES);
            unseen(kind, tunnel(&format!("{host}:443"), Some(&host), &host))
                .alive(&[Vantage::InternetTcp, Vantage::Origin])
                .denied()
                .controls(&[Leak::PxNoVerify])
        })
        .into()
}
