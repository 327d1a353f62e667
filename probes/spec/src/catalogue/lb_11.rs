//! LB-11: the host by vsock.

use super::make::unseen;
use crate::{Action, CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-11",
    title: "the host by vsock",
    requirement: "A program of the guest MUST NOT reach any vsock port, of the host or of the machine itself.",
    why: "The machine's own agent serves there, as root, and so does every socket that the host hands in, past whatever filters the network.",
    source: "CVE-2026-46695 (boxlite: host reached by vsock); smolvm 1.32.2 listens at 5001 and 6000 to 6005, and from 6100 for each mounted socket (measured).",
    does: "Connects to the ports that smolvm uses and to all others below 12001, of the host (CID 2) and of the machine itself (CID 1). A port that accepts is a finding.",
    on_breach: "See that `bottle-guest --seccomp` confines every program of the guest: its filter refuses AF_VSOCK.",
    priority: Priority::P0,
    tags: &["vsock", "host", "machine"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("host-known-ports", 2, 5001, 6200),
        ("host-all-ports", 2, 1, 12_000),
        ("own-agent", 1, 6000, 6005),
    ]
    .map(|(name, cid, first, last)| {
        unseen(name, Action::Vsock { cid, first, last })
            .alive(&[Vantage::Guest])
            .controls(&[Leak::Seccomp0])
            .needs(&["machine"])
    })
    .into()
}
