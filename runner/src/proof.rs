//! Proofs that witnesses work: nonces sent by the same agent over paths that are open, and whether they arrived.

use std::collections::BTreeSet;
use std::time::Duration;

use bottle_backend::{patience, patient, patient_ms};
use probe_spec::{Action, AgentCase, AgentEnd, AgentList, DnsTransport, Nonce, Place as Search, Step, Vantage, world};

use crate::agent::{AgentRun, Place, attempt};
use crate::assemble::Proof;
use crate::error::SuiteError;
use crate::fixture::Fixture;
use crate::images::MARKER;
use crate::lab::Lab;
use crate::sightings::fresh_nonce;

/// How long a proof may take to arrive after the agent has ended.
const ARRIVES_WITHIN: Duration = Duration::from_millis(1500);
/// How long one proof may take to be sent.
const CASE_MS: u64 = 3000;

/// How long the proof of a witness may take to be sent: the first that a member of the network sends from an advertised address
/// waits until the kernel has one.
const fn case_ms(at: Vantage) -> u64 {
    match at {
        Vantage::InternetAdvertised => 2 * CASE_MS,
        _ => CASE_MS,
    }
}

/// A proof to be made: the nonce that must arrive.
struct Sent {
    at: Vantage,
    case: AgentCase,
}

/// Where proofs are sent from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Outside,
    Host,
    Peer,
    Own,
    Bundle,
}

/// Which of the `wanted` witnesses work right now, as seen from the bottle under test and the control guests. Vantages that
/// the life-cycle cases prove by themselves (inventory, files) are not asked for here.
pub async fn prove(
    lab: &Lab,
    fixture: &Fixture,
    peer: &Fixture,
    wanted: &BTreeSet<Vantage>,
) -> Result<Proof, SuiteError> {
    let control_peer = if wanted.contains(&Vantage::PeerGuest) || wanted.contains(&Vantage::PeerBundle) {
        Some(peer.control(lab).await?)
    } else {
        None
    };
    let lists = |from| cases(lab, peer, wanted, from);
    let (outside, host, own) = (lists(From::Outside), lists(From::Host), lists(From::Own));
    let (peers, bundle) = (lists(From::Peer), lists(From::Bundle));
    let guest = Place {
        prefix: &[],
        ..fixture.place()
    };
    let control = |id| lab.control(id);
    let (outside_run, host_run, peer_run, own_run, bundle_run) = tokio::join!(
        send(control(&lab.control_outside), &outside),
        send(control(&lab.control_host), &host),
        send(control(control_peer.unwrap_or(&lab.control_outside)), &peers),
        send(guest, &own),
        send(fixture.bundle_listener().map_or(guest, control), &bundle)
    );
    let mut proof = Proof::new();
    let deadline = tokio::time::Instant::now() + patient(ARRIVES_WITHIN);
    for (sent, run) in [
        (&outside, &outside_run),
        (&host, &host_run),
        (&peers, &peer_run),
        (&own, &own_run),
        (&bundle, &bundle_run),
    ] {
        for one in sent {
            if run.end == AgentEnd::Clean && arrives(lab, fixture, peer, one, run, deadline).await {
                proof.insert(one.at);
            }
        }
    }
    if own_run.facts.iter().any(|(name, _)| name == "Seccomp") {
        proof.insert(Vantage::HostProcess);
    }
    Ok(proof)
}

async fn send(place: Place<'_>, sent: &[Sent]) -> AgentRun {
    if sent.is_empty() {
        return AgentRun {
            lines: Vec::new(),
            end: AgentEnd::Clean,
            facts: Vec::new(),
        };
    }
    let list = AgentList {
        cases: sent.iter().map(|one| one.case.clone()).collect(),
        parallel: sent.len(),
    };
    attempt(
        place,
        &list,
        &fresh_nonce(),
        Duration::from_millis(patient_ms(CASE_MS * 3)),
    )
    .await
}

async fn arrives(
    lab: &Lab,
    fixture: &Fixture,
    peer: &Fixture,
    sent: &Sent,
    run: &AgentRun,
    deadline: tokio::time::Instant,
) -> bool {
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    let nonce = &sent.case.nonce;
    match sent.at {
        Vantage::DecisionLog => poll(left, || !fixture.decisions(nonce).is_empty()).await,
        Vantage::PeerBundle => poll(left, || !peer.decisions(nonce).is_empty()).await,
        // A marker that is there was found.
        Vantage::Guest => run.lines.iter().any(|line| {
            serde_json::from_slice::<probe_spec::Attempt>(line)
                .is_ok_and(|attempt| attempt.nonce == *nonce && attempt.marker_found == Some(true))
        }),
        // No witness hears it: what the host reads of the agent is the proof.
        Vantage::HostProcess => false,
        // What came from such an address came over IPv6.
        Vantage::InternetAdvertised => lab.sightings.wait(nonce, Vantage::InternetIp6, left).await,
        at => lab.sightings.wait(nonce, at, left).await,
    }
}

