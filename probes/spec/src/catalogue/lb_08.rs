//! LB-08: allowed names that lead inward.

use super::make::{absolute, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-08",
    title: "allowed names that lead inward",
    requirement: "The proxy MUST refuse an allowed name that resolves to a loopback address or an address of the host's networks.",
    why: "Whoever controls the zone of an allowed name decides where it points; the allow-list says who is trusted, not what may be dialled.",
    source: "Seen in: iron-proxy dnsguard, sandbox-runtime 'no port dimension', gondolin createLookupGuard.",
    does: "Asks the proxy for allowed names whose A or AAAA records are 127.0.0.1, ::1 and the host's address.",
    on_breach: "The address rules are not applied to what the name resolved to. See the `resolve` stage of the decision log.",
    priority: Priority::P0,
    tags: &["proxy", "ssrf", "dns"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let own = [("loopback4", "loop4.rebind.test"), ("loopback6", "loop6.rebind.test")]
        .map(|(name, host)| unseen(name, absolute(host)).alive(&[Vantage::OwnBundle]));
    let outside = [
        ("private", "host-10-255-0-1.rebind.test"),
        ("bridge-pool", "host-172-17-0-1.rebind.test"),
    ]
    .map(|(name, host)| unseen(name, absolute(host)).alive(&[Vantage::InternetTcp]));
    own.into_iter()
        .chain(outside)
        .map(|case| case.denied().controls(&[Leak::PxNameOnly]))
        .collect()
}
