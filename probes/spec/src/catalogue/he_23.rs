//! HE-23: devices of a machine.

use super::make::unseen;
use crate::{Action, CaseSpec, DeviceKind, Leak, Priority, Probe, Vantage};

/// Devices by their id (virtio 1.2, section 5) and how many, that smolvm 1.32.2 gives a machine (measured): network (routed alone),
/// disks, console, random numbers, balloon, vsock, memory, and shares: the agent's root, the image, two of smolvm's own that are empty,
/// and the bundle's.
const VIRTIO: [&str; 8] = ["1x1", "2x2", "3x1", "4x1", "5x1", "19x1", "24x1", "26x5"];

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-23",
    title: "devices of a machine",
    requirement: "A machine MUST have the devices that it needs and no others, and MUST NOT be able to run machines itself.",
    why: "Each device is code of the host that reads what the guest writes; a disk of the host is the host.",
    source: "Seen in: firecracker test_nv, orbitalab (arrakis exposes nested KVM).",
    does: "Lists the machine's disks and virtio devices against what smolvm gives every machine, and looks for processor flags and a device that let it run machines.",
    on_breach: "Look for `--disk`, `--nested` and `--gpu` in the arguments of `smolvm machine create`, and for what a new version of smolvm adds.",
    priority: Priority::P1,
    tags: &["devices", "machine"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("disks", DeviceKind::Block, &["vda", "vdb"][..]),
        ("virtio", DeviceKind::Virtio, &VIRTIO),
        ("nested-virtualisation", DeviceKind::Virtualisation, &[]),
    ]
    .map(|(name, of, declared)| {
        let declared = declared.iter().map(|&one| one.to_owned()).collect();
        unseen(name, Action::Devices { of, declared })
            .alive(&[Vantage::Guest])
            .controls(&[Leak::Dev])
            .needs(&["machine"])
    })
    .into()
}
