//! The capability contract: what a backend in a topology does not have, so that a case which needs it does not apply.
//!
//! Kept short on purpose. An attempt that cannot succeed because something is absent is still worth making; only where there
//! is nothing to attempt is a need declared.

/// Every need that a case may name, with what it means.
pub const NEEDS: &[(&str, &str)] = &[
    ("ip-address", "the guest has an address of its own on a network"),
    ("icmp", "the guest's network carries ICMP"),
    (
        "router",
        "the guest's network is one on which a router can advertise itself",
    ),
    (
        "link-local",
        "the guest's network carries what is for link-local addresses",
    ),
    (
        "given-names",
        "whoever makes the guest can give it names, for the host or for neighbours",
    ),
    (
        "loopback-datagrams",
        "datagrams for a loopback address of the guest can be led to its host's",
    ),
    (
        "own-entrypoint",
        "whoever makes the guest can have something else started in it than `bottle-guest`",
    ),
    (
        "machine",
        "the guest is a virtual machine, with devices and a process of the host that is it",
    ),
    (
        "shared-kernel",
        "the guest's processes are processes of the host's kernel",
    ),
    ("container-engine", "the guest is made by a container engine"),
    (
        "whole-kernel",
        "the guest's kernel has memory policies, quotas and swap, which a distribution's has",
    ),
    ("set-user-id", "programs of the image keep their set-user-id bit"),
    ("own-network", "the bottle makes a network of its own in a run"),
];

/// What this backend lacks in this topology: (need, reason). Empty for an unknown backend, so that its cases are run rather
/// than left out.
pub fn contract(backend: &str, topology: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_backend: &[_] = match backend {
        "docker" => &[NO_MACHINE],
        "smolmachines" => &[
            NO_ICMP,
            NO_ROUTER,
            NO_LINK_LOCAL,
            NO_GIVEN_NAMES,
            NO_LOOPBACK_DATAGRAMS,
            NO_ENTRYPOINT,
            OWN_KERNEL,
            NO_ENGINE,
            NO_WHOLE_KERNEL,
            NO_SET_USER_ID,
        ],
        _ => &[],
    };
    let of_topology: &[_] = match topology {
        "sealed" if !of_backend.is_empty() => &[NO_ADDRESS, NO_NETWORK],
        _ => &[],
    };
    of_topology.iter().chain(of_backend).copied()
}

/// Why a case with these needs does not apply there; `None` when it does.
pub fn not_applicable(backend: &str, topology: &str, needs: &[&str]) -> Option<&'static str> {
    let (_, reason) = contract(backend, topology).find(|(need, _)| needs.contains(need))?;
    Some(reason)
}

const NO_ADDRESS: (&str, &str) = (
    "ip-address",
    "a sealed guest has no network and no address that could be taken over or given again",
);
const NO_NETWORK: (&str, &str) = (
    "own-network",
    "a sealed bottle of a run makes no network: its guest has none, and its bundle joins the run's stand-in internet",
);
// Of smolvm 1.32.2, measured; with these no known-leaky machine could be made that turns the case red.
const NO_ICMP: (&str, &str) = (
    "icmp",
    "smolvm carries TCP and UDP: with the widest policy of either of its networks, no echo request left a machine",
);
const NO_ROUTER: (&str, &str) = (
    "router",
    "a machine's network is smolvm's own gateway, past which no router's advertisement comes",
);
const NO_LINK_LOCAL: (&str, &str) = (
    "link-local",
    "smolvm refuses link-local destinations by itself, whatever a machine's policy allows",
);
const NO_GIVEN_NAMES: (&str, &str) = (
    "given-names",
    "smolvm gives a machine no names, for its host or its neighbours; what a name server answers is EG-10's to ask",
);
const NO_LOOPBACK_DATAGRAMS: (&str, &str) = (
    "loopback-datagrams",
    "what a machine sends to a loopback address stays in it, and the sockets that smolvm can hand to it carry streams",
);
const NO_ENTRYPOINT: (&str, &str) = (
    "own-entrypoint",
    "a machine's first process is smolvm's own, and its command is started by bottle-guest, which the bundle brings: before the \
     bundle there is nothing to start",
);
const NO_MACHINE: (&str, &str) = (
    "machine",
    "the guest is a container: there is no hypervisor, no virtual device and no process of the host that is a machine",
);
const OWN_KERNEL: (&str, &str) = (
    "shared-kernel",
    "the guest is a virtual machine with a kernel of its own, which the host cannot look into",
);
const NO_ENGINE: (&str, &str) = (
    "container-engine",
    "the guest is made by the smolvm program; there is no container engine whose socket it could have",
);
const NO_WHOLE_KERNEL: (&str, &str) = (
    "whole-kernel",
    "the kernel that smolvm brings along is built without memory policies, quotas and swap: the call ends with ENOSYS, filtered or not",
);
const NO_SET_USER_ID: (&str, &str) = (
    "set-user-id",
    "an image's files are unpacked on the host without set-user-id bits, and so come into a machine",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_needs_are_declared() {
        for backend in ["docker", "smolmachines"] {
            for topology in ["sealed", "routed"] {
                for (need, reason) in contract(backend, topology) {
                    assert!(NEEDS.iter().any(|(known, _)| *known == need), "{need}");
                    assert!(!reason.is_empty());
                }
            }
        }
        assert!(not_applicable("docker", "sealed", &["ip-address"]).is_some());
        assert_eq!(not_applicable("docker", "routed", &["ip-address"]), None);
        assert_eq!(not_applicable("docker", "sealed", &[]), None);
    }
}
