//! LC-01: nothing is left after a stop.

use super::make::runner;
use crate::{CaseSpec, InventoryKind, Leak, Priority, Probe, RunnerCase, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "LC-01",
    title: "nothing is left after a stop",
    requirement: "Closing a bottle MUST leave nothing of it in the engine or on the host.",
    why: "Leftovers pile up, keep secrets alive, and are what the next bottle trips over.",
    source: "Seen in: httpjail test_comprehensive_resource_cleanup, boundary TestIPTablesCleanup.",
    does: "Takes an inventory, launches and closes a bottle, and compares. One case a kind of thing. Networks and volumes are also looked for by their names, without the label. Of kinds that no bottle has, one is made under another name to show that the inventory finds it (a loop device needs root and losetup).",
    on_breach: "The undo step of what is left is missing or failed: see the teardown's own messages, and run `bottle cleanup`.",
    priority: Priority::P0,
    tags: &["lifecycle", "teardown"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    [
        ("containers", InventoryKind::Containers),
        ("networks", InventoryKind::Networks),
        ("volumes", InventoryKind::Volumes),
        ("interfaces", InventoryKind::Interfaces),
        ("firewall-rules", InventoryKind::FirewallRules),
        ("mounts", InventoryKind::Mounts),
        ("cgroups", InventoryKind::Cgroups),
        ("processes", InventoryKind::Processes),
        ("loop-devices", InventoryKind::LoopDevices),
        ("unix-sockets", InventoryKind::Sockets),
        ("temporary-files", InventoryKind::TemporaryFiles),
        ("networks-by-name", InventoryKind::UnlabelledNetworks),
        ("volumes-by-name", InventoryKind::UnlabelledVolumes),
        ("state-directory", InventoryKind::StateDirectory),
    ]
    .map(|(name, kind)| {
        let needs: &[&str] = match kind {
            InventoryKind::Networks | InventoryKind::FirewallRules => &["own-network"],
            // What a machine shares with its bundle is a directory.
            InventoryKind::UnlabelledVolumes => &["container-engine"],
            _ => &[],
        };
        runner(name, RunnerCase::InventoryAfterStop(kind))
            .alive(&[Vantage::Inventory])
            .controls(&[Leak::NoReap])
            .needs(needs)
    })
    .into()
}
