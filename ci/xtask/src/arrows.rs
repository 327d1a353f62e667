//! Which crate may depend on which: bins -> effects -> pure (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::process::root;

/// Workspace crates that each crate may depend on, dev-dependencies left out. A crate that is not here may not exist.
const ALLOWED: &[(&str, &[&str])] = &[
    // Pure.
    ("bottle-policy", &[]),
    ("bottle-plan", &["bottle-policy"]),
    ("probe-spec", &[]),
    ("bottle-reports", &["probe-spec"]),
    // Effects.
    ("bottle-backend", &["bottle-plan"]),
    ("bottle-docker", &["bottle-backend", "bottle-plan"]),
    (
        "bottle-smolvm",
        &["bottle-backend", "bottle-docker", "bottle-plan", "bottle-policy"],
    ),
    ("bottle-launch", &["bottle-backend", "bottle-plan", "bottle-policy"]),
    ("bottle-wire", &["bottle-policy"]),
    ("bottle-pipelock", &["bottle-policy", "bottle-wire"]),
    ("bottle-egress", &["bottle-policy", "bottle-wire"]),
    // Inside guests and bundles.
    ("bottle-guest", &[]),
    (
        "bottle-bundle",
        &["bottle-egress", "bottle-pipelock", "bottle-policy", "bottle-wire"],
    ),
    ("bottle-probe", &["probe-spec"]),
    ("bottle-witness", &["probe-spec"]),
    ("bottle-leaky", &["bottle-plan", "bottle-policy", "probe-spec"]),
    // Programs.
    (
        "bottle",
        &[
            "bottle-backend",
            "bottle-docker",
            "bottle-launch",
            "bottle-plan",
            "bottle-policy",
            "bottle-smolvm",
        ],
    ),
    (
        "bottle-conform",
        &[
            "bottle-backend",
            "bottle-docker",
            "bottle-launch",
            "bottle-leaky",
            "bottle-plan",
            "bottle-policy",
            "bottle-reports",
            "bottle-smolvm",
            "probe-spec",
        ],
    ),
    ("bottle-bench", &["bottle-docker"]),
    ("xtask", &[]),
];

/// Crates that do no I/O, read no clock and are not async: what their dependencies must not have.
const PURE: &[&str] = &["bottle-policy", "bottle-plan", "probe-spec", "bottle-reports"];

/// What brings I/O or async along.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "bollard",
    "rustix",
    "socket2",
    "nix",
    "getrandom",
    "async-std",
    "mio",
];

/// Checks; prints what is wrong.
pub fn arrows() -> anyhow::Result<ExitCode> {
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .other_options(["--locked".to_owned()])
        .exec()?;
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ALLOWED
        .iter()
        .map(|(name, list)| (*name, list.iter().copied().collect()))
        .collect();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!(
                "{name}: not in the list of ci/xtask/src/arrows.rs; add it with what it may depend on"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Normal {
                continue;
            }
            if ours.contains(dependency.name.as_str()) && !allowed.contains(dependency.name.as_str()) {
                wrong.push(format!("{name} -> {}: this arrow is not allowed", dependency.name));
            }
            if PURE.contains(&name) && IMPURE.contains(&dependency.name.as_str()) {
                wrong.push(format!(
                    "{name} -> {}: a pure crate must not depend on it",
                    dependency.name
                ));
            }
            if name != "bottle-bundle" && dependency.features.iter().any(|feature| feature == "leaky") {
                wrong.push(format!(
                    "{name} -> {} with `leaky`: only the bundle's own feature may pass it on",
                    dependency.name
                ));
            }
        }
    }
    for line in &wrong {
        eprintln!("arrow: {line}");
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: arrows between crates go one way.
    #[test]
    fn crates_depend_only_on_what_they_may() {
        assert_eq!(arrows().expect("cargo metadata"), ExitCode::SUCCESS);
    }
}
