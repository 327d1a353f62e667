//! TX-05: the private key of the bottle's authority.

use super::make::{find, find_marked, runner, unseen};
use crate::{AuthorityCheck, CaseSpec, Leak, Place, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-05",
    title: "the private key of the bottle's authority",
    requirement: "The private key of a bottle's certificate authority MUST NOT leave its bundle, every bottle MUST have its own, and its certificates MUST be good for nothing but interception in that bottle.",
    why: "With the key a guest could impersonate any host to every program that trusts the certificate, in its own bottle and, were it shared, in others.",
    source: "Seen in: leash CA split, gondolin mitm, iron-proxy generate_ca.",
    does: "Searches all files and shared directories of the guest for a private key, and compares the certificates that two bottles are given, and who signs what they are shown. Judges the certificate that a guest is given and the leaf that it is shown: what they may sign, for which name, how long, for what use, and that the guest trusts no other.",
    on_breach: "Keep the key in the bundle's memory. Where it was published, make the bottle anew: its authority with it. Mint authorities with pathlen 0, and leaves for one name, a few days and TLS servers.",
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
    .into_iter()
    .chain(certificates())
    .collect()
}

/// What the certificates are good for, by those that a guest is given and shown.
fn certificates() -> impl Iterator<Item = CaseSpec> {
    [
        ("signs-leaves-only", AuthorityCheck::SignsLeavesOnly),
        ("only-own-trusted", AuthorityCheck::OnlyOwnTrusted),
        ("leaf-is-no-authority", AuthorityCheck::LeafIsNoAuthority),
        ("leaf-name", AuthorityCheck::LeafName),
        ("leaf-validity", AuthorityCheck::LeafValidity),
        ("leaf-usage", AuthorityCheck::LeafUsage),
    ]
    .into_iter()
    .map(|(name, check)| {
        runner(name, RunnerCase::Authority(check))
            .alive(&[Vantage::HostFiles])
            .controls(&[Leak::CaWide])
    })
}
