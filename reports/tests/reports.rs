//! Renderings of a small run, hostile guest text, and defects of a run.

use bottle_reports::*;
use probe_spec::*;
use proptest::prelude::*;
use rstest::rstest;

fn nonce(byte: u8) -> Nonce {
    Nonce::from_bytes([byte; 16])
}

fn cell(probe: &str, case: &str, topology: &str) -> Cell {
    Cell {
        probe: probe.to_owned(),
        case: case.to_owned(),
        backend: "docker".to_owned(),
        topology: topology.to_owned(),
        leak: None,
    }
}

fn evidence(cell: Cell, text: &str) -> Evidence {
    Evidence {
        version: EVIDENCE_VERSION,
        expectation: Expectation {
            oracle: Oracle::Unseen,
            alive: vec![Vantage::InternetTcp],
            decision: false,
        },
        nonce: nonce(1),
        secrets: Vec::new(),
        attempt: Some(Attempt {
            case: cell.case.clone(),
            nonce: nonce(1),
            issued: true,
            trace: vec![text.to_owned()],
            findings: Vec::new(),
            marker_found: None,
        }),
        faults: Vec::new(),
        agent: AgentEnd::Clean,
        liveness: vec![Liveness {
            at: Vantage::InternetTcp,
            before: true,
            after: false,
        }],
        settled: true,
        sightings: vec![Sighting {
            at: Vantage::InternetTcp,
            nonces: vec![nonce(1)],
            from: "10.0.0.2:4".to_owned(),
            to: "203.0.113.99:80".to_owned(),
            what: text.to_owned(),
            at_ms: 3,
        }],
        decisions: Vec::new(),
        facts: vec![("Seccomp".to_owned(), text.to_owned())],
        started: "2026-01-02T03:04:05Z".to_owned(),
        took_ms: 1500,
        cell,
    }
}

fn judged(cell: &Cell, verdict: Verdict, text: &str) -> Event {
    let bare = verdict == Verdict::NotApplicable;
    Event::CaseJudged(Box::new(CaseJudged {
        cell: cell.clone(),
        judgement: Judgement {
            verdict,
            reason: text.to_owned(),
        },
        evidence: (!bare).then(|| evidence(cell.clone(), text)),
    }))
}

fn started(cells: &[Cell]) -> Event {
    Event::RunStarted(RunStarted {
        run: "r1".to_owned(),
        at: "2026-01-02T03:04:00Z".to_owned(),
        suite: "0.1.0".to_owned(),
        digest: "00".to_owned(),
        engine: "docker 20.10.24".to_owned(),
        facts: vec![("kernel".to_owned(), "5.10".to_owned())],
        expected: cells
            .iter()
            .map(|cell| ExpectedCell {
                cell: cell.clone(),
                title: "direct tcp".to_owned(),
                on_breach: "look at the network".to_owned(),
            })
            .collect(),
    })
}

fn ended() -> Event {
    Event::RunEnded {
        at: "2026-01-02T03:05:00Z".to_owned(),
        ending: Ending::Complete,
    }
}

/// A run with one cell of every verdict.
fn mixed(text: &str) -> Report {
    let verdicts = [
        Verdict::Held,
        Verdict::Breached,
        Verdict::Inconclusive,
        Verdict::Error,
        Verdict::NotApplicable,
        Verdict::Residual,
        Verdict::Waived,
    ];
    let cells: Vec<Cell> = (0..verdicts.len())
        .map(|n| {
            cell(
                if n < 3 { "EG-01" } else { "LB-02" },
                &format!("case-{n}"),
                if n % 2 == 0 { "sealed" } else { "routed" },
            )
        })
        .collect();
    let mut events = vec![started(&cells)];
    events.extend(
        cells
            .iter()
            .zip(verdicts)
            .map(|(cell, verdict)| judged(cell, verdict, text)),
    );
    events.push(ended());
    Report::of(events)
}

#[test]
fn the_plain_table() {
    insta::assert_snapshot!(to_table(&mixed("because"), TableStyle::default()));
}

#[test]
fn the_terminal_table() {
    let style = TableStyle {
        terminal: true,
        width: Some(80),
        verbose: true,
    };
    let text = to_table(&mixed("because"), style);
    assert!(text.contains('│'));
    assert!(
        text.contains("HELD EG-01::case-0::docker::sealed"),
        "verbose lists held cells"
    );
}

