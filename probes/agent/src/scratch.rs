//! A directory of the agent's own, wherever it can write, removed when it is dropped.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where it is tried, in order.
const PLACES: [&str; 7] = ["/tmp", "/dev/shm", "/run", "/var/tmp", "/root", "/home", "/"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The directory.
pub struct Scratch(PathBuf);

impl Scratch {
    /// In the first place that can be written to; the last place's error when there is none.
    pub fn new() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in PLACES.into_iter().map(PathBuf::from).chain(std::env::current_dir()) {
            match Self::below(&place) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// In this place.
    pub fn below(place: &Path) -> io::Result<Self> {
        let name = format!(
            ".bottle-probe-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = place.join(name);
        DirBuilder::new().mode(0o755).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays behind is in a guest that is thrown away.
        let _ = fs::remove_dir_all(&self.0);
    }
}
