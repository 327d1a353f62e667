//! What the image is made of, and the digest that names it.

use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// Repository of the images; the tag is the recipe's digest.
pub const REPOSITORY: &str = "bottle-agent";

/// The Debian that it is.
pub const SUITE: &str = "bookworm";

/// What agents call. Names resolve, TLS is trusted, and a user has a name without any of them.
const PACKAGES: [&str; 11] = [
    "ca-certificates",
    "curl",
    "git",
    "jq",
    "less",
    "nodejs",
    "openssh-client",
    "procps",
    "python3",
    "python3-pip",
    "ripgrep",
];

/// Claude Code and npm, each with its digest.
pub const NODE_PACKAGE: &str = include_str!("../../agent/package.json");
/// The digests.
pub const NODE_LOCK: &str = include_str!("../../agent/package-lock.json");

/// Finishes the root, before it is packed.
pub const FINISH: &str = include_str!("../../agent/finish.sh");

/// Counts up when the code that makes the image changes what is in it.
const FORMAT: &str = "1";

/// What an image is made of.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Debian packages, sorted.
    pub packages: Vec<String>,
}

impl Recipe {
    /// The recommended one, with further packages.
    pub fn new(further: &[String]) -> Result<Self, Failure> {
        if let Some(bad) = further.iter().find(|name| !is_package(name)) {
            let expected = "the name of a Debian package (lower-case letters, digits, `+`, `-` and `.`)";
            return Err(Failure::Usage(format!("--package: expected {expected}, found `{bad}`")));
        }
        let mut packages: Vec<String> = PACKAGES.map(str::to_owned).into();
        packages.extend_from_slice(further);
        packages.sort_unstable();
        packages.dedup();
        Ok(Self { packages })
    }

    /// Its digest: the first half of a SHA-256 in which the borders between the parts count.
    pub fn tag(&self) -> String {
        let mut hash = Sha256::new();
        let parts = [FORMAT, SUITE, std::env::consts::ARCH, NODE_PACKAGE, NODE_LOCK, FINISH];
        for part in parts.into_iter().chain(self.packages.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A name of Debian's (policy 5.6.7); what else could stand there would be read as something else by apt.
fn is_package(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

/// Whether an image's name ends in the digest of a recipe.
pub fn is_digest(reference: &str) -> bool {
    let tag = reference
        .strip_prefix(REPOSITORY)
        .and_then(|rest| rest.strip_prefix(':'));
    tag.is_some_and(|tag| tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Repository and tag of a name that an operator gives.
pub fn name(text: &str) -> Result<(&str, &str), Failure> {
    // A colon before a slash is a registry's port.
    let (repository, tag) = match text.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (text, "latest"),
    };
    if repository.is_empty() || tag.is_empty() || text.contains('@') {
        let problem = format!("--tag: expected a name such as `agents:today`, found `{text}`");
        return Err(Failure::Usage(problem));
    }
    Ok((repository, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(further: &[&str]) -> Recipe {
        let further: Vec<String> = further.iter().map(|name| (*name).to_owned()).collect();
        Recipe::new(&further).unwrap()
    }

    #[test]
    fn a_recipe_has_one_digest_whatever_the_order() {
        assert_eq!(recipe(&["cargo", "zip"]).tag(), recipe(&["zip", "cargo", "curl"]).tag());
        assert_ne!(recipe(&["cargo"]).tag(), recipe(&[]).tag());
        assert!(is_digest(&format!("{REPOSITORY}:{}", recipe(&[]).tag())));
        assert!(!is_digest("bottle-agent:latest"));
        assert!(!is_digest("bottle-agents:0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn what_apt_would_read_as_something_else_is_no_package() {
        for bad in ["", "a", "-y", "a b", "a=1", "A", "../x", "a,b", "?x"] {
            Recipe::new(&[bad.to_owned()]).unwrap_err();
        }
        recipe(&["libstdc++-12-dev", "0ad"]);
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(name("agents").unwrap(), ("agents", "latest"));
        assert_eq!(name("agents:1").unwrap(), ("agents", "1"));
        assert_eq!(name("localhost:5000/a").unwrap(), ("localhost:5000/a", "latest"));
        for bad in ["", ":x", "a:", "a@sha256:0"] {
            name(bad).unwrap_err();
        }
    }

    #[test]
    fn every_package_of_the_node_registry_is_pinned_by_its_digest() {
        let lock: serde_json::Value = serde_json::from_str(NODE_LOCK).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.len() > 2);
        for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
            let is_bundled = package["inBundle"] == true;
            let is_pinned = package["integrity"]
                .as_str()
                .is_some_and(|text| text.starts_with("sha512-"));
            assert!(is_pinned || is_bundled, "{path}");
            assert!(
                package.get("resolved").is_none(),
                "{path} names the registry of one machine"
            );
        }
    }
}
