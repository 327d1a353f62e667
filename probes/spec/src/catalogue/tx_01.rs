//! TX-01: tokens where programs look for them.

use super::make::{find, find_marked, sequence, unseen};
use crate::{Action, CaseSpec, Leak, Place, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-01",
    title: "tokens where programs look for them",
    requirement: "A token MUST NOT be in the guest's environment, shell start-up files or agent configuration; a placeholder is.",
    why: "What is in the environment is in every child process, every crash report and every `env` an agent runs.",
    source: "Seen in: gh-aw-firewall one-shot-tokens, matchlock SecretPlaceholderNotExposedInGuest.",
    does: "Searches environment, start-up files and agent configuration for the planted tokens in several encodings, and for the marker that shows the search works.",
    on_breach: "Find how the value got there: manifest `env`, an image layer, or a mount. Declare a route instead, and rotate the token.",
    priority: Priority::P0,
    tags: &["token", "environment", "files"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let configuration = sequence([
        find_marked(Place::StartupFiles, NEEDLES, ""),
        Action::FindFiles {
            paths: [
                "~/.claude.json",
                "~/.claude/.credentials.json",
                "~/.codex/auth.json",
                "~/.config/opencode/auth.json",
            ]
            .map(str::to_owned)
            .into(),
            marker: "/bottle-marker".to_owned(),
        },
    ]);
    vec![
        unseen("environment", find(Place::Environment, NEEDLES)).controls(&[Leak::Env]),
        // Image files hold the marker; start-up files need not.
        unseen("start-up-files", find_marked(Place::StartupFiles, NEEDLES, "")).controls(&[Leak::File]),
        unseen("agent-configuration", configuration).controls(&[Leak::File]),
    ]
    .into_iter()
    .map(|case| case.alive(&[Vantage::Guest]))
    .collect()
}

const NEEDLES: &[&str] = &["${token}", "${peer.token}"];
