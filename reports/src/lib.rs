//! Reports of a conformance run, pure: a fold over events.
//!
//! The runner emits [`Event`]s and knows nothing of formats; a [`Report`] is what the events amount to; renderers turn it into
//! a terminal table, JUnit and JSON. So an interrupted run, a run read back from its evidence file and a complete run are
//! reported by the same code, and what is missing shows: every expected cell is named before the first launch, and one that is
//! missing, judged twice or judged without being expected makes the run a failure of the suite.
#![warn(missing_docs)]

mod clean;
mod event;
mod fold;
mod json;
mod junit;
mod kills;
mod lines;
mod table;

pub use clean::{LINE_LIMIT, TEXT_LIMIT, clean, one_line};
pub use event::{BottleLaunched, CaseJudged, Ending, Event, ExpectedCell, RunStarted};
pub use fold::{CellReport, Problem, Report, Standing, Tally};
pub use json::{JSON_VERSION, JsonError, to_json};
pub use junit::{JunitError, to_junit};
pub use kills::to_kill_matrix;
pub use lines::{EvidenceError, EvidenceWriter, read_evidence};
pub use table::{TableStyle, to_table};
