//! HE-05: sockets of the engine and the session.

use super::make::{sequence, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, SocketProtocol, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-05",
    title: "sockets of the engine and the session",
    requirement: "No UNIX socket that the guest can reach MUST speak an engine's, a message bus's or an agent's protocol.",
    why: "The engine's socket is root on the host; ssh and gpg agents sign whatever they are asked.",
    source: "Seen in: CDK docker-sock-check, break-out-the-box -find-docker, deepce, gh-aw-firewall no-docker, sandbox-runtime #234.",
    does: "Finds every UNIX socket in the guest, connects and speaks the protocols of Docker, containerd, podman, D-Bus, ssh-agent and gpg-agent. An answer in the protocol is a finding.",
    on_breach: "Remove the mount that the finding names. Nothing in a bottle needs the engine.",
    priority: Priority::P0,
    tags: &["sockets", "engine"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let speak = |protocol, paths: &[&str]| Action::UnixSockets {
        protocol,
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
        declared: ["/run/bottle/proxy.sock", "/run/bottle/lease.sock"]
            .map(str::to_owned)
            .into(),
    };
    let known = ["/var/run/docker.sock", "/run/docker.sock", "/run/user/1000/docker.sock"];
    let sessions = sequence([
        speak(SocketProtocol::Podman, &["/run/podman/podman.sock"]),
        speak(SocketProtocol::Dbus, &["/run/dbus/system_bus_socket"]),
        speak(SocketProtocol::SshAgent, &[]),
        speak(SocketProtocol::GpgAgent, &[]),
        speak(SocketProtocol::Docker, &[]),
    ]);
    [
        ("docker-anywhere", speak(SocketProtocol::Docker, &[])),
        ("docker-known-paths", speak(SocketProtocol::Docker, &known)),
        ("all-other-protocols", sessions),
    ]
    .map(|(name, action)| {
        unseen(name, action)
            .alive(&[Vantage::Guest])
            .controls(&[Leak::Sock])
            .needs(&["container-engine"])
    })
    .into()
}
