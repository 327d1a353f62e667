//! LC-05: keys and state on disk.

use super::make::runner;
use crate::{CaseSpec, Leak, Priority, Probe, RunnerCase, StateCheck, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-05",
    title: "keys and state on disk",
    requirement: "State files MUST be readable by their owner alone, be written through no link and into no directory of others, hold no secret, and be gone after the stop, and the engine MUST keep no image of the bottle.",
    why: "A key that outlives its bottle or is readable by others is a key that was given away.",
    source: "Seen in: leash 0600 CA, hermes #30179.",
    does: "Looks at modes and contents of the launcher's state directory while the bottle lives and after it stopped, at the engine's description of its containers, and at the layers and configuration of its images. Plants symbolic links, and directories that others may write to, where a launch would make its own.",
    on_breach: "Write state with mode 0600 into a directory of mode 0700 below directories of the same owner, opened without following links; keep secrets out of it and out of images, and remove it with the bottle.",
    priority: Priority::P0,
    tags: &["lifecycle", "files", "token"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("modes", StateCheck::Modes, Leak::KeepKeys),
        ("gone-after-stop", StateCheck::GoneAfterStop, Leak::KeepKeys),
        ("no-secret-while-alive", StateCheck::NoSecretWhileAlive, Leak::KeepKeys),
        ("no-follow-directory", StateCheck::NoFollow, Leak::KeepKeys),
        ("no-follow-parent", StateCheck::NoFollowParent, Leak::KeepKeys),
        ("writable-parent", StateCheck::WritableParent, Leak::KeepKeys),
        (
            "writable-state-directory",
            StateCheck::WritableStateDirectory,
            Leak::KeepKeys,
        ),
        ("not-in-inspect", StateCheck::NotInInspect, Leak::Env),
        ("not-in-layers", StateCheck::NotInLayers, Leak::KeepKeys),
        ("no-image-kept", StateCheck::NoImageKept, Leak::KeepKeys),
    ]
    .map(|(name, check, control)| {
        runner(name, RunnerCase::StateFiles(check))
            .alive(&[Vantage::HostFiles])
            .controls(&[control])
    })
    .into()
}
