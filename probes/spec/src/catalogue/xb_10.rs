//! XB-10: files left for the next bottle.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "XB-10",
    title: "files left for the next bottle",
    requirement: "What a bottle writes MUST NOT be found in a later bottle of the same image.",
    why: "An image or cache that one agent can change is code that every later agent runs.",
    source: "Seen in: cleanroom rootfs copy, boxlite.",
    does: "Writes a nonce into system directories, caches, homes and everywhere; a fresh bottle of the same image then searches all of its files.",
    on_breach: "Find the mount or layer that survived. The root must be read-only and everything writable must go with the bottle.",
    priority: Priority::P0,
    tags: &["peer", "files", "image"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("system-directories", vec!["/usr", "/bin", "/etc", "/opt"]),
        ("caches", vec!["/var"]),
        ("homes", vec!["/home", "/root"]),
        ("everywhere", Vec::new()),
    ]
    .map(|(name, places)| {
        runner(name, RunnerCase::WriteThenFreshSearches(places))
            .alive(&[Vantage::Guest])
            .controls(&[Leak::SharedVol])
    })
    .into()
}
