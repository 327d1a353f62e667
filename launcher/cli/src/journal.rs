//! What a bundle said, in a file of the bottle's state directory: for `logs` and `ca`, which run in other processes.
//!
//! It goes with the bottle. Nothing in it is secret: the bundle's events name tokens and never hold one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bottle_launch::record::Record;
use bottle_launch::{Observer, create_private};
use bottle_policy::{BundleEvent, DecisionVerdict};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::blocked::Blocked;

/// Name of the file.
pub const JOURNAL_FILE: &str = "events.jsonl";

/// Most bytes of it: a guest that asks for nothing but refusals must not fill the operator's disk.
const LIMIT: u64 = 64 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    /// An event of the bundle.
    Event {
        /// When it was heard, RFC 3339, UTC.
        time: String,
        /// It.
        event: BundleEvent,
    },
    /// A line of a daemon's log.
    Log {
        /// When it was heard, RFC 3339, UTC.
        time: String,
        /// It.
        line: String,
    },
    /// The file is full: what comes after is only counted.
    Full,
}

/// Writes the journal and counts what was blocked.
pub struct Journal {
    path: PathBuf,
    limit: u64,
    state: Mutex<State>,
    record: Option<Record>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    written: u64,
    is_over: bool,
    blocked: Blocked,
}

impl Journal {
    /// A journal in a bottle's directory, which need not be there before the first event.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join(JOURNAL_FILE),
            limit: LIMIT,
            state: Mutex::default(),
            record: None,
        }
    }

    /// Hands everything that the bundle says on to a record that outlives the bottle.
    pub fn recording(mut self, record: Option<Record>) -> Self {
        self.record = record;
        self
    }

    /// What was blocked so far.
    pub fn blocked(&self) -> Blocked {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocked
            .clone()
    }

    fn write(&self, entry: &Entry) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Event {
            event: BundleEvent::Decision(record),
            ..
        } = entry
            && record.verdict == DecisionVerdict::Deny
        {
            state.blocked.add(record);
        }
        if state.is_over {
            return;
        }
        if let Err(error) = state.append(&self.path, self.limit, entry) {
            // The bottle works without; the summary at its end is complete all the same.
            state.is_over = true;
            crate::failure::say(&format!("{}: {error}; no more events are written", self.path.display()));
        }
    }
}

impl State {
    fn append(&mut self, path: &Path, limit: u64, entry: &Entry) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create_private(path, 0o600)?),
        };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.written += line.len() as u64;
        if self.written > limit {
            self.is_over = true;
            line = serde_json::to_vec(&Entry::Full)?;
            line.push(b'\n');
        }
        file.write_all(&line)
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

impl Observer for Journal {
    fn line(&self, line: &[u8]) {
        if let Some(record) = &self.record {
            record.line(line);
        }
    }

    fn event(&self, event: &BundleEvent) {
        self.write(&Entry::Event {
            time: now(),
            event: event.clone(),
        });
    }

    fn log_line(&self, line: &str) {
        self.write(&Entry::Log {
            time: now(),
            line: line.to_owned(),
        });
    }
}

/// Opens a file of the state directory: a regular one of this user, through no link.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("expected a file of this user"));
    }
    Ok(file)
}

/// Reads a journal while it is being written.
pub struct Tail {
    reader: BufReader<File>,
    partial: Vec<u8>,
}

impl Tail {
    /// From the beginning.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            reader: BufReader::new(open(&directory.join(JOURNAL_FILE))?),
            partial: Vec::new(),
        })
    }

    /// The next whole line; `None`: there is none yet.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        // A line of an event is bounded; what is longer is none of ours.
        let read = (&mut self.reader).take(1 << 20).read_until(b'\n', &mut self.partial)?;
        if self.partial.ends_with(b"\n") {
            self.partial.pop();
            return Ok(Some(std::mem::take(&mut self.partial)));
        }
        if read == 1 << 20 {
            return Err(io::Error::other("expected lines of at most 1 MiB"));
        }
        Ok(None)
    }

    /// Whether nobody can write to it any more: it was removed with its bottle.
    pub fn is_removed(&self) -> io::Result<bool> {
        Ok(self.reader.get_ref().metadata()?.nlink() == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(host: &str) -> BundleEvent {
        let record = serde_json::json!({
            "event": "decision", "time": "2026-01-01T00:00:00.000Z", "bottle": "b", "daemon": "pipelock",
            "stage": "connect", "verdict": "deny", "rule": "host-not-allowed", "method": "CONNECT", "host": host,
            "port": 443, "address": null, "nonce": null, "told": null, "count": 1
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_the_file_is_private() {
        let room = tempfile::tempdir().unwrap();
        let journal = Journal::new(room.path());
        journal.event(&refusal("a.test"));
        journal.log_line("a line");
        let mut tail = Tail::open(room.path()).unwrap();
        let mut next = || serde_json::from_slice::<Entry>(&tail.next().unwrap().unwrap()).unwrap();
        assert!(matches!(next(), Entry::Event { event, .. } if event == refusal("a.test")));
        assert!(matches!(next(), Entry::Log { line, .. } if line == "a line"));
        assert_eq!(tail.next().unwrap(), None);
        assert!(!tail.is_removed().unwrap());
        let path = room.path().join(JOURNAL_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        journal.log_line("another");
        assert!(tail.next().unwrap().is_some());
        std::fs::remove_file(path).unwrap();
        assert!(tail.is_removed().unwrap());
    }

    #[test]
    fn links_are_followed_neither_way() {
        let room = tempfile::tempdir().unwrap();
        let target = room.path().join("target");
        std::fs::write(&target, "before").unwrap();
        std::os::unix::fs::symlink(&target, room.path().join(JOURNAL_FILE)).unwrap();
        Journal::new(room.path()).log_line("x");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "before");
        assert!(Tail::open(room.path()).is_err());
    }

    #[test]
    fn a_full_journal_says_so_and_goes_on_counting() {
        let room = tempfile::tempdir().unwrap();
        let journal = Journal {
            limit: 1000,
            ..Journal::new(room.path())
        };
        for _ in 0..50 {
            journal.event(&refusal("a.test"));
        }
        let text = std::fs::read_to_string(room.path().join(JOURNAL_FILE)).unwrap();
        assert!(text.len() < 1100 && text.ends_with("{\"entry\":\"full\"}\n"), "{text}");
        assert_eq!(journal.blocked().total(), 50);
    }
}
