//! TX-03: tokens in files.

use super::make::{find, find_marked, sequence, unseen};
use crate::{CaseSpec, Leak, Place, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-03",
    title: "tokens in files",
    requirement: "No file that the guest can read MUST hold a token, in any common encoding.",
    why: "Tokens end up in caches, dotfiles and shared directories in more forms than a search for the plain text finds.",
    source: "Seen in: glovebox flag-encoding detector, nono sensitive paths.",
    does: "Reads every file of the guest, every shared directory and every block device for the planted tokens: raw, base64, hexadecimal, reversed and URL-encoded.",
    on_breach: "Remove the mount or file that the finding names, and rotate the token.",
    priority: Priority::P0,
    tags: &["token", "files"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let devices = sequence([find_marked(Place::Devices, NEEDLES, ""), find(Place::Files, NEEDLES)]);
    [
        ("files", find(Place::Files, NEEDLES)),
        ("shared-directories", find_marked(Place::Mounts, NEEDLES, "")),
        ("devices-then-files", devices),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::Guest]).controls(&[Leak::File]))
    .into()
}

const NEEDLES: &[&str] = &["${token}", "${peer.token}"];
