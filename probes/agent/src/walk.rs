//! Walks below directories, without following symbolic links.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::notes::Run;

/// Made by the kernel, not by programs: looked at by cases of their own.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

/// Calls `visit` with every entry below `roots` (and the roots themselves). False when the case's time was over before the end.
pub fn walk(run: &Run, roots: &[PathBuf], mut visit: impl FnMut(&Path, &Metadata)) -> bool {
    let mut waiting: Vec<PathBuf> = roots.to_vec();
    // A directory can be reached in two ways when roots lie in one another or are mounted twice.
    let mut seen = HashSet::new();
    while let Some(path) = waiting.pop() {
        if run.is_over() {
            return false;
        }
        if KERNEL.iter().any(|kernel| path.starts_with(kernel)) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        visit(&path, &metadata);
        if metadata.is_dir() && seen.insert((metadata.dev(), metadata.ino())) {
            // Not being allowed to read a directory is how the guest keeps it from the agent.
            waiting.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
    }
    true
}

/// Every home directory: of the environment, of `/etc/passwd`, and below `/home`.
pub fn homes() -> Vec<PathBuf> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd
        .lines()
        .filter_map(|line| line.split(':').nth(5))
        .filter(|home| home.len() > 1)
        .map(PathBuf::from);
    let below = fs::read_dir("/home")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let own = std::env::var_os("HOME").map(PathBuf::from);
    let mut homes: Vec<PathBuf> = listed.chain(below).chain(own).chain([PathBuf::from("/root")]).collect();
    // System users have directories such as /bin: those are no homes.
    homes.retain(|home| {
        home.is_dir()
            && !["/", "/bin", "/sbin", "/usr/bin", "/usr/sbin", "/dev"]
                .iter()
                .any(|no| home == Path::new(no))
    });
    homes.sort_unstable();
    homes.dedup();
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed_and_time_ends_a_walk() {
        let directory = tempfile::tempdir().expect("makes one");
        fs::create_dir(directory.path().join("a")).expect("makes one");
        fs::write(directory.path().join("a/file"), "x").expect("writes");
        std::os::unix::fs::symlink("/", directory.path().join("link")).expect("links");
        let roots = [directory.path().to_owned(), directory.path().join("a")];
        let mut files = 0;
        assert!(walk(&crate::notes::tests::run(5000), &roots, |_, metadata| files +=
            u32::from(metadata.is_file())));
        assert_eq!(files, 1);
        assert!(!walk(&crate::notes::tests::run(0), &roots, |_, _| {}));
    }
}