#[test]
fn junit_maps_every_verdict() {
    let xml = to_junit(&mixed("because")).unwrap();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let count = |tag: &str| document.descendants().filter(|node| node.has_tag_name(tag)).count();
    assert_eq!(
        (count("testcase"), count("failure"), count("error"), count("skipped")),
        (7, 1, 2, 2)
    );
    let root = document.root_element();
    assert_eq!(
        (
            root.attribute("tests"),
            root.attribute("failures"),
            root.attribute("errors")
        ),
        (Some("7"), Some("1"), Some("2"))
    );
    let suites: Vec<_> = document
        .descendants()
        .filter_map(|n| n.has_tag_name("testsuite").then(|| n.attribute("name"))?)
        .collect();
    assert_eq!(
        suites,
        [
            "EG.docker.routed",
            "EG.docker.sealed",
            "LB.docker.routed",
            "LB.docker.sealed"
        ]
    );
    let case = document
        .descendants()
        .find(|n| n.attribute("name") == Some("EG-01::case-1::docker::routed"))
        .unwrap();
    assert_eq!(case.attribute("time"), Some("1.500"));
    assert!(case.attribute("timestamp").is_some());
    assert!(case.descendants().any(|n| n.attribute("name") == Some("sighting")));
}

#[rstest]
#[case::cdata("]]>&lt;<script>\"'")]
#[case::nul("a\0b")]
#[case::escape("\u{1b}]0;title\u{7}\u{1b}[2J")]
#[case::non_characters("\u{FFFE}\u{FFFF}\u{1FFFE}")]
#[case::invalid_utf8(&String::from_utf8_lossy(b"\xff\xfe\xc0\x80"))]
#[case::newlines("a\r\nb\u{2028}c")]
#[case::huge(&"<\0]]>".repeat(1 << 18))]
fn hostile_guest_text_stays_text(#[case] text: &str) {
    let report = mixed(text);
    let xml = to_junit(&report).unwrap();
    assert!(xml.len() < 512 * 1024, "{}", xml.len());
    roxmltree::Document::parse(&xml).unwrap();
    let table = to_table(&report, TableStyle::default());
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table:?}");
    assert!(table.len() < 64 * 1024);
    let json: serde_json::Value = serde_json::from_str(&to_json(&report, 1).unwrap()).unwrap();
    assert_eq!(json["version"], JSON_VERSION);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_guest_text_makes_good_xml(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let xml = to_junit(&mixed(&String::from_utf8_lossy(&bytes))).unwrap();
        prop_assert!(roxmltree::Document::parse(&xml).is_ok());
    }
}

#[test]
fn a_missing_cell_fails_the_run() {
    let (one, other) = (cell("EG-01", "a", "sealed"), cell("EG-01", "b", "sealed"));
    let report = Report::of([
        started(&[one.clone(), other.clone()]),
        judged(&one, Verdict::Held, ""),
        ended(),
    ]);
    assert_eq!(report.problems(), [Problem::Missing(other)]);
    assert_eq!(report.standing(), Standing::Error);
}

#[test]
fn a_second_verdict_fails_the_run_and_turns_no_breach_green() {
    let one = cell("EG-01", "a", "sealed");
    let twice = [Verdict::Breached, Verdict::Held].map(|verdict| judged(&one, verdict, ""));
    let report = Report::of(
        [started(std::slice::from_ref(&one))]
            .into_iter()
            .chain(twice)
            .chain([ended()]),
    );
    assert_eq!(report.problems(), [Problem::Duplicate(one.clone())]);
    assert_eq!(report.standing(), Standing::Breached);
    let doubled = Report::of([
        started(&[one.clone(), one.clone()]),
        judged(&one, Verdict::Held, ""),
        ended(),
    ]);
    assert_eq!(doubled.problems(), [Problem::Duplicate(one)]);
}

#[test]
fn a_cell_nobody_expected_and_a_run_without_end_are_defects() {
    let one = cell("EG-01", "a", "sealed");
    let report = Report::of([started(&[]), judged(&one, Verdict::Held, "")]);
    assert_eq!(report.problems(), [Problem::Unexpected(one), Problem::NotEnded]);
    let xml = to_junit(&report).unwrap();
    assert_eq!(
        roxmltree::Document::parse(&xml)
            .unwrap()
            .root_element()
            .attribute("errors"),
        Some("2")
    );
}

