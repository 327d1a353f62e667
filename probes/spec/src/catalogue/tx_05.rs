//! TX-05: the private key of the bottle's authority.

use super::make::{find, find_marked, runner, unseen};
use crate::{AuthorityCheck, CaseSpec, Leak, Place, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-05",
    title: "the private key of the bottle's authority",
    requirement: "The private key of a bottle's certificate authority MUST NOT leave its bundle, and every bottle MUST have its own.",
    why: "With the key a guest could impersonate any host to every program that trusts the certificate, in its own bottle and, were it shared, in others.",
    source: "Seen in: leash CA split, gondolin mitm, iron-proxy generate_ca.",
    does: "Searches all files and shared directories of the guest for a private key, and compares the certificates that two bottles are given.",
    on_breach: "Keep the key in the bundle's memory. Where it was published, make the bottle anew: its authority with it.",
    priority: Priority::P0,
    tags: &["token", "certificate"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let needles: &[&str] = &["-----BEGIN PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----"];
    vec![
        unseen("files", find(Place::Files, needles))
            .alive(&[Vantage::Guest])
            .controls(&[Leak::CaKey]),
        // The certificate is in the same directory and shows that the search reads it.
        unseen(
            "shared-directories",
            find_marked(Place::Mounts, needles, "-----BEGIN CERTIFICATE-----"),
        )
        .alive(&[Vantage::Guest])
        .controls(&[Leak::CaKey]),
        runner(
            "own-authority",
            RunnerCase::Authority(AuthorityCheck::DifferentPerBottle),
        )
        .alive(&[Vantage::Guest])
        .controls(&[Leak::ScopeIp]),
    ]
}
