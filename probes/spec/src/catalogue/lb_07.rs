//! LB-07: loopback and host addresses through the proxy.

use super::make::{absolute, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-07",
    title: "loopback and host addresses through the proxy",
    requirement: "The proxy MUST refuse every destination that is a loopback address, a name for one, or an address of the host.",
    why: "The proxy has a network of its own. What the guest cannot dial it might have dialled for it: the bundle's own services or the host.",
    source: "Seen in: OpenShell test_ssrf_blocks_loopback_despite_policy_allow, agent-egress-bench ssrf-*.",
    does: "Asks the proxy, by absolute-form requests and by CONNECT, for loopback literals (a listener waits on the bundle's loopback) and for addresses of the host.",
    on_breach: "Read the decision record of the case for the rule that let it through. Literals must be refused unless listed, and loopback even then.",
    priority: Priority::P0,
    tags: &["proxy", "ssrf", "loopback"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let loopback = [
        ("absolute-127-0-0-1", "127.0.0.1:${bundle.lo.tcp}"),
        ("absolute-unspecified", "0.0.0.0:${bundle.lo.tcp}"),
        ("absolute-loopback6", "[::1]:${bundle.lo.tcp}"),
    ];
    let spelled = [
        ("absolute-mapped", "[::ffff:127.0.0.1]:${bundle.lo.tcp}"),
        ("absolute-short-form", "127.1:${bundle.lo.tcp}"),
    ];
    // A published port is none of these: the engine's own rules drop what one bridge sends to another's (see LB-05), so that no
    // bottle could be shown to be breached there.
    let host = [
        ("absolute-first-address", "${host.address.1}:${host.any.tcp}"),
        ("absolute-second-address", "${host.address.2}:${host.any.tcp}"),
        ("absolute-bridge-address", "${host.address.docker0}:${host.any.tcp}"),
    ];
    let own = |(name, authority), control| {
        unseen(name, absolute(authority))
            .alive(&[Vantage::OwnBundle])
            .controls(&[control])
    };
    let literals = loopback.map(|case| own(case, Leak::PxOpen));
    let spellings = spelled.map(|case| own(case, Leak::PxLaxIp));
    let hosts = host.map(|(name, authority)| {
        unseen(name, absolute(authority))
            .alive(&[Vantage::HostWildcard, Vantage::InternetTcp])
            .controls(&[Leak::PxOpen])
    });
    literals
        .into_iter()
        .chain(spellings)
        .chain(hosts)
        .map(CaseSpec::denied)
        .collect()
}
