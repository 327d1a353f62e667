//! What the probe agent can be asked to do.
//!
//! Texts are templates. The runner replaces `${key}` from the world of the run; the agent replaces `{nonce}` by the case's
//! nonce, `{ok}` by its second nonce (for the part of a conversation that is allowed), `{b64:TEXT}` by the base64 of the
//! replaced TEXT and `{rot:TEXT}` by TEXT with every byte's order reversed (so that a witness does not recognise a nonce in
//! it). A text without a `{nonce}` carries none.

use serde::{Deserialize, Serialize};

use crate::{DnsTransport, Step};

/// As a source address: whichever the guest has made of a router's advertisement (RFC 4862).
pub const ADVERTISED: &str = "advertised";

/// One thing to attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Connects by TCP, sends, reads at most 4 KiB for at most 500 ms.
    Tcp {
        /// `address:port`, `[v6%zone]:port` or `name:port` (looked up as programs do: hosts file, then `resolv.conf`).
        to: String,
        /// What is sent after connecting.
        send: String,
        /// Source address to bind first; [`ADVERTISED`]: one that a router advertised, waited for where there is none yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// Sends datagrams (twice, 20 ms apart) and waits 200 ms for an answer.
    Udp {
        /// As in `Tcp`. Broadcast and multicast addresses are allowed.
        to: String,
        /// The payload.
        send: String,
        /// Pads the payload to this length, so that it is sent in fragments.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pad_to: Option<usize>,
    },
    /// Sends an ICMP or ICMPv6 echo request with a payload.
    Icmp {
        /// Address.
        to: String,
        /// Whether a raw socket is used instead of a datagram one.
        raw: bool,
        /// The payload.
        send: String,
        /// Whether an echo reply is a finding (towards hosts that run no witness for ICMP, such as a peer's guest).
        #[serde(default, skip_serializing_if = "is_false")]
        answer_is_finding: bool,
    },
    /// Asks a name server.
    Dns {
        /// `resolv.conf` (all servers in it) or `address:port`.
        server: String,
        /// How.
        transport: DnsTransport,
        /// The name.
        name: String,
        /// Query type (RFC 1035 and successors): 1 = A, 28 = AAAA, 16 = TXT.
        qtype: u16,
        /// Whether an answer section with at least one record is a finding.
        #[serde(default, skip_serializing_if = "is_false")]
        answer_is_finding: bool,
    },
    /// Has a conversation over one connection.
    Talk {
        /// `proxy` (the address in the guest's `HTTP_PROXY`), `unix:PATH`, or as in `Tcp`.
        to: String,
        /// What is said and heard, in order. The first step that fails ends the conversation (that is still an attempt when
        /// at least one byte with the nonce was sent, or when connecting itself was refused).
        steps: Vec<Step>,
    },
    /// Fetches an URL as a program would that honours these environment variables only.
    Fetch {
        /// The URL (`http://` only needs TCP; `https://` does TLS without verifying).
        url: String,
        /// Environment of the pretended program: `HTTP_PROXY`, `NO_PROXY`, ... `inherit:NAME` values copy the guest's.
        env: Vec<(String, String)>,
        /// Pretended `--resolve`/`--connect-to`/hosts entry: connects there instead of looking the name up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connect_to: Option<String>,
        /// Extra field lines.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fields: Vec<(String, String)>,
    },
    /// Connects to every port of a range and sends to each that accepts; the open ports are findings unless declared. Where a
    /// gateway completes connections itself, only one that answers is open.
    Sweep {
        /// Address.
        to: String,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
        /// What is sent to each.
        send: String,
        /// Ports that may be open; at least one of them must be found open for the sweep's marker.
        declared: Vec<u16>,
        /// Whether open ports that are not declared are findings (on a sinkhole they are not: the witness sees the nonce).
        open_is_finding: bool,
        /// Who completes connections: `end-to-end` or `gateway`.
        handshakes: String,
    },
    /// Does several things in order; the case is issued when all of them are.
    Sequence {
        /// The things.
        actions: Vec<Action>,
    },
    /// Repeats a thing.
    Repeat {
        /// How often.
        times: u32,
        /// Pause between, in milliseconds.
        pause_ms: u64,
        /// The thing.
        action: Box<Action>,
    },
    /// Tries to change the guest's own network or resolver configuration. Failing to is fine: what follows decides.
    Tamper {
        /// What to change.
        what: Tamper,
    },
    /// Looks for planted texts.
    Find {
        /// Where.
        place: Place,
        /// The texts. Each is looked for raw, and in base64, hex, reversed and URL-encoded form.
        needles: Vec<String>,
        /// A text that is known to be there: not finding it means that the search does not work. Empty: none.
        marker: String,
    },
    /// Looks for files.
    FindFiles {
        /// Absolute paths (`~` is every home directory); a file or non-empty directory there is a finding.
        paths: Vec<String>,
        /// A file that is known to be there.
        marker: String,
    },
    /// Writes a text into a new file in every directory that it can write to.
    WriteEverywhere {
        /// The text.
        text: String,
        /// Only below these directories; empty: everywhere.
        below: Vec<String>,
    },
    /// Reports the capability sets, and tries one real operation that needs `capability`; success is a finding.
    Capability {
        /// Kernel name without `CAP_`, lower case.
        capability: String,
    },
    /// Makes a system call that the design forbids with harmless arguments; anything but EPERM/ENOSYS/EACCES is a finding.
    Syscall {
        /// Kernel name.
        name: String,
    },
    /// Checks `no_new_privs`: a flag of 0, or a set-user-id helper that gains something, is a finding.
    NoNewPrivileges {
        /// Whether the helper is planted and run, besides reading the flag.
        helper: bool,
    },
    /// Looks at open files, working directory and root of a process; anything but 0, 1, 2, pipes and sockets of its own is a
    /// finding.
    Descriptors {
        /// Which process.
        of: DescriptorsOf,
    },
    /// Connects to UNIX sockets and speaks a protocol; an answer that shows it is spoken is a finding.
    UnixSockets {
        /// Which protocol.
        protocol: SocketProtocol,
        /// Extra paths besides all that can be found (`/proc/net/unix`, a walk of the file system).
        paths: Vec<String>,
        /// Paths that are declared services.
        declared: Vec<String>,
    },
    /// Asks by TCP, wherever an engine could serve its API; an answer that shows that one is there is a finding.
    EngineApi {
        /// As in `Tcp`; `env:NAME` is what that variable of the guest says (`tcp://host:port`), if it says anything.
        to: Vec<String>,
        /// The question.
        send: String,
    },
    /// Connects to every vsock port of a range (vsock(7)); each that accepts is a finding.
    Vsock {
        /// Context id: 1 is the machine itself, 2 its host.
        cid: u32,
        /// First port.
        first: u32,
        /// Last port.
        last: u32,
    },
    /// Lists the machine's devices of a kind; each that is not declared is a finding.
    Devices {
        /// What kind.
        of: DeviceKind,
        /// What may be there.
        declared: Vec<String>,
    },
    /// Tries in one way to make a read-only share writable, then writes to the file `marker` in a directory of it, which everybody
    /// may. Whether that changed anything is seen outside.
    WriteShare {
        /// The way.
        how: ShareAttack,
        /// The directory.
        directory: String,
    },
    /// Starts a process that is to outlive the agent and the bottle, with the text in its arguments.
    Survive {
        /// By what means.
        how: Survival,
        /// The text.
        text: String,
    },
    /// Serves as a listener for nonces and prints a sighting a line (peer guests). Never ends by itself.
    Listen {
        /// TCP and UDP ports.
        ports: Vec<u16>,
        /// Addresses to listen on; empty: the wildcard addresses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
    },
}

