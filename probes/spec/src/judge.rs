//! From evidence to a verdict: pure, total, and the same for evidence in any order.
//!
//! The order of the questions is the order of DESIGN section 5. What was seen comes first and is final; then faults of the
//! suite itself; then each part of the proof that may be missing; and only what passes all of them is held.

use crate::{AgentEnd, Attempt, EVIDENCE_VERSION, Evidence, Judgement, Oracle, Vantage, Verdict};

/// Judges one case.
///
/// - `BREACHED` as soon as the oracle of the case saw what it looks for, whatever else is wrong with the evidence.
/// - `ERROR` when the suite's own machinery failed: the agent was not started, or what it printed is not what it should be
///   although it ended cleanly.
/// - `INCONCLUSIVE` when a part of the proof is missing; the reason names the part.
/// - `HELD` otherwise.
///
/// The other verdicts (not applicable, residual, waived) are not made from evidence.
pub fn judge(evidence: &Evidence) -> Judgement {
    let questions = [breach, fault, missing];
    let (verdict, reason) = questions
        .iter()
        .find_map(|question| question(evidence))
        .unwrap_or_else(|| (Verdict::Held, held(evidence)));
    Judgement { verdict, reason }
}

type Answer = Option<(Verdict, String)>;

fn breach(evidence: &Evidence) -> Answer {
    seen(evidence)
        .or_else(|| found(evidence))
        .or_else(|| different_fact(evidence))
        .map(|reason| (Verdict::Breached, reason))
}

/// A sighting that the oracle does not allow. Where facts are the oracle nothing carries a nonce, so that one which is seen
/// anyway is no less a breach.
fn seen(evidence: &Evidence) -> Option<String> {
    let needs_secret = matches!(evidence.expectation.oracle, Oracle::SecretUnseen);
    let counts = |sighting: &&crate::Sighting| {
        sighting.nonces.contains(&evidence.nonce)
            && (!needs_secret || evidence.secrets.iter().any(|secret| sighting.nonces.contains(secret)))
    };
    let sighting = evidence.sightings.iter().find(counts)?;
    let what = if needs_secret {
        "a planted secret arrived together with the nonce"
    } else {
        "the nonce arrived"
    };
    Some(format!(
        "{what} at {} ({} to {}, {}).",
        words(sighting.at),
        sighting.from,
        sighting.to,
        sighting.what
    ))
}

fn found(evidence: &Evidence) -> Option<String> {
    let findings = &evidence.attempt.as_ref()?.findings;
    let first = findings.first()?;
    Some(match findings.len() {
        1 => format!("found what must not be there: {first}."),
        n => format!("found {n} things that must not be there, the first: {first}."),
    })
}

fn different_fact(evidence: &Evidence) -> Option<String> {
    expected_facts(evidence).iter().find_map(|(name, expected)| {
        let read = evidence
            .facts
            .iter()
            .find(|(read, value)| read == name && value != expected)?;
        Some(format!(
            "the host reads {name} = {} where {expected} is required.",
            read.1
        ))
    })
}

fn fault(evidence: &Evidence) -> Answer {
    fault_reason(evidence).map(|reason| (Verdict::Error, reason))
}

fn fault_reason(evidence: &Evidence) -> Option<String> {
    if evidence.version != EVIDENCE_VERSION {
        return Some(format!(
            "the evidence has version {} and this judge reads version {EVIDENCE_VERSION}.",
            evidence.version
        ));
    }
    match &evidence.agent {
        AgentEnd::NotStarted(why) => return Some(format!("the agent could not be started: {why}.")),
        AgentEnd::Clean | AgentEnd::NoAgent => {}
        // What a dying agent leaves half-written says nothing about the suite.
        AgentEnd::Crashed(_) | AgentEnd::TimedOut | AgentEnd::Unseen(_) => return None,
    }
    if let Some(first) = evidence.faults.first() {
        return Some(format!("the case's answer cannot be used: {first}."));
    }
    match &evidence.attempt {
        None => Some("there is no answer for this case although everything ended cleanly.".to_owned()),
        Some(attempt) if attempt.nonce != evidence.nonce => Some("the answer carries another case's nonce.".to_owned()),
        Some(_) => None,
    }
}

fn missing(evidence: &Evidence) -> Answer {
    missing_part(evidence).map(|reason| (Verdict::Inconclusive, reason))
}

fn missing_part(evidence: &Evidence) -> Option<String> {
    ended(evidence)
        .or_else(|| attempted(evidence.attempt.as_ref()))
        .or_else(|| unproven_witness(evidence))
        .or_else(|| unsettled(evidence))
        .or_else(|| undecided(evidence))
        .or_else(|| unread_fact(evidence))
}

