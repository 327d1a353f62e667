//! EG-02: every TCP port of the internet.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-02",
    title: "every TCP port of the internet",
    requirement: "A guest MUST NOT deliver a byte to the internet on any TCP port.",
    why: "Filters by port miss the port that nobody thought of.",
    source: "Seen in: gh-aw-firewall A5/A9, httpjail test_non_http_tcp_services_blocked.",
    does: "Connects to all 65 535 ports of one address of the stand-in internet, where a witness accepts on each.",
    on_breach: "Filter by having no route rather than by port. See EG-01.",
    priority: Priority::P0,
    tags: &["egress", "tcp", "sweep"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let sweep = Action::Sweep {
        to: "${sink}".to_owned(),
        first: 1,
        last: 65_535,
        send: "{nonce}\r\n".to_owned(),
        declared: Vec::new(),
        open_is_finding: false,
        handshakes: "${handshakes}".to_owned(),
    };
    vec![
        unseen("all-ports", sweep)
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Bridge]),
    ]
}
