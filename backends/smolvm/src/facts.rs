//! What machines cannot do.

use bottle_backend::CapabilityContract;
use bottle_plan::{BackendKind, Topology};

/// What a bottle with a machine does not have: (topology, need, reason). The needs are those of the probes' own contract.
const CANNOT: &[(Topology, &str, &str)] = &[
    (
        Topology::Sealed,
        "ip-address",
        "a sealed guest has no network and no address that could be taken over or given again",
    ),
    (Topology::Sealed, "shared-kernel", OWN_KERNEL),
    (Topology::Routed, "shared-kernel", OWN_KERNEL),
    (Topology::Sealed, "container-engine", NO_ENGINE),
    (Topology::Routed, "container-engine", NO_ENGINE),
];

const OWN_KERNEL: &str = "the guest is a virtual machine with a kernel of its own, which the host cannot look into";
const NO_ENGINE: &str =
    "the guest is made by the smolvm program; there is no container engine whose socket it could have";

pub(crate) fn contract() -> CapabilityContract {
    CapabilityContract {
        backend: BackendKind::Smolmachines,
        topologies: vec![Topology::Sealed, Topology::Routed],
        cannot: CANNOT
            .iter()
            .map(|(topology, name, reason)| (*topology, (*name).to_owned(), (*reason).to_owned()))
            .collect(),
    }
}