async fn poll(limit: Duration, is_there: impl Fn() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if is_there() {
            return true;
        }
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The proofs that one sender makes.
fn cases(lab: &Lab, peer: &Fixture, wanted: &BTreeSet<Vantage>, from: From) -> Vec<Sent> {
    wanted
        .iter()
        .filter_map(|at| {
            let (sender, action) = proof_of(lab, peer, *at)?;
            (sender == from).then(|| {
                let case = AgentCase {
                    case: format!("{at:?}"),
                    nonce: fresh_nonce(),
                    ok: fresh_nonce(),
                    action,
                    limit_ms: patient_ms(case_ms(*at)),
                    patience: patience(),
                };
                Sent { at: *at, case }
            })
        })
        .collect()
}

fn proof_of(lab: &Lab, peer: &Fixture, at: Vantage) -> Option<(From, Action)> {
    let tcp = |to: String| Action::Tcp {
        to,
        send: "GET /{nonce} HTTP/1.0\r\n\r\n".to_owned(),
        from: None,
    };
    let udp = |to: String| Action::Udp {
        to,
        send: "{nonce}".to_owned(),
        pad_to: None,
    };
    let local = |port: u16| format!("127.0.0.1:{port}");
    Some(match at {
        Vantage::InternetTcp => (From::Outside, tcp(format!("{}:18999", world::SINK_ADDRESS))),
        Vantage::InternetUdp => (From::Outside, udp(format!("{}:18999", world::SINK_ADDRESS))),
        Vantage::InternetIcmp => {
            let to = world::SINK_ADDRESS.to_owned();
            (
                From::Outside,
                Action::Icmp {
                    to,
                    raw: true,
                    send: "{nonce}".to_owned(),
                    answer_is_finding: false,
                },
            )
        }
        Vantage::InternetIp6 => (From::Outside, tcp(format!("[{}]:18999", world::SINK_ADDRESS6))),
        Vantage::InternetAdvertised => {
            let to = format!("[{}]:18999", world::SINK_ADDRESS6);
            let send = "GET /{nonce} HTTP/1.0\r\n\r\n".to_owned();
            let from = Some(probe_spec::ADVERTISED.to_owned());
            (From::Outside, Action::Tcp { to, send, from })
        }
        Vantage::InternetDns => {
            let server = format!("{}:53", lab.outside_address);
            let name = format!("{{nonce}}.{}", world::EXFIL);
            (
                From::Outside,
                Action::Dns {
                    server,
                    transport: DnsTransport::Udp,
                    name,
                    qtype: 1,
                    answer_is_finding: false,
                },
            )
        }
        Vantage::Metadata => {
            let request = "GET /latest/meta-data/{nonce} HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n".to_owned();
            (
                From::Outside,
                Action::Tcp {
                    to: "169.254.169.254:80".to_owned(),
                    send: request,
                    from: None,
                },
            )
        }
        Vantage::HostLoopback4 => (From::Host, tcp(local(lab.host.loopback4))),
        Vantage::HostLoopback6 => (From::Host, tcp(format!("[::1]:{}", lab.host.loopback6))),
        Vantage::HostWildcard => (From::Host, tcp(local(lab.host.wildcard))),
        Vantage::HostUdp => (From::Host, udp(local(lab.host.loopback4_udp))),
        Vantage::PeerGuest => {
            let guest = peer.inner_address(bottle_backend::Role::Guest)?;
            (From::Peer, tcp(format!("{guest}:{}", world::PEER_PORT)))
        }
        Vantage::PeerBundle => {
            let bundle = peer.inner_address(bottle_backend::Role::Bundle)?;
            (
                From::Peer,
                through_proxy(format!("{bundle}:{}", bottle_policy::PROXY_PORT)),
            )
        }
        Vantage::Origin | Vantage::DecisionLog => (From::Own, through_proxy("proxy".to_owned())),
        Vantage::OwnBundle => (From::Bundle, tcp(local(world::BUNDLE_LOOPBACK_PORT))),
        Vantage::Guest => {
            let needles = vec!["{nonce}".to_owned()];
            (
                From::Own,
                Action::Find {
                    place: Search::Environment,
                    needles,
                    marker: MARKER.to_owned(),
                },
            )
        }
        Vantage::HostProcess => {
            let needles = vec!["{nonce}".to_owned()];
            (
                From::Own,
                Action::Find {
                    place: Search::Environment,
                    needles,
                    marker: String::new(),
                },
            )
        }
        Vantage::Inventory | Vantage::HostFiles => return None,
    })
}

/// A request that the policy allows, with its nonce where the origin and the decision log see it.
fn through_proxy(to: String) -> Action {
    let text = format!(
        "GET http://{host}/{{nonce}} HTTP/1.1\r\nhost: {host}\r\n{field}: {{nonce}}\r\nconnection: close\r\n\r\n",
        host = world::ALLOWED,
        field = bottle_policy::NONCE_FIELD,
    );
    Action::Talk {
        to,
        steps: vec![Step::Send { text }, Step::Response],
    }
}

/// The nonces of a list of cases, by key.
pub fn asked(cases: &[AgentCase]) -> std::collections::BTreeMap<String, Nonce> {
    cases
        .iter()
        .map(|case| (case.case.clone(), case.nonce.clone()))
        .collect()
}