/// How a process tries to outlive those who could end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survival {
    /// Its parent ends at once, so that it is a child of the guest's init.
    DoubleFork,
    /// It leads a session of its own, without a terminal.
    NewSession,
    /// SIGHUP, SIGINT and SIGTERM do nothing to it.
    IgnoredSignals,
    /// It is stopped, and takes no signal but SIGKILL and SIGCONT.
    Stopped,
}

impl Survival {
    /// Its name, as the agent is told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DoubleFork => "double-fork",
            Self::NewSession => "new-session",
            Self::IgnoredSignals => "ignored-signals",
            Self::Stopped => "stopped",
        }
    }
}

/// What kind of device of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// Disks, by their kernel name (`/sys/block`), loop and RAM disks left out.
    Block,
    /// Virtio devices, by their device id (virtio 1.2, section 5) and how many there are: `2x2` are two block devices.
    Virtio,
    /// What lets a machine run machines: processor flags `svm` and `vmx`, `/dev/kvm`.
    Virtualisation,
}

/// How a read-only share is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareAttack {
    /// Nothing first.
    Write,
    /// Remounts it writable (`MS_REMOUNT`, with and without `MS_BIND`).
    Remount,
    /// Mounts every virtiofs share of the machine a second time, and writes there as well.
    SecondMount,
    /// Cuts the file (`O_TRUNC`).
    Truncate,
    /// Sets an extended attribute of the file.
    Attribute,
    /// Makes a second file beside it.
    Create,
    /// Renames the file.
    Rename,
    /// Removes the file.
    Remove,
}

