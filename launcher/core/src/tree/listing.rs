//! What is in a tree, without its contents: enough to say what changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A directory. Its mode does not count as a change.
    Directory,
    /// A file.
    File {
        /// Whether it is a program.
        executable: bool,
        /// SHA-256 of its content.
        digest: [u8; 32],
    },
    /// A symbolic link.
    Link(PathBuf),
}

/// Everything in a tree, by its path in it.
pub type Listing = BTreeMap<PathBuf, Listed>;

/// A difference between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both, but not the same.
    Changed,
}

/// What one must do to `before` to come to `after`, by path. A directory counts only where it is empty or stands in for
/// something else: files tell of the others.
pub fn changes(before: &Listing, after: &Listing) -> BTreeMap<PathBuf, Change> {
    let mut changes = BTreeMap::new();
    for (path, old) in before {
        match after.get(path) {
            None if *old == Listed::Directory => {}
            None => {
                changes.insert(path.clone(), Change::Removed);
            }
            Some(new) if new != old => {
                changes.insert(path.clone(), Change::Changed);
            }
            Some(_) => {}
        }
    }
    for (path, new) in after {
        if !before.contains_key(path) && *new != Listed::Directory {
            changes.insert(path.clone(), Change::Added);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let file = |content: u8, executable| Listed::File {
            executable,
            digest: [content; 32],
        };
        let before: Listing = [
            ("same", file(1, false)),
            ("other", file(1, false)),
            ("mode", file(1, false)),
            ("gone", file(1, false)),
            ("dir", Listed::Directory),
            ("dir-gone", Listed::Directory),
            ("link", Listed::Link("a".into())),
        ]
        .map(|(path, listed)| (path.into(), listed))
        .into();
        let after: Listing = [
            ("same", file(1, false)),
            ("other", file(2, false)),
            ("mode", file(1, true)),
            ("new", file(3, false)),
            ("new-dir", Listed::Directory),
            ("dir", Listed::Directory),
            ("link", Listed::Link("b".into())),
        ]
        .map(|(path, listed)| (path.into(), listed))
        .into();
        let expected = [
            ("gone", Change::Removed),
            ("link", Change::Changed),
            ("mode", Change::Changed),
            ("new", Change::Added),
            ("other", Change::Changed),
        ];
        let found = changes(&before, &after);
        assert_eq!(found, expected.map(|(path, change)| (path.into(), change)).into());
        assert!(changes(&after, &after).is_empty());
    }
}