#[test]
fn standings() {
    let one = cell("EG-01", "a", "sealed");
    let with = |verdict, ending: Ending| {
        let end = Event::RunEnded {
            at: String::new(),
            ending,
        };
        Report::of([started(std::slice::from_ref(&one)), judged(&one, verdict, ""), end]).standing()
    };
    assert_eq!(with(Verdict::Held, Ending::Complete), Standing::Held);
    assert_eq!(with(Verdict::NotApplicable, Ending::Complete), Standing::NothingRan);
    assert_eq!(with(Verdict::Inconclusive, Ending::Complete), Standing::Inconclusive);
    assert_eq!(with(Verdict::Held, Ending::Interrupted), Standing::Interrupted);
    assert_eq!(with(Verdict::Breached, Ending::Interrupted), Standing::Breached);
    assert_eq!(
        with(Verdict::Held, Ending::Failed("engine gone".to_owned())),
        Standing::Error
    );
    assert_eq!(Report::of([started(&[]), ended()]).standing(), Standing::NothingRan);
}

#[test]
fn evidence_lines_survive_the_file() {
    let one = evidence(cell("EG-01", "a", "sealed"), "x\ny");
    let mut file = Vec::new();
    let mut writer = EvidenceWriter::new(&mut file);
    writer.write(&one).unwrap();
    writer.write(&one).unwrap();
    assert_eq!(file.iter().filter(|byte| **byte == b'\n').count(), 2);
    assert_eq!(read_evidence(file.as_slice()).unwrap(), [one.clone(), one]);
}

#[test]
fn a_bad_evidence_file_names_the_line() {
    let mut file = serde_json::to_vec(&evidence(cell("EG-01", "a", "sealed"), "")).unwrap();
    file.extend(b"\n\n{\"version\":1");
    assert!(
        read_evidence(file.as_slice())
            .unwrap_err()
            .to_string()
            .starts_with("line 3: expected one evidence document")
    );
    let mut other = evidence(cell("EG-01", "a", "sealed"), "");
    other.version = 9;
    let error = read_evidence(serde_json::to_vec(&other).unwrap().as_slice()).unwrap_err();
    assert!(error.to_string().contains("found version 9"), "{error}");
}

#[test]
fn cells_that_share_a_reason_are_grouped() {
    let cells: Vec<Cell> = (0..13)
        .map(|n| cell("EG-01", &format!("case-{n:02}"), "sealed"))
        .collect();
    let mut events = vec![started(&cells)];
    events.extend(
        cells
            .iter()
            .map(|cell| judged(cell, Verdict::Inconclusive, "no self-test")),
    );
    events.push(ended());
    insta::assert_snapshot!(to_table(&Report::of(events), TableStyle::default()));
}

#[test]
fn the_kill_matrix() {
    let leaky = |case: &str, leak| Cell {
        leak: Some(leak),
        ..cell("EG-01", case, "sealed")
    };
    let cells = [
        leaky("one", Leak::HostNet),
        leaky("two", Leak::HostNet),
        leaky("one", Leak::GwHost),
    ];
    let verdicts = [Verdict::Breached, Verdict::Held, Verdict::Breached];
    let mut events = vec![started(&cells)];
    events.extend(
        cells
            .iter()
            .zip(verdicts)
            .map(|(cell, verdict)| judged(cell, verdict, "because")),
    );
    events.push(ended());
    insta::assert_snapshot!(to_kill_matrix(&Report::of(events), false));
}

#[rstest]
#[case(&[Verdict::Held], Standing::ExpiredWaiver)]
#[case(&[Verdict::Waived], Standing::ExpiredWaiver)]
#[case(&[Verdict::Breached], Standing::Breached)]
#[case(&[Verdict::Held, Verdict::Inconclusive], Standing::Inconclusive)]
#[case(&[Verdict::NotApplicable], Standing::NothingRan)]
fn an_expired_waiver_shows_everywhere_and_outweighs_only_held(
    #[case] verdicts: &[Verdict],
    #[case] standing: Standing,
) {
    let cells: Vec<Cell> = (0..verdicts.len())
        .map(|n| cell("EG-01", &n.to_string(), "sealed"))
        .collect();
    let mut events = vec![started(&cells)];
    events.push(Event::WaiverExpired {
        text: "LB-01, expired 2020-01-01".to_owned(),
    });
    events.extend(
        cells
            .iter()
            .zip(verdicts)
            .map(|(cell, verdict)| judged(cell, *verdict, "because")),
    );
    events.push(ended());
    let report = Report::of(events);
    assert_eq!(report.standing(), standing);
    for text in [
        to_table(&report, TableStyle::default()),
        to_junit(&report).unwrap(),
        to_json(&report, 5).unwrap(),
    ] {
        assert!(text.contains("LB-01, expired 2020-01-01"), "{text}");
    }
}