/// For fields that are left out of documents when they are false.
fn is_false(value: &bool) -> bool {
    !*value
}

/// What to tamper with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tamper {
    /// Adds a default route over every interface (rtnetlink).
    Route,
    /// Adds an address to every interface.
    Address,
    /// Changes a hardware address.
    HardwareAddress,
    /// Flushes nftables (netlink).
    Nftables,
    /// Flushes iptables (`IPT_SO_SET_REPLACE` with an empty filter table through a raw socket).
    Iptables,
    /// Attaches a traffic-control qdisc.
    TrafficControl,
    /// Loads a BPF program.
    Bpf,
    /// Overwrites `/etc/resolv.conf` with `server`.
    ResolvConf,
    /// Adds names to `/etc/hosts`.
    Hosts,
}

/// Where to look for planted texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The agent's own environment.
    Environment,
    /// Shell start-up files and agent configuration below every home and `/etc`.
    StartupFiles,
    /// `/proc/*/environ` of every process.
    ProcEnviron,
    /// `/proc/*/cmdline` of every process.
    ProcCmdline,
    /// What `/proc/*/fd/*` lead to, as far as they are readable files.
    ProcDescriptors,
    /// `/proc/*/maps`: names of mapped files.
    ProcMaps,
    /// `/proc/*/mem` of every process that can be read.
    ProcMemory,
    /// Core dump pattern, core files.
    CoreDumps,
    /// Every regular file of the file system except `/proc` and `/sys`.
    Files,
    /// Shared directories only: mounts other than the root.
    Mounts,
    /// Block devices and swap.
    Devices,
    /// The proxy's answers: `GET` of well-known paths on the guest's proxy.
    ProxyRoutes,
}

/// Whose descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DescriptorsOf {
    /// The agent itself, as started by an exec.
    Own,
    /// Process 1 of the guest.
    Init,
    /// The guest's main command (the child of process 1).
    Main,
}

/// A protocol to speak to a UNIX socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketProtocol {
    /// Docker Engine API: `GET /_ping`.
    Docker,
    /// containerd (HTTP/2 gRPC preface).
    Containerd,
    /// podman: `GET /libpod/_ping`.
    Podman,
    /// D-Bus: `AUTH EXTERNAL`.
    Dbus,
    /// ssh-agent: SSH_AGENTC_REQUEST_IDENTITIES.
    SshAgent,
    /// gpg-agent: greets with `OK`.
    GpgAgent,
}
