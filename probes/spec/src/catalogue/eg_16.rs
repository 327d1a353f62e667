//! EG-16: no window while the filter starts or changes.

use super::make::{absolute, hammer, sequence, tcp};
use crate::{CaseSpec, Disturbance, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-16",
    title: "no window while the filter starts or changes",
    requirement: "Egress MUST stay closed from the guest's first instruction on, whatever state the proxy is in.",
    why: "A guest that runs before its filter, or while the filter is reloaded, has a window; agents start downloading in their first millisecond.",
    source: "Seen in: iron-proxy FailsClosedUntilReady, OpenShell never_falls_back, glovebox #4590.",
    does: "Hammers the internet directly and through the proxy from the first instruction of the guest, during start, reload, freeze, pause and a crash of the proxy.",
    on_breach: "Start the guest only after the bundle said that it is ready, and have nothing that opens when the proxy is gone.",
    priority: Priority::P0,
    tags: &["egress", "race", "lifecycle"],
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
        hammered("start", Disturbance::Start).needs(&["own-entrypoint"]),
        hammered("reload", Disturbance::Reload),
        hammered("proxy-frozen", Disturbance::FreezePipelock),
        hammered("bundle-paused", Disturbance::PauseBundle),
        hammered("proxy-crash", Disturbance::KillPipelock),
    ]
}
