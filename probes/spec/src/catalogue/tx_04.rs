//! TX-04: credential stores of the host.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-04",
    title: "credential stores of the host",
    requirement: "Credential files of the host's user MUST NOT be in the guest.",
    why: "Mounting a home directory for convenience brings every cloud, registry and repository credential of the operator along.",
    source: "Seen in: gh-aw-firewall credential-hiding (14 paths), nono test_sensitive_paths.",
    does: "Looks for the files in which common tools keep credentials, in every home directory.",
    on_breach: "Mount the directories that the task needs, not a home. Rotate what was found.",
    priority: Priority::P0,
    tags: &["token", "files", "credentials"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let stores = [
        ("aws", ".aws/credentials"),
        ("ssh", ".ssh/id_ed25519"),
        ("docker", ".docker/config.json"),
        ("kubernetes", ".kube/config"),
        ("netrc", ".netrc"),
        ("npm", ".npmrc"),
        ("github", ".config/gh/hosts.yml"),
        ("google-cloud", ".config/gcloud/credentials.db"),
        ("azure", ".azure/msal_token_cache.json"),
        ("cargo", ".cargo/credentials.toml"),
        ("pypi", ".pypirc"),
        ("git", ".git-credentials"),
        ("gnupg", ".gnupg/private-keys-v1.d"),
        ("browser", ".config/google-chrome/Default/Login Data"),
        ("keyring", ".local/share/keyrings/login.keyring"),
        ("agent", ".claude/.credentials.json"),
    ];
    stores
        .map(|(name, path)| {
            let action = Action::FindFiles {
                paths: ["~", "/root", "/home/agent", "/home/bottle"]
                    .map(|home| format!("{home}/{path}"))
                    .into(),
                marker: "/bottle-marker".to_owned(),
            };
            unseen(name, action).alive(&[Vantage::Guest]).controls(&[Leak::File])
        })
        .into()
}
