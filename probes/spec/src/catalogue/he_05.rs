//! HE-05: sockets of the engine and the session.

use super::make::{sequence, tls, unseen};
use crate::{Action, CaseSpec, Leak, Priority, Probe, SocketProtocol, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "HE-05",
    title: "sockets of the engine and the session",
    requirement: "No UNIX socket and no TCP port that the guest can reach MUST speak an engine's, a message bus's or an agent's protocol.",
    why: "The engine's socket is root on the host; ssh and gpg agents sign whatever they are asked.",
    source: "Seen in: CDK docker-sock-check, break-out-the-box -find-docker, deepce, gh-aw-firewall no-docker, sandbox-runtime #234.",
    does: "Finds every UNIX socket in the guest, connects and speaks the protocols of Docker, containerd, podman, D-Bus, ssh-agent and gpg-agent. Asks for the engine's API by TCP on 2375 and 2376 of its gateway, of the host's names and of `DOCKER_HOST`. An answer in the protocol is a finding; a stand-in for the engine waits at these ports of the host.",
    on_breach: "Remove the mount, the name or the network that the finding names, and have the engine listen on its socket alone. Nothing in a bottle needs the engine.",
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
    let sockets = [
        ("docker-anywhere", speak(SocketProtocol::Docker, &[])),
        ("docker-known-paths", speak(SocketProtocol::Docker, &known)),
        ("all-other-protocols", sessions),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::Guest]));
    let api = |to: &[&str]| Action::EngineApi {
        to: to.iter().map(|&place| place.to_owned()).collect(),
        send: "GET /_ping HTTP/1.1\r\nHost: engine\r\nX-Nonce: {nonce}\r\n\r\n".to_owned(),
    };
    let gateway = [
        "${inner.gateway}:2375",
        "${inner.gateway}:2376",
        "${inner.last}:2375",
        "${bundle.address}:2375",
        "${host.address.docker0}:2375",
        "${host.address.1}:2375",
    ];
    let names = [
        "host.docker.internal:2375",
        "gateway.docker.internal:2375",
        "host.containers.internal:2375",
        "host.docker.internal:2376",
    ];
    let by_tls = Action::Talk {
        to: "${inner.gateway}:2376".to_owned(),
        steps: vec![tls("{nonce}.engine.test")],
    };
    let ports = [
        ("tcp-gateway", api(&gateway)),
        ("tcp-host-names", api(&names)),
        ("tcp-configured", api(&["env:DOCKER_HOST"])),
    ]
    .map(|(name, action)| unseen(name, action).alive(&[Vantage::Guest, Vantage::HostWildcard]));
    let by_tls = unseen("tcp-tls", by_tls).alive(&[Vantage::HostWildcard]);
    sockets
        .into_iter()
        .chain(ports)
        .chain([by_tls])
        .map(|case| case.controls(&[Leak::Sock]).needs(&["container-engine"]))
        .collect()
}
