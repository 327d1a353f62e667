//! TX-12: tokens in logs and reports.

use super::make::runner;
use crate::{CaseSpec, Leak, OutputPlace, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "TX-12",
    title: "tokens in logs and reports",
    requirement: "No log, evidence file or report MUST hold a token.",
    why: "Logs are kept longer, copied further and guarded less than secrets; a conformance report is meant to be shown around.",
    source: "Seen in: OCI distribution-spec redacted reports, smolvm INVARIANT plaintext never in DB.",
    does: "Runs a request over a token route and searches the bundle's output and the suite's own evidence, JUnit and terminal output for the token.",
    on_breach: "Find the record that holds it. Tokens are marked sensitive where they enter the process; the suite redacts what it prints.",
    priority: Priority::P0,
    tags: &["token", "logs", "reports"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("bundle-logs", OutputPlace::BundleLogs),
        ("evidence", OutputPlace::Evidence),
        ("junit", OutputPlace::Junit),
        ("terminal", OutputPlace::Terminal),
    ]
    .map(|(name, place)| {
        runner(name, RunnerCase::SecretInOutput(place))
            .alive(&[Vantage::HostFiles])
            .controls(&[Leak::NoScrub])
    })
    .into()
}