fn ended(evidence: &Evidence) -> Option<String> {
    match &evidence.agent {
        AgentEnd::Clean | AgentEnd::NoAgent => None,
        AgentEnd::Crashed(code) => Some(format!("the agent ended with {code} before its list was done.")),
        AgentEnd::TimedOut => Some("the agent was ended at the runner's deadline.".to_owned()),
        AgentEnd::Unseen(why) => Some(format!("how the agent ended was not seen: {why}.")),
        AgentEnd::NotStarted(why) => Some(format!("the agent could not be started: {why}.")),
    }
}

fn attempted(attempt: Option<&Attempt>) -> Option<String> {
    let Some(attempt) = attempt else {
        return Some("nothing says that the case was attempted.".to_owned());
    };
    if !attempt.issued {
        return Some("not everything that the case asks for was really tried.".to_owned());
    }
    if attempt.marker_found == Some(false) {
        return Some("the planted marker was not found, so the search does not work here.".to_owned());
    }
    None
}

fn unproven_witness(evidence: &Evidence) -> Option<String> {
    let alive = &evidence.expectation.alive;
    if alive.is_empty() {
        return Some("no witness is named whose silence would mean anything.".to_owned());
    }
    let unproven = alive.iter().find(|at| !is_proven(evidence, **at))?;
    Some(format!(
        "there is no proof, before and after, that {} worked.",
        words(*unproven)
    ))
}

/// Every proof that was tried must have come through, and at least one must have been. What the agent finds inside the
/// guest is proven by the marker that it found there in the same case.
fn is_proven(evidence: &Evidence, at: Vantage) -> bool {
    let mut proofs = evidence.liveness.iter().filter(|proof| proof.at == at).peekable();
    let marked = at == Vantage::Guest && evidence.attempt.as_ref().and_then(|a| a.marker_found) == Some(true);
    (marked || proofs.peek().is_some()) && proofs.all(|proof| proof.before && proof.after)
}

fn unsettled(evidence: &Evidence) -> Option<String> {
    (!evidence.settled).then(|| "the settle window was not seen to its end by the witness.".to_owned())
}

fn undecided(evidence: &Evidence) -> Option<String> {
    let is_refused = evidence.decisions.iter().any(|decision| decision.denied);
    (evidence.expectation.decision && !is_refused)
        .then(|| "the promised refusal with the case's nonce is not in the decision log.".to_owned())
}

fn unread_fact(evidence: &Evidence) -> Option<String> {
    let is_read = |name: &String| evidence.facts.iter().any(|(read, _)| read == name);
    let (name, _) = expected_facts(evidence).iter().find(|(name, _)| !is_read(name))?;
    Some(format!("the host did not read {name}."))
}

fn expected_facts(evidence: &Evidence) -> &[(String, String)] {
    match &evidence.expectation.oracle {
        Oracle::Facts(facts) => facts,
        Oracle::Unseen | Oracle::SecretUnseen => &[],
    }
}

fn held(evidence: &Evidence) -> String {
    let witnesses = evidence.expectation.alive.len();
    let decision = if evidence.expectation.decision {
        ", the refusal is in the decision log"
    } else {
        ""
    };
    format!(
        "attempted, nothing seen, {witnesses} {} shown to work before and after{decision}.",
        if witnesses == 1 { "witness" } else { "witnesses" }
    )
}

/// A vantage in the words of a sentence.
fn words(at: Vantage) -> &'static str {
    match at {
        Vantage::InternetTcp => "the stand-in internet (TCP)",
        Vantage::InternetUdp => "the stand-in internet (UDP)",
        Vantage::InternetIcmp => "the stand-in internet (ICMP)",
        Vantage::InternetIp6 => "the stand-in internet (IPv6)",
        Vantage::InternetAdvertised => "the stand-in internet's router (IPv6)",
        Vantage::InternetDns => "the authoritative name server",
        Vantage::Metadata => "the stand-in metadata service",
        Vantage::Origin => "an origin server",
        Vantage::HostLoopback4 => "the host's IPv4 loopback",
        Vantage::HostLoopback6 => "the host's IPv6 loopback",
        Vantage::HostWildcard => "the host's wildcard listener",
        Vantage::HostUdp => "the host's UDP listener",
        Vantage::PeerGuest => "the peer bottle's guest",
        Vantage::PeerBundle => "the peer bottle's bundle",
        Vantage::OwnBundle => "the bundle's own loopback or control routes",
        Vantage::DecisionLog => "the decision log",
        Vantage::Guest => "the search inside the guest",
        Vantage::HostProcess => "the host's view of the guest's processes",
        Vantage::Inventory => "the inventory of the host",
        Vantage::HostFiles => "the search of the host's files",
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
