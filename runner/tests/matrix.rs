//! The conformance matrix as tests: every cell is one, so that `cargo test` and nextest list, filter and run it.
//!
//! The matrix runs once. Under `cargo test` all cells are in this one process. Under nextest each cell is a process of its own:
//! the first one runs the whole matrix under a file lock, in a directory named after `NEXTEST_RUN_ID`, and the others read its
//! report from there.
//!
//! A cell whose self-test is missing or red is inconclusive, which fails its test and says what refreshes it: the matrix attacks
//! bottles as shipped and nothing else, `cargo xtask test` makes the self-test before.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bottle_conform::cli::{BackendChoice, Filter};
use bottle_conform::selection::{CaseCell, cell_name, select};
use bottle_plan::Topology;
use libtest_mimic::{Arguments, Failed, Trial};

/// The real program, which cases that kill a launcher start.
const PROGRAM: &str = env!("CARGO_BIN_EXE_bottle-conform");

/// Age from which on the directory of another nextest run is removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Verdict and reason by the name of a cell, or why there are none.
type Verdicts = Result<BTreeMap<String, (String, String)>, String>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let all = Filter {
        backend: vec![BackendChoice::Docker],
        topology: vec![Topology::Sealed, Topology::Routed],
        ..Filter::default()
    };
    let cells = match select(&all) {
        Ok(cells) => cells,
        Err(error) => {
            eprintln!("matrix: {error}");
            return ExitCode::FAILURE;
        }
    };
    let run_id = std::env::var("NEXTEST_RUN_ID").ok();
    let mut filter = all;
    if run_id.is_none() {
        // One process has all chosen cells: no others need to be attempted.
        filter.patterns = chosen(&arguments, &cells);
    }
    let verdicts: Arc<OnceLock<Verdicts>> = Arc::default();
    let filter = Arc::new((filter, run_id));
    let trials = cells
        .iter()
        .map(|cell| trial(cell, filter.clone(), verdicts.clone()))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Names of the cells that the arguments choose.
fn chosen(arguments: &Arguments, cells: &[CaseCell]) -> Vec<String> {
    let fits = |name: &str, text: &str| {
        if arguments.exact {
            name == text
        } else {
            name.contains(text)
        }
    };
    let names = cells.iter().map(|cell| cell_name(&cell.cell));
    let wanted = names.filter(|name| {
        arguments.filter.as_ref().is_none_or(|text| fits(name, text))
            && !arguments.skip.iter().any(|text| fits(name, text))
    });
    wanted.collect()
}

/// Why a cell is not attempted here, when it is not.
fn left_out(cell: &CaseCell) -> Option<String> {
    if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() {
        return Some("left out: no engine, BOTTLE_TEST_NO_ENGINE is set".to_owned());
    }
    cell.not_applicable.clone()
}

fn trial(cell: &CaseCell, filter: Arc<(Filter, Option<String>)>, verdicts: Arc<OnceLock<Verdicts>>) -> Trial {
    let name = cell_name(&cell.cell);
    if let Some(reason) = left_out(cell) {
        return Trial::test(format!("{name} ({reason})"), || Ok(())).with_ignored_flag(true);
    }
    let wanted = name.clone();
    Trial::test(name, move || {
        let verdicts = verdicts.get_or_init(|| match &filter.1 {
            Some(run) => shared(run, &filter.0),
            None => run_into(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("matrix"), &filter.0),
        });
        match verdicts {
            Err(problem) => Err(Failed::from(problem.clone())),
            Ok(verdicts) => match verdicts.get(&wanted) {
                Some((verdict, _)) if matches!(verdict.as_str(), "held" | "residual" | "waived") => Ok(()),
                Some((verdict, reason)) => Err(Failed::from(format!("{verdict}: {reason}"))),
                None => Err(Failed::from("the matrix has no verdict of this cell")),
            },
        }
    })
}

/// The verdicts of this nextest run: whoever has the lock first runs the matrix.
fn shared(run: &str, filter: &Filter) -> Verdicts {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("matrix-{run}"));
    let told = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(&directory).map_err(told)?;
    let lock = File::create(directory.join("lock")).map_err(told)?;
    lock.lock().map_err(told)?;
    if directory.join("report.json").exists() {
        return read(&directory);
    }
    let failure = directory.join("failure");
    if let Ok(problem) = std::fs::read_to_string(&failure) {
        return Err(problem);
    }
    forget_old_runs(&directory);
    run_into(&directory, filter).inspect_err(|problem| {
        // The other processes need not fail at it one after another.
        let _ = std::fs::write(&failure, problem);
    })
}

/// Removes what earlier runs left beside this one's directory: each is some megabytes, and nobody reads it again.
fn forget_old_runs(own: &Path) {
    let siblings = own.parent().and_then(|parent| parent.read_dir().ok());
    for sibling in siblings.into_iter().flatten().flatten() {
        let name = sibling.file_name();
        let is_run = name.to_str().is_some_and(|name| name.starts_with("matrix-"));
        let age = sibling
            .metadata()
            .and_then(|data| data.modified())
            .map(|at| at.elapsed());
        let is_old = matches!(age, Ok(Ok(age)) if age > FORGOTTEN_AFTER);
        if is_run && is_old && sibling.path() != own {
            // What cannot be removed now is tried again by the next run.
            let _ = std::fs::remove_dir_all(sibling.path());
        }
    }
}

fn run_into(directory: &Path, filter: &Filter) -> Verdicts {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(bottle_conform::run_matrix(
        filter,
        directory,
        None,
        Some(PROGRAM.into()),
    ));
    outcome.map_err(|error| error.to_string())?;
    read(directory)
}

fn read(directory: &Path) -> Verdicts {
    let path = directory.join("report.json");
    let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let report: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let cells = report["cells"].as_array().into_iter().flatten();
    Ok(cells
        .map(|cell| {
            let judgement = &cell["judgement"];
            (
                text(&cell["name"]),
                (text(&judgement["verdict"]), text(&judgement["reason"])),
            )
        })
        .collect())
}
