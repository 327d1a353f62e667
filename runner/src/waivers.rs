//! The waiver file: who answers for which breach or missing proof, and until when. What a waiver does is `probe_spec`'s.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bottle_reports::CaseJudged;
use probe_spec::{Cell, Date, Waiver, WaiverError, apply_waivers};
use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "waivers.yaml";

/// Why the waivers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WaiversError {
    /// The file cannot be read.
    #[error("{file}: {source}", file = .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no list of waivers.
    #[error("{file}:{line}:{column}: expected a list of waivers {{probe, owner, reason, expires: YYYY-MM-DD}}: {problem}",
        file = .file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// Counted from 1; 0 when unknown.
        line: u64,
        /// Counted from 1; 0 when unknown.
        column: u64,
        /// What was found.
        problem: String,
    },
    /// A waiver says too little or too much.
    #[error("{file}:{line}:{column}: {source}", file = .file.display())]
    Refused {
        /// Which.
        file: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What is wrong.
        source: WaiverError,
    },
    /// A waiver covers nothing that there is: a typing mistake, or the case is gone.
    #[error("{file}:{line}:{column}: no case of the catalogue is `{pattern}`: correct it or take the waiver out",
        file = .file.display())]
    CoversNothing {
        /// Which.
        file: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// Its globs of probe and case.
        pattern: String,
    },
    /// The machine's date is no date.
    #[error("the date of this machine cannot be used: {0}")]
    Clock(WaiverError),
}

/// The waivers of a run.
pub struct Waivers {
    all: Vec<Waiver>,
    today: Option<Date>,
}

impl Waivers {
    /// No waivers, for the self-test: a known-leaky bottle is never waived.
    pub fn none() -> Self {
        Self {
            all: Vec::new(),
            today: None,
        }
    }

    /// Reads the named file, or the default one when it is there.
    pub fn find(named: Option<&Path>) -> Result<Self, WaiversError> {
        let file = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Self::none()),
            Err(source) => {
                return Err(WaiversError::Unreadable {
                    file: file.to_owned(),
                    source,
                });
            }
        };
        let today = crate::clock::today().parse().map_err(WaiversError::Clock)?;
        Ok(Self {
            all: read(file, &text)?,
            today: Some(today),
        })
    }

    /// Waives a verdict when one of the waivers covers it today.
    pub fn apply(&self, case: &mut CaseJudged) {
        if let Some(today) = self.today {
            case.judgement = apply_waivers(&self.all, &case.cell, case.judgement.clone(), today).judgement;
        }
    }

    /// What is to be said of each waiver that has expired and is about one of these cells. It counts whether or not the cell
    /// still needs it: a list that nobody looks after is worth nothing.
    pub fn expired<'a>(&self, cells: impl Iterator<Item = &'a Cell> + Clone) -> Vec<String> {
        let Some(today) = self.today else { return Vec::new() };
        let expired = self.all.iter().filter(|waiver| waiver.expires < today);
        expired
            .filter(|waiver| cells.clone().any(|cell| waiver.covers(cell)))
            .map(|waiver| {
                format!(
                    "{}::{}::{}::{}, expired {}: {} has to renew it or take it out ({})",
                    waiver.probe,
                    waiver.case,
                    waiver.backend,
                    waiver.topology,
                    waiver.expires,
                    waiver.owner,
                    waiver.reason
                )
            })
            .collect()
    }
}

/// Reads a list of waivers; JSON is YAML as well.
fn read(file: &Path, text: &str) -> Result<Vec<Waiver>, WaiversError> {
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let listed: Vec<Spanned<Waiver>> = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        WaiversError::Malformed {
            file: file.to_owned(),
            line: place.map_or(0, |place| place.line()),
            column: place.map_or(0, |place| place.column()),
            problem: error.to_string(),
        }
    })?;
    let mut all = Vec::new();
    for listed in listed {
        let (line, column) = (listed.defined.line(), listed.defined.column());
        let waiver = listed.value;
        waiver.check().map_err(|source| WaiversError::Refused {
            file: file.to_owned(),
            line,
            column,
            source,
        })?;
        let is_known = probe_spec::CATALOGUE.iter().any(|probe| {
            probe_spec::glob(&waiver.probe, probe.id)
                && (probe.cases)()
                    .iter()
                    .any(|case| probe_spec::glob(&waiver.case, &case.name))
        });
        if !is_known {
            return Err(WaiversError::CoversNothing {
                file: file.to_owned(),
                line,
                column,
                pattern: format!("{}::{}", waiver.probe, waiver.case),
            });
        }
        all.push(waiver);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: &str = "- probe: LB-*\n  owner: net-team\n  reason: engine 20.10\n  expires: 2028-02-29\n";

    #[test]
    fn yaml_and_json_are_read() {
        let json = r#"[{"probe": "lb-01", "owner": "a", "reason": "b", "expires": "2028-02-29"}]"#;
        let file = Path::new("waivers.yaml");
        assert_eq!(read(file, GOOD).unwrap()[0].owner, "net-team");
        assert_eq!(read(file, json).unwrap()[0].case, "*");
        assert!(read(file, "[]").unwrap().is_empty());
    }

    #[rstest]
    #[case::no_list("probe: LB-01\n", "waivers.yaml:1:1: expected a list of waivers")]
    #[case::no_yaml("- probe: [\n", "waivers.yaml:1:10: expected a list of waivers")]
    #[case::unknown_key(&GOOD.replace("owner", "owners"), "waivers.yaml:2:3: expected a list of waivers")]
    #[case::no_day(&GOOD.replace("2028-02-29", "2027-02-29"), "expected a day as YYYY-MM-DD, found `2027-02-29`")]
    #[case::no_owner(&GOOD.replace("net-team", "' '"), "waivers.yaml:1:3: the waiver for `LB-*` names no owner")]
    #[case::too_wide(&GOOD.replace("LB-*", "'*'"), "waivers.yaml:1:3: the waiver for `*` covers every probe")]
    #[case::nothing(&GOOD.replace("LB-*", "LB-99"), "waivers.yaml:1:3: no case of the catalogue is `LB-99::*`")]
    fn refusals_name_the_place(#[case] text: &str, #[case] expected: &str) {
        let said = read(Path::new("waivers.yaml"), text).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}
