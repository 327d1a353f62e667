//! Trees of files as archives: what goes into a guest, and what comes out of one.
//!
//! What comes out was written by an agent. It is looked at as a whole before the first byte of it is written here, and
//! then written without following a link, wherever a link may come from.

mod listing;
mod pack;
mod unpack;

use std::path::{Path, PathBuf};

pub use listing::{Change, Listed, Listing, changes};
pub use pack::pack;
pub use unpack::{UnpackOptions, Unpacked, list, unpack, unpack_file};

/// Why a tree is not packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system did not do something.
    #[error("{path}: {source}", path = .path.display())]
    System {
        /// About what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Something that is not taken.
    #[error("{path}: refused: {why}", path = .path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
}

impl TreeError {
    fn system(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { path, source }
    }

    fn refused(path: &Path, why: &'static str) -> Self {
        Self::Refused {
            path: path.to_owned(),
            why,
        }
    }
}

/// Whether a link at `at` (in the tree) to `target` stays in the tree, by the names alone.
fn stays_inside(at: &Path, target: &Path) -> bool {
    use std::path::Component;
    let mut depth = at.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_by_their_names() {
        for (at, target, expected) in [
            ("a", "b", true),
            ("a/b", "../c", true),
            ("a/b", "../../c", false),
            ("a", "..", false),
            ("a", "/etc/passwd", false),
            ("a", "b/../../c", false),
            ("a/b/c", "./../../x", true),
        ] {
            assert_eq!(
                stays_inside(Path::new(at), Path::new(target)),
                expected,
                "{at} -> {target}"
            );
        }
    }
}
