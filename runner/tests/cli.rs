//! The command line: exit statuses, suggestions, JSON.

use std::process::{Command, Output};

use rstest::rstest;

fn conform(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bottle-conform"))
        .args(args)
        .output()
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[rstest]
#[case::no_command(&[], 64)]
#[case::unknown_option(&["list", "--colour"], 64)]
#[case::unknown_id(&["explain", "LB-99"], 64)]
#[case::unknown_pattern(&["list", "XX-01"], 64)]
#[case::unknown_leak(&["self-test", "--leak", "K-HOSTNAT"], 64)]
#[case::missing_evidence(&["judge", "/nonexistent/evidence.jsonl"], 64)]
#[case::nothing_chosen(&["list", "--tag", "no-such-tag"], 4)]
#[case::help(&["--help"], 0)]
#[case::list(&["list", "LB-*"], 0)]
fn exit_statuses(#[case] args: &[&str], #[case] expected: i32) {
    let output = conform(args);
    assert_eq!(code(&output), Some(expected), "{}", text(&output.stderr));
}

#[test]
fn an_unknown_id_suggests_the_nearest() {
    let output = conform(&["explain", "LB-011"]);
    assert!(
        text(&output.stderr).contains("the nearest is `LB-01`"),
        "{}",
        text(&output.stderr)
    );
    let output = conform(&["self-test", "--leak", "K-HOSTNAT"]);
    assert!(text(&output.stderr).contains("K-HOSTNET"), "{}", text(&output.stderr));
}

#[test]
fn no_engine_is_69_and_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_bottle-conform"))
        .args(["run", "LB-01", "--out"])
        .arg(tempfile::tempdir().unwrap().path())
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(69), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(
        said.contains("DOCKER_HOST") || said.contains("cargo xtask build"),
        "{said}"
    );
}

#[test]
fn list_as_json_names_every_cell_once() {
    let output = conform(&["list", "--json"]);
    let cells: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut names: Vec<&str> = cells.iter().filter_map(|cell| cell["name"].as_str()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), cells.len()), (all, all));
    assert!(
        cells
            .iter()
            .all(|cell| !cell["controls"].as_array().unwrap().is_empty())
    );
}

#[test]
fn filters_narrow() {
    let count = |args: &[&str]| {
        let mut all = vec!["list", "--json"];
        all.extend(args);
        serde_json::from_slice::<Vec<serde_json::Value>>(&conform(&all).stdout)
            .unwrap()
            .len()
    };
    let both = count(&["LB-01"]);
    assert_eq!(count(&["LB-01", "--topology", "sealed"]) * 2, both);
    assert_eq!(count(&["--id", "LB-01"]), both);
    assert_eq!(count(&["lb-01::*::docker::routed"]) * 2, both);
    assert!(count(&["--family", "LB"]) > both);
    assert_eq!(count(&["LB-01", "--priority", "P1"]), 0);
}

#[test]
fn explain_says_what_why_and_what_proves_it() {
    let said = text(&conform(&["explain", "lb-01"]).stdout);
    for part in [
        "requirement:",
        "why:",
        "source:",
        "what it does:",
        "when breached:",
        "K-HOSTNET",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let json: serde_json::Value = serde_json::from_slice(&conform(&["explain", "LB-01", "--json"]).stdout).unwrap();
    assert_eq!(json["id"], "LB-01");
}

#[test]
fn judge_refuses_a_file_that_is_no_evidence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("evidence.jsonl");
    std::fs::write(&path, "{}\n").unwrap();
    let output = conform(&["judge", path.to_str().unwrap()]);
    assert_eq!(code(&output), Some(64));
    assert!(text(&output.stderr).contains("line 1"), "{}", text(&output.stderr));
}

/// A sample of the catalogue: when a probe of it changes, these show how it reads.
#[rstest]
#[case::host_loopback("explain-lb-01", &["explain", "LB-01"])]
#[case::promised_refusals("explain-px-01", &["explain", "PX-01"])]
#[case::probes("list-probes", &["list", "LB-01", "TX-12"])]
#[case::cells("list-cells", &["list", "LB-01", "--topology", "sealed", "--verbose"])]
fn samples(#[case] name: &str, #[case] args: &[&str]) {
    let output = conform(args);
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    insta::assert_snapshot!(name, text(&output.stdout));
}

#[test]
fn every_probe_is_explained_whole() {
    let probes: Vec<serde_json::Value> = serde_json::from_slice(&conform(&["list", "--json"]).stdout).unwrap();
    let mut ids: Vec<&str> = probes.iter().map(|cell| cell["id"].as_str().unwrap()).collect();
    ids.dedup();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let output = conform(&["explain", id, "--json"]);
        let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for field in ["title", "requirement", "why", "source", "does", "on_breach"] {
            assert!(!explained[field].as_str().unwrap().is_empty(), "{id} has no {field}");
        }
        let known: Vec<&str> = explained["leaks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|leak| leak["name"].as_str().unwrap())
            .collect();
        for case in explained["cases"].as_array().unwrap() {
            for leak in case["controls"].as_array().unwrap() {
                assert!(known.contains(&leak.as_str().unwrap()), "{id}: {leak} is explained");
            }
        }
    }
}

#[rstest]
#[case::unknown_key("- probe: LB-01\n  owners: a\n", "given.yaml:2:3: expected a list of waivers")]
#[case::no_day(
    "[{\"probe\": \"LB-01\", \"owner\": \"a\", \"reason\": \"b\", \"expires\": \"soon\"}]",
    "given.yaml:1:"
)]
fn waivers_that_are_not_understood_are_64_with_the_place(#[case] waivers: &str, #[case] expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("given.yaml"), waivers).unwrap();
    // Also where no engine is: files are read first.
    let output = Command::new(env!("CARGO_BIN_EXE_bottle-conform"))
        .args(["run", "LB-01", "--waivers", "given.yaml"])
        .current_dir(directory.path())
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(64), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
}
