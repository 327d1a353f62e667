//! PX-13: names that look allowed.

use super::make::{tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-13",
    title: "names that look allowed",
    requirement: "The proxy MUST match whole names: a name that merely contains, begins or ends like an allowed one is not allowed.",
    why: "Substring and suffix matching is the commonest mistake of allow-lists, and registering a matching name is cheap.",
    source: "Seen in: sandbox-runtime wildcard test, OpenShell host_wildcard_*, microsandbox suffix_rule_*.",
    does: "Asks for names that contain an allowed name, end with its letters, put it below another zone, and for the apex of a wildcard.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Compare label by label; `*.x` never means `x`.",
    priority: Priority::P0,
    tags: &["proxy", "names", "allow-list"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let names = [
        "allowed.test.evil.test",
        "evil-allowed.test",
        "xallowed.test",
        "sub.allowed.test",
        "allowed.testing.test",
        "wild.test",
        "evilwild.test",
        "a.wild.test.evil.test",
        "oneport.test.evil.test",
    ];
    names
        .map(|host| {
            unseen(host.replace('.', "-"), tunnel(&format!("{host}:443"), Some(host), host))
                .alive(&[Vantage::InternetTcp])
                .denied()
                .controls(&[Leak::PxLaxHost])
        })
        .into()
}
