//! What the self-test says about each case: `HELD` counts only where a known-leaky bottle turned the same case red, on this
//! engine version and with this very suite.

use std::path::{Path, PathBuf};

use probe_spec::{Cell, Leak, Verdict};
use serde::{Deserialize, Serialize};

use crate::cli::BackendChoice;
use crate::error::SuiteError;
use crate::selection::is_control;

/// Version of self-test.json.
pub const SELF_TEST_VERSION: u32 = 1;

/// self-test.json: the kill matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// [`SELF_TEST_VERSION`].
    pub version: u32,
    /// Name and version of the engine.
    pub engine: String,
    /// Digest of the suite (its sources, catalogue and parts).
    pub digest: String,
    /// When it was last added to, RFC 3339.
    pub at: String,
    /// One entry a case, topology and leak.
    pub results: Vec<SelfTestResult>,
}

/// How one case fared in one known-leaky bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTestResult {
    /// The cell, with its leak.
    pub cell: Cell,
    /// The verdict: `breached` proves the case.
    pub verdict: Verdict,
    /// Its reason.
    pub reason: String,
}

impl SelfTestResult {
    /// Whether it is about the same case, topology and leak.
    fn is_same(&self, other: &Self) -> bool {
        self.cell == other.cell
    }
}

impl SelfTest {
    /// An empty one.
    pub fn new(engine: &str, digest: &str) -> Self {
        Self {
            version: SELF_TEST_VERSION,
            engine: engine.to_owned(),
            digest: digest.to_owned(),
            at: crate::clock::now(),
            results: Vec::new(),
        }
    }

    /// Takes newer results over older ones; others stay.
    pub fn merge(&mut self, newer: Vec<SelfTestResult>) {
        self.results.retain(|old| !newer.iter().any(|new| new.is_same(old)));
        self.results.extend(newer);
        self.results.sort_by(|one, other| one.cell.cmp(&other.cell));
        self.at = crate::clock::now();
    }

    /// Whether it turned this cell (with its leak) red.
    pub fn is_red(&self, cell: &Cell) -> bool {
        let mut results = self.results.iter();
        results.any(|result| result.cell == *cell && result.verdict == Verdict::Breached)
    }

    /// Reads the cached one of this engine and suite; `None` when there is none that can be read.
    pub fn load(engine: &str, digest: &str) -> Option<Self> {
        let text = std::fs::read(cache_file(engine, digest)).ok()?;
        let read: Self = serde_json::from_slice(&text).ok()?;
        (read.version == SELF_TEST_VERSION && read.engine == engine && read.digest == digest).then_some(read)
    }

    /// Writes it to the cache.
    pub fn store(&self) -> Result<PathBuf, SuiteError> {
        let path = cache_file(&self.engine, &self.digest);
        self.write(&path)?;
        Ok(path)
    }

    /// Writes it to a file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), SuiteError> {
        let failed = |source: std::io::Error| SuiteError::Path {
            path: path.to_owned(),
            source,
        };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
        std::fs::write(&unfinished, text)
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(failed)
    }
}

/// `$XDG_CACHE_HOME/bottle/self-test/ENGINE-DIGEST.json`.
fn cache_file(engine: &str, digest: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = cache.or_else(home).unwrap_or_else(std::env::temp_dir);
    let engine: String = engine
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let digest = &digest[..digest.len().min(16)];
    base.join("bottle")
        .join("self-test")
        .join(format!("{engine}-{digest}.json"))
}

/// What may be held, by the self-test.
pub struct Trust {
    self_test: Option<SelfTest>,
    engine: String,
}

impl Trust {
    /// From the cache.
    pub fn load(engine: &str, digest: &str) -> Self {
        Self {
            self_test: SelfTest::load(engine, digest),
            engine: engine.to_owned(),
        }
    }

    /// From a given self-test.
    #[cfg(test)]
    pub fn of(self_test: SelfTest) -> Self {
        Self {
            engine: self_test.engine.clone(),
            self_test: Some(self_test),
        }
    }

    /// Why this cell must not be called held; `None` when every known-leaky bottle that its case names turned it red.
    pub fn objection(&self, cell: &Cell) -> Option<String> {
        let refresh = "run `bottle-conform self-test --if-stale`";
        let Some(self_test) = &self.self_test else {
            return Some(format!(
                "nothing was seen, but there is no self-test of this suite on {} (or it is older than the suite): {refresh}.",
                self.engine
            ));
        };
        let results: Vec<&SelfTestResult> = self_test
            .results
            .iter()
            .filter(|result| {
                Cell {
                    leak: None,
                    ..result.cell.clone()
                } == Cell {
                    leak: None,
                    ..cell.clone()
                }
            })
            .collect();
        let controls = controls(cell);
        if controls.is_empty() {
            return Some(format!(
                "nothing was seen, but no known-leaky bottle of the backend {} proves the case.",
                cell.backend
            ));
        }
        controls.iter().find_map(|leak| {
            match results.iter().find(|result| result.cell.leak == Some(*leak)) {
                None => Some(format!("nothing was seen, but {leak} was never tried on this case: {refresh}.")),
                Some(result) if result.verdict != Verdict::Breached => Some(format!(
                    "nothing was seen, but {leak} did not turn this case red in the self-test ({}): {refresh} after the repair.",
                    result.reason
                )),
                Some(_) => None,
            }
        })
    }
}

fn controls(cell: &Cell) -> Vec<Leak> {
    let Ok(probe) = crate::selection::find(&cell.probe) else {
        return Vec::new();
    };
    let case = (probe.cases)().into_iter().find(|case| case.name == cell.case);
    let (Some(case), Some(backend)) = (case, BackendChoice::named(&cell.backend)) else {
        return Vec::new();
    };
    let all = case.controls.iter().copied();
    all.filter(|leak| is_control(&case, *leak, backend)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_cell() -> (Cell, Vec<Leak>) {
        let probe = probe_spec::CATALOGUE[0];
        let case = (probe.cases)().remove(0);
        let cell = Cell {
            probe: probe.id.to_owned(),
            case: case.name,
            backend: "docker".to_owned(),
            topology: "routed".to_owned(),
            leak: None,
        };
        (cell, case.controls)
    }

    fn results(cell: &Cell, controls: &[Leak], verdict: Verdict) -> Vec<SelfTestResult> {
        controls
            .iter()
            .map(|leak| SelfTestResult {
                cell: Cell {
                    leak: Some(*leak),
                    ..cell.clone()
                },
                verdict,
                reason: "why".to_owned(),
            })
            .collect()
    }

    #[test]
    fn nothing_is_held_without_a_green_self_test() {
        let (cell, controls) = first_cell();
        let none = Trust {
            self_test: None,
            engine: "docker 1".to_owned(),
        };
        assert!(none.objection(&cell).unwrap().contains("bottle-conform self-test"));
        let mut self_test = SelfTest::new("docker 1", "d");
        assert!(
            Trust::of(self_test.clone())
                .objection(&cell)
                .unwrap()
                .contains("never tried")
        );
        self_test.merge(results(&cell, &controls, Verdict::Held));
        assert!(
            Trust::of(self_test.clone())
                .objection(&cell)
                .unwrap()
                .contains("did not turn")
        );
        self_test.merge(results(&cell, &controls, Verdict::Breached));
        assert_eq!(self_test.results.len(), controls.len());
        assert!(self_test.results.iter().all(|result| self_test.is_red(&result.cell)));
        assert!(!self_test.is_red(&cell), "a cell without a leak is no proof");
        assert_eq!(Trust::of(self_test).objection(&cell), None);
    }
}
