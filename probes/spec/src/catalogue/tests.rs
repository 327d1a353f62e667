use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{Action, CaseSpec, How, Leak, NEEDS, Oracle, Priority, RunnerCase, Vantage, contract, world};

/// The probes that the first complete matrix is made of.
const REQUIRED: &str = "LB-01 LB-02 LB-03 LB-04 LB-05 LB-06 LB-07 LB-08 LB-09 EG-01 EG-02 EG-04 EG-06 EG-08 EG-09 EG-10 \
    EG-12 EG-13 EG-15 EG-16 EG-17 XB-01 XB-02 XB-03 XB-04 XB-05 XB-06 XB-09 XB-10 XB-13 XB-14 PX-01 PX-02 PX-03 PX-04 \
    PX-05 PX-06 PX-07 PX-08 PX-10 PX-12 PX-13 PX-15 PX-16 PX-17 PX-21 PX-24 PX-26 TX-01 TX-02 TX-03 TX-04 TX-05 TX-07 \
    TX-12 TX-18 HE-01 HE-02 HE-03 HE-05 HE-15 LC-01 LC-02 LC-05";

fn all_cases() -> Vec<(&'static Probe, CaseSpec)> {
    CATALOGUE
        .iter()
        .flat_map(|&probe| (probe.cases)().into_iter().map(move |case| (probe, case)))
        .collect()
}

/// The actions of a case, in the order in which they run.
fn actions(case: &CaseSpec) -> Vec<&Action> {
    match &case.how {
        How::Agent(action) | How::Hammer { action, .. } => vec![action],
        How::Runner(RunnerCase::PeerThenSelf { peer, own }) => vec![peer, own],
        How::Runner(_) => Vec::new(),
    }
}

fn text(action: &Action) -> String {
    serde_json::to_string(action).unwrap()
}

#[test]
fn ids_are_unique_ordered_and_complete() {
    let ids: Vec<&str> = CATALOGUE.iter().map(|probe| probe.id).collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len());
    let required: BTreeSet<&str> = REQUIRED.split_whitespace().collect();
    assert_eq!(required.difference(&unique).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(probe("lb-01").map(|probe| probe.id), Some("LB-01"));
    assert!(probe("LB-99").is_none());
}

#[test]
fn every_file_is_registered() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catalogue");
    let mut files: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["mod.rs", "make.rs", "tests.rs"].contains(&name.as_str()))
        .collect();
    let mut registered: Vec<String> = CATALOGUE
        .iter()
        .map(|probe| format!("{}.rs", probe.id.to_lowercase().replace('-', "_")))
        .collect();
    files.sort();
    registered.sort();
    assert_eq!(files, registered);
}

#[test]
fn every_probe_explains_itself() {
    for probe in CATALOGUE {
        let id = probe.id;
        assert!(probe.requirement.contains("MUST"), "{id}");
        let inner = probe.requirement.trim_end_matches('.');
        assert!(
            probe.requirement.ends_with('.') && !inner.contains(". "),
            "{id}: one sentence"
        );
        for field in [probe.why, probe.source, probe.does, probe.on_breach] {
            assert!(field.len() > 30 && field.ends_with('.'), "{id}: `{field}`");
        }
        assert!(!probe.title.is_empty() && !probe.title.ends_with('.'), "{id}");
        assert!(!probe.tags.is_empty(), "{id}");
        assert!(probe.priority <= Priority::P1, "{id}");
    }
}

#[test]
fn case_names_are_kebab_case_and_unique() {
    for probe in CATALOGUE {
        let cases = (probe.cases)();
        assert!(!cases.is_empty(), "{}", probe.id);
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len(), "{}", probe.id);
        for name in names {
            let is_kebab = name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(
                is_kebab && !name.starts_with('-') && !name.ends_with('-'),
                "{} {name}",
                probe.id
            );
        }
    }
}

#[test]
fn cases_differ_in_what_they_do() {
    for probe in CATALOGUE {
        let ways: BTreeSet<String> = (probe.cases)()
            .iter()
            .map(|case| format!("{:?} {:?} {:?}", case.how, case.oracle, case.controls))
            .collect();
        assert_eq!(ways.len(), (probe.cases)().len(), "{}", probe.id);
    }
}

#[test]
fn every_case_has_a_witness_a_control_and_known_needs() {
    for (probe, case) in all_cases() {
        let name = format!("{} {}", probe.id, case.name);
        assert!(!case.alive.is_empty(), "{name}: silence of nobody proves nothing");
        assert!(!case.controls.is_empty(), "{name}: nothing shows that it can turn red");
        for need in &case.needs {
            assert!(NEEDS.iter().any(|(known, _)| known == need), "{name} needs {need}");
        }
        if let Oracle::Facts(facts) = &case.oracle {
            assert!(
                !facts.is_empty() && case.alive.contains(&Vantage::HostProcess),
                "{name}"
            );
        }
    }
}

