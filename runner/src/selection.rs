//! Which probes, and which cells of the matrix.

use bottle_plan::Topology;
use globset::{GlobBuilder, GlobMatcher};
use probe_spec::{CaseSpec, Cell, Leak, Priority, Probe};

use crate::cli::{BackendChoice, Filter};

/// Likeness from which on an id is suggested (Jaro-Winkler, 0 to 1).
const LIKE_ENOUGH: f64 = 0.6;

/// A case with its probe.
#[derive(Clone)]
pub struct Case {
    /// The probe.
    pub probe: &'static Probe,
    /// The case.
    pub spec: CaseSpec,
}

/// A case on one kind of bottle.
#[derive(Clone)]
pub struct CaseCell {
    /// The case.
    pub case: Case,
    /// Where it is in the matrix.
    pub cell: Cell,
    /// What its guest is made by.
    pub backend: BackendChoice,
    /// Kind of bottle.
    pub topology: Topology,
    /// Why it does not apply there, by the backend's contract.
    pub not_applicable: Option<String>,
}

/// A selection that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// An id that is not in the catalogue.
    #[error("there is no probe `{given}`{}", nearest.as_ref().map(|id| format!("; the nearest is `{id}`")).unwrap_or_default())]
    Unknown {
        /// As typed.
        given: String,
        /// The most similar id.
        nearest: Option<String>,
    },
    /// A pattern that is no glob.
    #[error("`{given}` is no pattern: {problem}")]
    BadPattern {
        /// As typed.
        given: String,
        /// What is wrong.
        problem: String,
    },
}

/// The name of a topology in cells.
pub fn topology_name(topology: Topology) -> &'static str {
    match topology {
        Topology::Sealed => "sealed",
        Topology::Routed => "routed",
    }
}

/// Two letters of an id.
pub fn family(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

/// The probe with this id.
pub fn find(id: &str) -> Result<&'static Probe, SelectionError> {
    let probes = probe_spec::CATALOGUE;
    probes
        .iter()
        .copied()
        .find(|probe| probe.id.eq_ignore_ascii_case(id))
        .ok_or_else(|| SelectionError::Unknown {
            given: id.to_owned(),
            nearest: nearest(id, probes.iter().map(|probe| probe.id)),
        })
}

fn nearest<'a>(given: &str, ids: impl Iterator<Item = &'a str>) -> Option<String> {
    let given = given.to_ascii_uppercase();
    ids.map(|id| (strsim::jaro_winkler(&given, id), id))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, id)| id.to_owned())
}

/// A pattern of the command line: it is matched against the probe's id and against the cell's whole name; a pattern of a
/// cell's beginning matches the rest.
struct Pattern {
    whole: GlobMatcher,
    beginning: GlobMatcher,
}

impl Pattern {
    fn new(given: &str) -> Result<Self, SelectionError> {
        let build = |text: &str| {
            GlobBuilder::new(text)
                .case_insensitive(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| SelectionError::BadPattern {
                    given: given.to_owned(),
                    problem: error.kind().to_string(),
                })
        };
        Ok(Self {
            whole: build(given)?,
            beginning: build(&format!("{given}::*"))?,
        })
    }

    fn fits(&self, name: &str) -> bool {
        self.whole.is_match(name) || self.beginning.is_match(name)
    }
}

/// `PROBE::case::backend::topology`.
pub fn cell_name(cell: &Cell) -> String {
    format!("{}::{}::{}::{}", cell.probe, cell.case, cell.backend, cell.topology)
}

/// The cells that a filter chooses, in the catalogue's order, backend by backend and topology by topology. An id or pattern that chooses nothing is
/// an error, so that a typing mistake never passes as an empty run.
pub fn select(filter: &Filter) -> Result<Vec<CaseCell>, SelectionError> {
    let ids = filter
        .id
        .iter()
        .map(|id| find(id).map(|probe| probe.id))
        .collect::<Result<Vec<_>, _>>()?;
    let patterns = filter
        .patterns
        .iter()
        .map(|text| Pattern::new(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut used = vec![false; patterns.len()];
    let mut chosen = Vec::new();
    let columns = filter
        .backend
        .iter()
        .flat_map(|backend| filter.topology.iter().map(move |topology| (backend, topology)));
    for (backend, topology) in columns {
        for probe in probe_spec::CATALOGUE.iter().copied() {
            for spec in (probe.cases)() {
                let cell = Cell {
                    probe: probe.id.to_owned(),
                    case: spec.name.clone(),
                    backend: backend.name().to_owned(),
                    topology: topology_name(*topology).to_owned(),
                    leak: None,
                };
                let name = cell_name(&cell);
                let mut wanted = patterns.is_empty();
                for (pattern, used) in patterns.iter().zip(&mut used) {
                    if pattern.fits(&name) {
                        wanted = true;
                        *used = true;
                    }
                }
                // A pattern that fits something which another filter leaves out is no mistake.
                if wanted && fits_filter(filter, &ids, probe) {
                    let not_applicable =
                        probe_spec::not_applicable(&cell.backend, &cell.topology, &spec.needs).map(str::to_owned);
                    chosen.push(CaseCell {
                        case: Case { probe, spec },
                        cell,
                        backend: *backend,
                        topology: *topology,
                        not_applicable,
                    });
                }
            }
        }
    }
    match used.iter().position(|used| !used) {
        Some(at) => Err(SelectionError::Unknown {
            given: filter.patterns[at].clone(),
            nearest: nearest(&filter.patterns[at], probe_spec::CATALOGUE.iter().map(|probe| probe.id)),
        }),
        None => Ok(chosen),
    }
}

fn fits_filter(filter: &Filter, ids: &[&str], probe: &Probe) -> bool {
    let asked_for = !(filter.patterns.is_empty() && ids.is_empty());
    (ids.is_empty() || ids.contains(&probe.id))
        && (filter.family.is_empty()
            || filter
                .family
                .iter()
                .any(|one| one.eq_ignore_ascii_case(family(probe.id))))
        && (filter.tag.is_empty() || filter.tag.iter().any(|one| probe.tags.contains(&one.as_str())))
        && if filter.priority.is_empty() {
            asked_for || probe.priority != Priority::P2
        } else {
            filter.priority.contains(&probe.priority)
        }
}

/// The leaks that the cells name as controls, in the catalogue's order.
pub fn leaks_of(cells: &[CaseCell]) -> Vec<Leak> {
    Leak::ALL
        .iter()
        .copied()
        .filter(|leak| {
            cells
                .iter()
                .any(|cell| is_control(&cell.case.spec, *leak, cell.backend))
        })
        .collect()
}

/// Whether a case names a leak as its control, and the leak is built for bottles of this kind.
pub fn is_control(case: &CaseSpec, leak: Leak, backend: BackendChoice) -> bool {
    case.controls.contains(&leak) && bottle_leaky::is_built_for(leak, backend.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_that_applies_has_a_known_leaky_bottle_of_its_kind() {
        let filter = Filter {
            backend: vec![BackendChoice::Docker, BackendChoice::Smolmachines],
            topology: vec![Topology::Sealed, Topology::Routed],
            ..Filter::default()
        };
        for cell in select(&filter).unwrap() {
            let mut controls = cell.case.spec.controls.iter();
            assert!(
                cell.not_applicable.is_some() || controls.any(|leak| is_control(&cell.case.spec, *leak, cell.backend)),
                "{:?}",
                cell.cell
            );
        }
    }
}
