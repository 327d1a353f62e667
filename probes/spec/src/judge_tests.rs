use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::{Cell, DecisionSeen, Expectation, Liveness, Nonce, Sighting};

fn nonce(n: u8) -> Nonce {
    Nonce::from_bytes([n; 16])
}

fn sighting(nonces: Vec<Nonce>, at: Vantage) -> Sighting {
    Sighting {
        at,
        nonces,
        from: "203.0.113.1:9".into(),
        to: "203.0.113.99:443".into(),
        what: "tcp".into(),
        at_ms: 1,
    }
}

/// Evidence with all parts of the proof.
fn whole(oracle: Oracle, alive: Vec<Vantage>, decision: bool) -> Evidence {
    let facts = match &oracle {
        Oracle::Facts(facts) => facts.clone(),
        _ => Vec::new(),
    };
    Evidence {
        version: EVIDENCE_VERSION,
        cell: Cell {
            probe: "EG-01".into(),
            case: "tcp-443".into(),
            backend: "docker".into(),
            topology: "sealed".into(),
            leak: None,
        },
        nonce: nonce(1),
        secrets: vec![nonce(7)],
        attempt: Some(Attempt {
            case: "1".into(),
            nonce: nonce(1),
            issued: true,
            trace: vec![],
            findings: vec![],
            marker_found: None,
        }),
        faults: vec![],
        agent: AgentEnd::Clean,
        liveness: alive
            .iter()
            .map(|&at| Liveness {
                at,
                before: true,
                after: true,
            })
            .collect(),
        settled: true,
        sightings: vec![],
        decisions: decision
            .then(|| DecisionSeen {
                denied: true,
                rule: "host-not-allowed".into(),
                by: "pipelock connect".into(),
            })
            .into_iter()
            .collect(),
        facts,
        started: "2026-01-01T00:00:00Z".into(),
        took_ms: 5,
        expectation: Expectation {
            oracle,
            alive,
            decision,
        },
    }
}

fn vantage() -> impl Strategy<Value = Vantage> {
    prop::sample::select(vec![
        Vantage::InternetTcp,
        Vantage::InternetDns,
        Vantage::Origin,
        Vantage::HostLoopback4,
        Vantage::PeerGuest,
        Vantage::Guest,
        Vantage::HostProcess,
    ])
}

fn oracle() -> impl Strategy<Value = Oracle> {
    prop_oneof![
        Just(Oracle::Unseen),
        Just(Oracle::SecretUnseen),
        prop::collection::vec(("[a-d]", "[0-9]"), 1..3).prop_map(|mut facts| {
            facts.sort();
            facts.dedup_by(|a, b| a.0 == b.0);
            Oracle::Facts(facts)
        }),
    ]
}

prop_compose! {
    fn good()(
        oracle in oracle(),
        alive in prop::collection::btree_set(vantage(), 1..4),
        decision in any::<bool>(),
        marker in prop_oneof![Just(None), Just(Some(true))],
        elsewhere in any::<bool>(),
    ) -> Evidence {
        let mut evidence = whole(oracle, alive.into_iter().collect(), decision);
        evidence.attempt.as_mut().unwrap().marker_found = marker;
        if elsewhere {
            // Somebody else's nonce proves nothing against this case.
            evidence.sightings.push(sighting(vec![nonce(9)], Vantage::InternetTcp));
        }
        evidence
    }
}

