//! EG-17: the bundle's death closes the way.

use super::make::{absolute, hammer, sequence, tcp};
use crate::{CaseSpec, Disturbance, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-17",
    title: "the bundle's death closes the way",
    requirement: "When a member of the bundle dies, egress MUST end; there MUST NOT be a direct fallback.",
    why: "Fail-open fallbacks are written for availability and found by attackers, who only need to crash the filter.",
    source: "Seen in: gh-aw-firewall, codex managed_proxy_mode_fails_closed_without_proxy_env.",
    does: "Kills the proxy's second hop, the bundle's init and the whole bundle from the host while the guest hammers.",
    on_breach: "Find what took over the path. A bottle without its bundle has no way out and ends or reports itself degraded.",
    priority: Priority::P0,
    tags: &["egress", "crash", "lifecycle"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let both = || sequence([tcp("${sink}:443"), absolute(world::DENIED)]);
    let hammered = |name, meanwhile| {
        hammer(name, both(), meanwhile)
            .alive(&[Vantage::InternetTcp])
            .controls(&[Leak::Early])
    };

    vec![
        hammered("proxy-killed", Disturbance::KillPipelock),
        hammered("egress-killed", Disturbance::KillEgress),
        hammered("init-killed", Disturbance::KillInit),
        hammered("bundle-removed", Disturbance::RemoveBundle),
    ]
}
