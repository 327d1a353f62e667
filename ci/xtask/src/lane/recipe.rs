//! What the lane's machine is made of, and the digests by which its parts are cached.

use std::path::PathBuf;

use anyhow::Context;
use sha2::{Digest, Sha256};

/// Version of smolvm, and so of the package of the Python registry that has it.
pub const SMOLVM: &str = "1.32.2";

/// The lane's Debian.
pub const SUITE: &str = "bookworm";

/// Size of the machine's disk; what is not written takes no room.
pub const DISK: &str = "12G";

/// Counts up when the code that makes the parts changes what they hold.
const FORMAT: &str = "1";

const PACKAGES: &str = include_str!("../../../lane/packages.txt");

/// The first process of the machine, what runs a command in it, and what puts them on the disk.
const SCRIPTS: [&str; 3] = [
    include_str!("../../../lane/init.sh"),
    include_str!("../../../lane/run.sh"),
    include_str!("../../../lane/disk.sh"),
];

/// The packages, without comments.
pub fn packages() -> Vec<&'static str> {
    listed(PACKAGES)
}

fn listed(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Digest of the Debian tree: its suite and its packages, in any order.
pub fn debian_digest() -> String {
    let mut packages = packages();
    packages.sort_unstable();
    let mut parts = vec![FORMAT, SUITE];
    parts.extend(packages);
    digest(&parts)
}

/// Digest of the disk: the tree, smolvm and the scripts.
pub fn disk_digest() -> String {
    let debian = debian_digest();
    let mut parts = vec![FORMAT, &debian, SMOLVM, DISK];
    parts.extend(SCRIPTS);
    digest(&parts)
}

/// A digest in which the borders between the parts count.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())[..16].to_owned()
}

/// Where the parts are kept: the user's cache, which outlives a cleaned target directory and serves every work tree.
pub fn cache() -> anyhow::Result<PathBuf> {
    let root = match std::env::var_os("XDG_CACHE_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME").context("expected HOME or XDG_CACHE_HOME, found neither")?)
            .join(".cache"),
    };
    Ok(root.join("bottle-lane"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_packages() {
        assert_eq!(listed("# a\n\nb # c\n  d\n"), ["b", "d"]);
        assert!(packages().contains(&"docker.io"), "{:?}", packages());
        assert!(packages().iter().all(|name| !name.contains(' ')), "{:?}", packages());
    }

    #[test]
    fn a_digest_tells_where_one_part_ends() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["ab"]), digest(&["ab", ""]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
        assert_eq!(digest(&[]).len(), 16);
    }

    #[test]
    fn the_disk_and_the_tree_have_digests_of_their_own() {
        assert_ne!(debian_digest(), disk_digest());
    }
}