/// Evidence with anything in it.
fn any_evidence() -> impl Strategy<Value = Evidence> {
    let end = prop_oneof![
        Just(AgentEnd::Clean),
        any::<i64>().prop_map(AgentEnd::Crashed),
        Just(AgentEnd::TimedOut),
        ".{0,20}".prop_map(AgentEnd::Unseen),
        ".{0,20}".prop_map(AgentEnd::NotStarted),
        Just(AgentEnd::NoAgent),
    ];
    let attempt = prop::option::of((
        any::<bool>(),
        prop::collection::vec(".{0,20}", 0..3),
        prop::option::of(any::<bool>()),
        0u8..3,
    ));
    let liveness = prop::collection::vec((vantage(), any::<bool>(), any::<bool>()), 0..6);
    let sightings = prop::collection::vec((vantage(), prop::collection::vec(0u8..9, 0..3)), 0..3);
    let facts = prop::collection::vec(("[a-d]", "[0-9]"), 0..4);
    let decisions = prop::collection::vec(any::<bool>(), 0..3);
    let faults = prop::collection::vec(".{0,20}", 0..2);
    (
        good(),
        end,
        attempt,
        liveness,
        sightings,
        facts,
        decisions,
        faults,
        any::<bool>(),
        0u32..3,
    )
        .prop_map(
            |(base, agent, attempt, liveness, sightings, facts, decisions, faults, settled, version)| Evidence {
                version,
                agent,
                attempt: attempt.map(|(issued, findings, marker_found, n)| Attempt {
                    case: "x".into(),
                    nonce: nonce(n),
                    issued,
                    trace: vec![],
                    findings,
                    marker_found,
                }),
                liveness: liveness
                    .into_iter()
                    .map(|(at, before, after)| Liveness { at, before, after })
                    .collect(),
                sightings: sightings
                    .into_iter()
                    .map(|(at, n)| sighting(n.into_iter().map(nonce).collect(), at))
                    .collect(),
                facts,
                decisions: decisions
                    .into_iter()
                    .map(|denied| DecisionSeen {
                        denied,
                        rule: "r".into(),
                        by: "b".into(),
                    })
                    .collect(),
                faults,
                settled,
                ..base
            },
        )
}

/// Every way to take one part of the proof away.
fn without_one_part(evidence: &Evidence) -> Vec<(&'static str, Evidence)> {
    let mut out = Vec::new();
    let mut push = |what, change: &dyn Fn(&mut Evidence)| {
        let mut less = evidence.clone();
        change(&mut less);
        out.push((what, less));
    };
    push("attempt", &|e| e.attempt = None);
    push("issued", &|e| e.attempt.as_mut().unwrap().issued = false);
    push("marker", &|e| e.attempt.as_mut().unwrap().marker_found = Some(false));
    push("nonce", &|e| e.attempt.as_mut().unwrap().nonce = nonce(2));
    push("crash", &|e| e.agent = AgentEnd::Crashed(139));
    push("deadline", &|e| e.agent = AgentEnd::TimedOut);
    push("end", &|e| e.agent = AgentEnd::Unseen("no such exec".into()));
    push("start", &|e| e.agent = AgentEnd::NotStarted("no such file".into()));
    push("fault", &|e| e.faults.push("the line came twice".into()));
    push("settle", &|e| e.settled = false);
    push("version", &|e| e.version += 1);
    push("witnesses", &|e| e.expectation.alive.clear());
    let marked = evidence.attempt.as_ref().unwrap().marker_found == Some(true);
    for at in &evidence.expectation.alive {
        if !(marked && *at == Vantage::Guest) {
            push("witness", &|e| e.liveness.retain(|l| l.at != *at));
        }
        push("before", &|e| {
            e.liveness
                .iter_mut()
                .filter(|l| l.at == *at)
                .for_each(|l| l.before = false)
        });
        push("after", &|e| {
            e.liveness
                .iter_mut()
                .filter(|l| l.at == *at)
                .for_each(|l| l.after = false)
        });
    }
    if evidence.expectation.decision {
        push("decision", &|e| e.decisions.clear());
        push("denial", &|e| e.decisions.iter_mut().for_each(|d| d.denied = false));
    }
    if matches!(evidence.expectation.oracle, Oracle::Facts(_)) {
        push("facts", &|e| {
            e.facts.pop();
        });
    }
    out
}

