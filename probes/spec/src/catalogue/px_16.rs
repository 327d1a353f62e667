//! PX-16: no look-up before the decision.

use super::make::{absolute, connect, listen, proxy, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-16",
    title: "no look-up before the decision",
    requirement: "The bundle MUST NOT look up a name that it is going to refuse.",
    why: "A look-up carries the name to whoever runs its zone: refusing afterwards is too late.",
    source: "Seen in: NVIDIA OpenShell #1169, pipelock DLP-before-DNS.",
    does: "Puts the nonce into denied names in CONNECT, in an absolute target and in the handshake's server name, and listens at the authoritative server.",
    on_breach: "Decide on the normalised name first. The decision log shows the refusal; the name server's log shows the look-up.",
    priority: Priority::P0,
    tags: &["proxy", "dns", "exfiltration"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let name = format!("{{nonce}}.{}", world::EXFIL);
    [
        ("connect", proxy([connect(&format!("{name}:443")), listen()])),
        ("absolute", absolute(&name)),
        ("sni", tunnel("allowed.test:443", Some(&name), &name)),
    ]
    .map(|(case, action)| {
        unseen(case, action)
            .alive(&[Vantage::InternetDns])
            .denied()
            .controls(&[Leak::PxResolve1])
    })
    .into()
}
