//! LB-06: alias names of the host.

use super::make::{tcp, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LB-06",
    title: "alias names of the host",
    requirement: "No name MUST lead a guest to the host: alias names such as host.docker.internal do not resolve to it.",
    why: "Tools try these names by themselves, and engines put them into hosts files and resolvers without being asked.",
    source: "Seen in: nanoclaw #2731, OpenShell host_gateway_alias.",
    does: "Looks up and connects to the alias names that engines and virtual machines use for their host.",
    on_breach: "Remove the alias from the guest's hosts file and resolver, and find out why the host has an address on the guest's network at all.",
    priority: Priority::P0,
    tags: &["host", "names", "dns"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let names = [
        "host.docker.internal",
        "gateway.docker.internal",
        "host.containers.internal",
        "host.lima.internal",
        "host.orb.internal",
        "host.minikube.internal",
    ];
    names
        .map(|name| {
            unseen(name.replace('.', "-"), tcp(format!("{name}:${{host.any.tcp}}")))
                .alive(&[Vantage::HostWildcard])
                .controls(&[Leak::GwHost])
                .needs(&["given-names"])
        })
        .into()
}
