//! TX-18: tokens in what the engine tells.

use super::make::runner;
use crate::{CaseSpec, EnginePlace, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-18",
    title: "tokens in what the engine tells",
    requirement: "The engine's description, log and storage of a bottle MUST NOT hold a token.",
    why: "Whoever may call `docker inspect` reads container environments; engine logs and volumes stay on disk.",
    source: "Seen in: smolvm test_plaintext_not_in_db/_pack, OpenShell persisted_spec.",
    does: "Searches the engine's description of guest and bundle, its logs, an export of the guest's file system, and what is mounted into them.",
    on_breach: "Hand tokens over standard input into memory. Rotate what was found and remove the containers.",
    priority: Priority::P0,
    tags: &["token", "engine", "inspect"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("inspect-guest", EnginePlace::InspectGuest, Leak::Env),
        ("inspect-bundle", EnginePlace::InspectBundle, Leak::Env),
        ("container-logs", EnginePlace::ContainerLogs, Leak::NoScrub),
        ("guest-export", EnginePlace::GuestExport, Leak::File),
        ("mounts", EnginePlace::Volumes, Leak::File),
    ]
    .map(|(name, place, control)| {
        runner(name, RunnerCase::SecretInEngine(place))
            .alive(&[Vantage::Inventory])
            .controls(&[control])
    })
    .into()
}
