//! The evidence file: one JSON line a case.

use std::io::{self, BufRead, Write};

use probe_spec::{EVIDENCE_VERSION, Evidence};

/// Longest line that is read, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Writes evidence as it comes, each line flushed before the next case is judged: what was seen stays when the run dies.
pub struct EvidenceWriter<W> {
    out: W,
}

impl<W: Write> EvidenceWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes one line and flushes it.
    pub fn write(&mut self, evidence: &Evidence) -> io::Result<()> {
        let mut line = serde_json::to_vec(evidence)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

/// An evidence file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The file ends early or cannot be read.
    #[error("line {line}: {source}")]
    Io {
        /// Counted from 1.
        line: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not evidence.
    #[error("line {line}: expected one evidence document a line: {source}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// A line is of another version.
    #[error(
        "line {line}: expected evidence of version {EVIDENCE_VERSION}, found version {found}: judge it with the suite that made it"
    )]
    Version {
        /// Counted from 1.
        line: usize,
        /// What it says.
        found: u32,
    },
}

/// Reads an evidence file; empty lines are skipped.
pub fn read_evidence(mut source: impl BufRead) -> Result<Vec<Evidence>, EvidenceError> {
    let mut all = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let length = io::Read::take(&mut source, LONGEST)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| EvidenceError::Io { line, source })?;
        if length == 0 {
            break;
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let evidence: Evidence =
            serde_json::from_slice(text).map_err(|source| EvidenceError::Malformed { line, source })?;
        if evidence.version != EVIDENCE_VERSION {
            return Err(EvidenceError::Version {
                line,
                found: evidence.version,
            });
        }
        all.push(evidence);
    }
    Ok(all)
}
