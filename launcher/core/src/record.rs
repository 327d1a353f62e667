//! What a bundle said, line by line as it came, in a file that outlives the bottle.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bottle_policy::chain::{self, Chain, ChainFault};
use bottle_policy::{BundleEvent, MAX_CONFIG_LINE};

use crate::events::Observer;
use crate::state;

/// Most bytes of a record: a guest that asks for nothing but refusals must not fill the operator's disk. What comes after is
/// missing, and the record does not verify.
const LIMIT: u64 = 256 << 20;

/// Writes a record. It has the bundle's chain, so that whoever keeps it cannot change it unseen: see [`read`].
pub struct Record {
    path: PathBuf,
    file: Mutex<Option<(File, u64)>>,
}

impl Record {
    /// Makes the file (0600, through no link); none may be there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = state::create_private(path, 0o600)?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Some((file, 0))),
        })
    }
}

impl Observer for Record {
    fn event(&self, _event: &BundleEvent) {}

    fn log_line(&self, _line: &str) {}

    fn line(&self, line: &[u8]) {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, written)) = &mut *guard else { return };
        *written += line.len() as u64 + 1;
        let outcome = if *written > LIMIT {
            Err(io::Error::other(format!(
                "it has {} MiB, which is the limit",
                LIMIT >> 20
            )))
        } else {
            file.write_all(&[line, b"\n"].concat())
        };
        if let Err(error) = outcome {
            // The bottle works without; that the record is cut off shows when it is verified.
            tracing::error!(path = %self.path.display(), %error, "no more is recorded");
            *guard = None;
        }
    }
}

/// Why a record is not whole.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not verify.
    #[error(transparent)]
    Chain(#[from] ChainFault),
}

/// Reads and verifies a record; its events and its chain.
///
/// # Errors
/// When it cannot be read, or is not what the bundle said, from the first to the last line.
pub fn read(path: &Path) -> Result<(Vec<BundleEvent>, Chain), RecordFault> {
    let lines = lines(path)?;
    let chain = chain::verify(lines.iter().map(Vec::as_slice))?;
    let events = lines.iter().filter_map(|line| serde_json::from_slice(line).ok());
    Ok((events.collect(), chain))
}

fn lines(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let longest = 4 * MAX_CONFIG_LINE as u64;
    let mut reader = BufReader::new(File::open(path)?.take(LIMIT));
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        (&mut reader).take(longest).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(lines);
        }
        if line.pop() != Some(b'\n') {
            return Err(io::Error::other(format!("line {} has no end", lines.len() + 1)));
        }
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_verifies_and_a_changed_file_does_not() {
        use std::os::unix::fs::PermissionsExt;
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("record");
        let record = Record::create(&path).unwrap();
        let mut chain = Chain::default();
        let event = BundleEvent::Failed {
            bottle: "b".to_owned(),
            reason: "r".to_owned(),
        };
        for event in [&event, &BundleEvent::Ended { lines: 1 }] {
            record.line(&chain.link(&serde_json::to_vec(event).unwrap()));
        }
        let (events, read_chain) = read(&path).unwrap();
        assert_eq!((events.len(), &events[0], &read_chain), (2, &event, &chain));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Record::create(&path).is_err(), "none is written over");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"r\"", "\"s\"")).unwrap();
        assert!(matches!(read(&path), Err(RecordFault::Chain(ChainFault::Broken(1)))));
        std::fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert!(matches!(read(&path), Err(RecordFault::Io(_))));
        let link = room.path().join("link");
        std::os::unix::fs::symlink(room.path().join("elsewhere"), &link).unwrap();
        assert!(Record::create(&link).is_err(), "links are not followed");
    }
}