#[test]
fn every_leak_is_caught() {
    let caught: BTreeSet<Leak> = all_cases().into_iter().flat_map(|(_, case)| case.controls).collect();
    let missed: Vec<&Leak> = Leak::ALL.iter().filter(|leak| !caught.contains(leak)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn every_case_applies_somewhere() {
    for (probe, case) in all_cases() {
        let columns = ["docker", "smolmachines"].into_iter();
        let applies = columns
            .flat_map(|backend| [(backend, "sealed"), (backend, "routed")])
            .any(|(backend, topology)| crate::not_applicable(backend, topology, &case.needs).is_none());
        assert!(applies, "{} {}", probe.id, case.name);
    }
    assert!(contract("docker", "sealed").next().is_some());
}

/// A row of the catalogue of record: what was planned for a probe.
#[derive(serde::Deserialize)]
struct Planned {
    id: String,
    priority: Priority,
    backends: String,
    estimate: usize,
    controls: Vec<String>,
}

/// Probes one of whose planned controls is not used, with the reason.
const OTHER_CONTROLS: &[(&str, &str, &str)] = &[
    (
        "EG-15",
        "K-CAPS",
        "with a way out the tampering need not succeed; K-BRIDGE alone turns every case red",
    ),
    (
        "LB-11",
        "K-VSOCK",
        "smolvm's own ports and those of the bottle's sockets are there in every machine: K-SECCOMP0 alone opens them",
    ),
    (
        "XB-05",
        "K-GWHOST",
        "K-PUB0 brings the network on which the host is reachable along",
    ),
];

#[test]
fn the_catalogue_of_record_is_followed() {
    let planned: Vec<Planned> = serde_json::from_str(include_str!("../../catalogue.json")).unwrap();
    for probe in CATALOGUE {
        let id = probe.id;
        let row = planned
            .iter()
            .find(|row| row.id == id)
            .unwrap_or_else(|| panic!("{id} is not planned"));
        assert_eq!(row.priority, probe.priority, "{id}");
        for case in (probe.cases)() {
            let is_for_machines = case.needs.contains(&"machine");
            assert_eq!(is_for_machines, row.backends == "S", "{id} {}", case.name);
        }
        let used: BTreeSet<String> = (probe.cases)()
            .iter()
            .flat_map(|case| case.controls.iter().map(Leak::to_string).collect::<Vec<_>>())
            .collect();
        for control in &row.controls {
            let is_excused = OTHER_CONTROLS
                .iter()
                .any(|(other, leak, _)| *other == id && leak == control);
            assert!(
                used.contains(control) || is_excused,
                "{id} has no case that {control} turns red"
            );
        }
        let count = (probe.cases)().len();
        let is_grouped = ["TX-03", "HE-05"].contains(&id);
        assert!(
            2 * count >= row.estimate || is_grouped,
            "{id}: {count} of {}",
            row.estimate
        );
    }
}

/// The keys between `${` and `}`.
fn keys(text: &str) -> Vec<&str> {
    text.split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(key, _)| key)
        .collect()
}

#[test]
fn only_known_keys_are_used() {
    let known: BTreeSet<&str> = world::KEYS.iter().map(|(key, _)| *key).collect();
    assert_eq!(known.len(), world::KEYS.len());
    for (probe, case) in all_cases() {
        for action in actions(&case) {
            for key in keys(&text(action)) {
                assert!(known.contains(key), "{} {}: ${{{key}}}", probe.id, case.name);
            }
        }
    }
}

#[test]
fn what_is_sent_carries_a_nonce_and_what_a_peer_sends_does_not() {
    for (probe, case) in all_cases() {
        let name = format!("{} {}", probe.id, case.name);
        if let How::Runner(RunnerCase::PeerThenSelf { peer, .. }) = &case.how {
            assert!(!text(peer).contains("{nonce}") && text(peer).contains("{ok}"), "{name}");
        }
        let own = match actions(&case).last() {
            // What is found, and not what is seen, decides.
            Some(_)
                if case
                    .alive
                    .iter()
                    .all(|at| matches!(at, Vantage::Guest | Vantage::HostProcess)) =>
            {
                continue;
            }
            Some(action) => text(action),
            None => continue,
        };
        assert!(
            own.contains("{nonce}") || own.contains("\"answer_is_finding\":true"),
            "{name}"
        );
    }
}

/// A promised refusal is found by the nonce, which must be in the field that decision records copy.
#[test]
fn promised_decisions_can_be_found() {
    for (probe, case) in all_cases().into_iter().filter(|(_, case)| case.decision) {
        let own = actions(&case).last().map(|action| text(action)).unwrap();
        let in_text = own.contains("x-bottle-nonce: {nonce}");
        let in_pair = own.contains("[\"x-bottle-nonce\",\"{nonce}\"]");
        assert!(in_text || in_pair, "{} {}", probe.id, case.name);
        assert!(
            own.contains("\"to\":\"proxy\""),
            "{} {}: only the own proxy promises",
            probe.id,
            case.name
        );
    }
}

/// Secrets may arrive nowhere; so a case whose request is allowed must look for the secret, not for the nonce.
#[test]
fn allowed_requests_are_judged_by_secret() {
    for (probe, case) in all_cases() {
        let only_origin = case.alive == [Vantage::Origin];
        assert!(
            !only_origin || case.oracle == Oracle::SecretUnseen,
            "{} {}",
            probe.id,
            case.name
        );
    }
}

#[test]
fn actions_survive_their_document() {
    for (probe, case) in all_cases() {
        for action in actions(&case) {
            let read: Action = serde_json::from_str(&text(action)).unwrap();
            assert_eq!(&read, action, "{} {}", probe.id, case.name);
        }
    }
}

/// The estimates of the catalogue are no duty, but a family that falls far below them has lost cases.
#[test]
fn families_have_their_cases() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (probe, _) in all_cases() {
        *counts.entry(&probe.id[..2]).or_default() += 1;
    }
    for (family, least) in [
        ("LB", 50),
        ("EG", 58),
        ("PX", 120),
        ("XB", 38),
        ("TX", 40),
        ("HE", 65),
        ("LC", 15),
    ] {
        assert!(counts[family] >= least, "{family}: {} cases", counts[family]);
    }
}
