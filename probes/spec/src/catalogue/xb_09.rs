//! XB-09: files shared between bottles.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-09",
    title: "files shared between bottles",
    requirement: "What one bottle writes MUST NOT be readable in another.",
    why: "A shared cache or volume is a channel between bottles, and a way to plant files for the other's tools to run.",
    source: "Seen in: Trail of Bits devcontainer pattern B shares volumes by design; none probes it.",
    does: "Writes a nonce wherever the guest can write; the peer then searches all of its files for it.",
    on_breach: "Compare the mounts of both guests (`docker inspect`). Every writable mount must belong to one bottle.",
    priority: Priority::P0,
    tags: &["peer", "files", "volumes"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("everywhere", Vec::new()),
        ("likely-shares", vec!["/shared", "/workspace", "/mnt", "/media", "/srv"]),
    ]
    .map(|(name, places)| {
        runner(name, RunnerCase::WriteThenPeerSearches(places))
            .alive(&[Vantage::Guest])
            .controls(&[Leak::SharedVol])
    })
    .into()
}
