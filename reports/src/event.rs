//! What happens in a run, as the reports are told.

use probe_spec::{Cell, Evidence, Judgement, Leak};
use serde::{Deserialize, Serialize};

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run begins; comes first and once.
    RunStarted(RunStarted),
    /// A bottle is up.
    BottleLaunched(BottleLaunched),
    /// A case has its verdict.
    CaseJudged(Box<CaseJudged>),
    /// Something that the reader must know and that belongs to no cell, for example a leftover of the teardown.
    Note {
        /// One sentence.
        text: String,
    },
    /// A waiver for expected cells has expired.
    WaiverExpired {
        /// Which, since when, and who answers for it.
        text: String,
    },
    /// The run ends; comes last and once.
    RunEnded {
        /// RFC 3339.
        at: String,
        /// How.
        ending: Ending,
    },
}

/// The beginning of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// Id of the run, as on the engine's labels.
    pub run: String,
    /// When, RFC 3339.
    pub at: String,
    /// Version of the suite.
    pub suite: String,
    /// SHA-256 over the catalogue and the embedded parts, in hex.
    pub digest: String,
    /// Name and version of the engine.
    pub engine: String,
    /// More about the machine: (name, value).
    pub facts: Vec<(String, String)>,
    /// Every cell that must be judged.
    pub expected: Vec<ExpectedCell>,
}

/// A cell that must be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedCell {
    /// Which.
    pub cell: Cell,
    /// Title of its probe.
    pub title: String,
    /// What to do when it is breached.
    pub on_breach: String,
}

/// A launched bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleLaunched {
    /// Its slug.
    pub slug: String,
    /// Its topology.
    pub topology: String,
    /// The control that was removed from it, for a known-leaky one.
    pub leak: Option<Leak>,
    /// How long the launch took, in milliseconds.
    pub took_ms: u64,
}

/// A case with its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseJudged {
    /// Which.
    pub cell: Cell,
    /// The verdict.
    pub judgement: Judgement,
    /// What it rests on; none where nothing was attempted (not applicable, or the suite failed before).
    pub evidence: Option<Evidence>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Everything was attempted.
    Complete,
    /// The operator stopped it.
    Interrupted,
    /// The suite itself could not go on, for this reason.
    Failed(String),
}