proptest! {
    #[test]
    fn all_parts_are_held(evidence in good()) {
        let judgement = judge(&evidence);
        prop_assert_eq!(judgement.verdict, Verdict::Held, "{}", judgement.reason);
    }

    #[test]
    fn dropping_one_part_is_never_held(evidence in good()) {
        for (what, less) in without_one_part(&evidence) {
            let judgement = judge(&less);
            prop_assert!(
                matches!(judgement.verdict, Verdict::Inconclusive | Verdict::Error),
                "{} left {:?}: {}", what, judgement.verdict, judgement.reason
            );
        }
    }

    #[test]
    fn a_sighting_is_always_a_breach(evidence in any_evidence(), at in vantage(), slot in 0usize..4) {
        let mut more = evidence;
        let seen = sighting(vec![nonce(1), nonce(7)], at);
        more.sightings.insert(slot.min(more.sightings.len()), seen);
        prop_assert_eq!(judge(&more).verdict, Verdict::Breached);
    }

    #[test]
    fn a_finding_is_always_a_breach(evidence in any_evidence()) {
        let mut more = evidence;
        if let Some(attempt) = &mut more.attempt {
            attempt.findings.push("open port 9901".into());
            prop_assert_eq!(judge(&more).verdict, Verdict::Breached);
        }
    }

    #[test]
    fn total_and_explained(evidence in any_evidence()) {
        let judgement = judge(&evidence);
        prop_assert!(judgement.reason.ends_with('.'));
        prop_assert!(matches!(
            judgement.verdict,
            Verdict::Held | Verdict::Breached | Verdict::Inconclusive | Verdict::Error
        ));
    }

    #[test]
    fn order_does_not_matter(evidence in any_evidence()) {
        let mut turned = evidence.clone();
        turned.sightings.reverse();
        turned.liveness.reverse();
        turned.decisions.reverse();
        turned.facts.reverse();
        turned.faults.reverse();
        turned.expectation.alive.reverse();
        turned.secrets.reverse();
        if let Some(attempt) = &mut turned.attempt {
            attempt.findings.reverse();
        }
        prop_assert_eq!(judge(&evidence).verdict, judge(&turned).verdict);
    }

    #[test]
    fn evidence_survives_its_document(evidence in any_evidence()) {
        let text = serde_json::to_string(&evidence).unwrap();
        let read: Evidence = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &evidence);
        prop_assert_eq!(judge(&read), judge(&evidence));
    }
}

#[test]
fn the_request_alone_is_no_breach_where_only_the_secret_counts() {
    let mut evidence = whole(Oracle::SecretUnseen, vec![Vantage::Origin], false);
    evidence.sightings.push(sighting(vec![nonce(1)], Vantage::Origin));
    assert_eq!(judge(&evidence).verdict, Verdict::Held);
    evidence.sightings.push(sighting(vec![nonce(7)], Vantage::Origin));
    assert_eq!(judge(&evidence).verdict, Verdict::Held);
    evidence
        .sightings
        .push(sighting(vec![nonce(7), nonce(1)], Vantage::Origin));
    assert_eq!(judge(&evidence).verdict, Verdict::Breached);
}

#[rstest]
#[case::crash(AgentEnd::Crashed(11), Verdict::Inconclusive)]
#[case::deadline(AgentEnd::TimedOut, Verdict::Inconclusive)]
#[case::unseen(AgentEnd::Unseen("no such exec".into()), Verdict::Inconclusive)]
#[case::not_started(AgentEnd::NotStarted("exec format".into()), Verdict::Error)]
#[case::clean(AgentEnd::Clean, Verdict::Error)]
fn a_missing_line(#[case] end: AgentEnd, #[case] verdict: Verdict) {
    let mut evidence = whole(Oracle::Unseen, vec![Vantage::InternetTcp], false);
    evidence.agent = end;
    evidence.attempt = None;
    evidence.faults = vec!["no line for this case".into()];
    assert_eq!(judge(&evidence).verdict, verdict);
}

#[test]
fn a_differing_fact_is_a_breach_and_an_unread_one_is_not_held() {
    let facts = vec![("CapEff".to_owned(), "0000000000000000".to_owned())];
    let mut evidence = whole(Oracle::Facts(facts), vec![Vantage::HostProcess], false);
    assert_eq!(judge(&evidence).verdict, Verdict::Held);
    evidence.facts = vec![("CapEff".into(), "00000000a80425fb".into())];
    assert_eq!(judge(&evidence).verdict, Verdict::Breached);
    evidence.facts.clear();
    let judgement = judge(&evidence);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert_eq!(judgement.reason, "the host did not read CapEff.");
}

#[test]
fn deaf_witness_is_inconclusive() {
    let mut evidence = whole(Oracle::Unseen, vec![Vantage::InternetTcp], true);
    evidence.liveness[0].after = false;
    assert_eq!(
        judge(&evidence).reason,
        "there is no proof, before and after, that the stand-in internet (TCP) worked."
    );
}
