//! What a bundle is told at start, and what it says while it runs.
//!
//! A [`BundleConfig`] travels as the first line of the bundle's standard input, [`Tokens`] as the second. Everything the
//! bundle prints on standard output is one [`BundleEvent`] a line.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the configuration document that this build reads and writes.
pub const CONFIG_VERSION: u32 = 1;

/// Longest line (in bytes) that a bundle reads from standard input; a longer one ends the bundle.
pub const MAX_CONFIG_LINE: usize = 1 << 20;

/// Name of the HTTP field in which a probe carries its nonce, and from which decision records copy it.
pub const NONCE_FIELD: &str = "x-bottle-nonce";

/// Port of pipelock where a guest reaches it over TCP.
pub const PROXY_PORT: u16 = 8888;

/// Port of egress on the bundle's own loopback.
pub const EGRESS_PORT: u16 = 9099;

/// Directory that the bundle publishes to the guest (same path on both sides): `bottle-guest`, `ca.pem`, `proxy.sock`.
pub const SHARED_DIR: &str = "/run/bottle";

/// Directory of the bundle's sockets where [`Relay`] leads to them: in the bundle's own memory, since a directory that an
/// engine on another kernel shares with this one bears no sockets.
pub const RELAYED_DIR: &str = "/run/bottle-relayed";

/// Port of the relay in the bundle.
pub const RELAY_PORT: u16 = 9470;

/// Everything that one bundle needs to know, except secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// [`CONFIG_VERSION`].
    pub version: u32,
    /// Slug of the bottle, repeated in every event.
    pub bottle: String,
    /// The daemons to run. With an empty list the init supervisor idles.
    pub daemons: Vec<Daemon>,
    /// Where pipelock listens for the guest.
    pub listen: Vec<Listen>,
    /// Directory into which the bundle writes `bottle-guest` (0755) and `ca.pem` (0644), and in which it holds leases unless
    /// there is a `relay`; usually [`SHARED_DIR`].
    pub publish: Option<String>,
    /// What the guest may reach.
    pub policy: Policy,
    /// Where egress adds a token.
    pub routes: Vec<Route>,
    /// Who resolves names.
    pub resolver: Resolver,
    /// Certificate authorities (PEM) trusted for upstreams, in addition to `public_roots`.
    pub upstream_roots: Vec<String>,
    /// Whether the public (Mozilla) certificate authorities are trusted for upstreams.
    pub public_roots: bool,
    /// Whether the bundle ends when its standard input does: the launcher's death then ends the bundle.
    pub lease: bool,
    /// Byte and time limits of the wire.
    pub limits: WireLimits,
    /// How the launcher reaches the bundle's sockets where it cannot open them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// Controls taken away to make a known-leaky bottle. Absent from shipped builds, which refuse the key.
    #[cfg(feature = "leaky")]
    #[serde(default)]
    pub removed: Vec<crate::Control>,
}

impl BundleConfig {
    /// A bundle that runs nothing, listens nowhere and allows nothing. Makers of configurations start from it, so that
    /// they need not know which keys this build has.
    pub fn new(bottle: impl Into<String>) -> Self {
        Self {
            version: CONFIG_VERSION,
            bottle: bottle.into(),
            daemons: Vec::new(),
            listen: Vec::new(),
            publish: None,
            policy: Policy::default(),
            routes: Vec::new(),
            resolver: Resolver::System,
            upstream_roots: Vec::new(),
            public_roots: false,
            lease: true,
            limits: WireLimits::default(),
            relay: None,
            #[cfg(feature = "leaky")]
            removed: Vec::new(),
        }
    }
}

/// A daemon of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Daemon {
    /// The filtering, intercepting proxy: first hop of the guest.
    Pipelock,
    /// The hop behind it that adds tokens and speaks TLS to the upstream.
    Egress,
    /// Leads the launcher to the bundle's sockets.
    Relay,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pipelock, Self::Egress, Self::Relay];
}

/// A published port of the bundle that leads to its sockets whoever knows the bottle's secret (see
/// [`preface`](crate::relay::preface)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// TCP port, on every address of the bundle: which one the engine leads a published port to is its own matter.
    pub port: u16,
    /// Directory of the sockets; their names are the services.
    pub directory: String,
    /// Names that may be asked for.
    pub services: Vec<String>,
}

/// A place to listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// A UNIX socket at this path, made with mode 0666 (reaching it is decided by who has the directory).
    Unix(String),
    /// A TCP socket.
    Tcp(SocketAddr),
}

/// What a guest may reach. An empty policy allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Allowed names with their ports.
    pub allow: Vec<AllowRule>,
}

/// One allowed name pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// `name.example`, or `*.name.example` (one or more labels below it; never the apex), or an address literal.
    /// Written in normal form (see `bottle_policy::name`).
    pub host: String,
    /// The ports that this rule covers; never empty.
    pub ports: Vec<u16>,
}

/// A destination to whose requests egress adds a token. It is allowed without an [`AllowRule`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Exact name, in normal form.
    pub host: String,
    /// Port; the injection happens over verified TLS only.
    pub port: u16,
    /// How the token is added.
    pub auth: Auth,
    /// Key of the token in [`Tokens`]: the name of the operator's environment variable.
    pub token: String,
}

/// How a token is put into a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// As the whole value of this field.
    Header(String),
    /// `Authorization: Bearer TOKEN` (RFC 6750).
    Bearer,
    /// `Authorization: Basic base64(USER:TOKEN)` (RFC 7617).
    Basic {
        /// The user name before the colon.
        user: String,
    },
}

/// Token values by name, and the secret of the relay. Never logged, never part of a plan.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Value by the name in [`Route::token`].
    pub tokens: BTreeMap<String, String>,
    /// What [`BundleConfig::relay`] asks for: [`RELAY_SECRET`](crate::relay::RELAY_SECRET) bytes in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.tokens.keys()).finish()
    }
}

/// Who resolves names for the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolver {
    /// The name servers of `/etc/resolv.conf` in the bundle's container.
    System,
    /// These servers (UDP, then TCP when truncated).
    Servers(Vec<SocketAddr>),
}

/// Limits of the wire. All reads are bounded by a time and a size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WireLimits {
    /// Longest request head in bytes.
    pub head_bytes: usize,
    /// Most header fields in a request head.
    pub head_fields: usize,
    /// Time in which a head, a TLS handshake or a first byte after CONNECT must be complete, in milliseconds.
    pub head_ms: u64,
    /// Time without a byte after which a connection ends, in milliseconds.
    pub idle_ms: u64,
    /// Time for resolving, connecting and the upstream's handshake, in milliseconds.
    pub connect_ms: u64,
    /// Most connections of the guest at a time.
    pub connections: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_fields: 100,
            head_ms: 10_000,
            idle_ms: 300_000,
            connect_ms: 10_000,
            connections: 1024,
        }
    }
}

/// One line of the bundle's standard output; each has a link of the [chain](crate::chain) beside its own fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum BundleEvent {
    /// All daemons listen.
    Ready {
        /// Slug of the bottle.
        bottle: String,
        /// The certificate (PEM) of the bottle's own authority; the guest is to trust it.
        ca_pem: String,
        /// Milliseconds from the start of init to this event.
        after_ms: u64,
    },
    /// A daemon ended and will be started again (or not).
    DaemonExited {
        /// Slug of the bottle.
        bottle: String,
        /// Which one.
        daemon: Daemon,
        /// Its exit status in words.
        status: String,
        /// Milliseconds until it is started again; `None` when it is given up.
        restart_in_ms: Option<u64>,
    },
    /// A daemon that had exited serves again.
    DaemonRestarted {
        /// Slug of the bottle.
        bottle: String,
        /// Which one.
        daemon: Daemon,
    },
    /// The bundle cannot run; it exits after this line.
    Failed {
        /// Slug of the bottle, empty when the configuration was not understood.
        bottle: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A decision on one request or connection.
    Decision(DecisionRecord),
    /// Nothing comes after this line.
    Ended {
        /// How many lines there were before it.
        lines: u64,
    },
}

/// What was decided on one request (or on a connection that never became one), and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Slug of the bottle.
    pub bottle: String,
    /// Who decided.
    pub daemon: Daemon,
    /// Where on the way the decision fell.
    pub stage: Stage,
    /// Whether the request went on.
    pub verdict: DecisionVerdict,
    /// Stable kebab-case name of the rule or refusal, for example `host-not-allowed`.
    pub rule: String,
    /// Request method, at most 32 characters.
    pub method: Option<String>,
    /// Host as normalised, or as received with control bytes escaped when it could not be; at most 300 characters.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Address dialled, when one was.
    pub address: Option<IpAddr>,
    /// Value of the [`NONCE_FIELD`] of the request, or of the CONNECT that opened the connection; at most 64 characters
    /// of `[0-9A-Za-z_-]`, anything else is dropped.
    pub nonce: Option<String>,
    /// The sentence that the guest was sent, if it was sent one.
    pub told: Option<String>,
    /// How many requests this record stands for. Refusals, and requests with a nonce, are recorded one by one; other allowed
    /// requests are counted by method, host, port and address and recorded once a second.
    pub count: u64,
}

/// Where a decision fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The preface of a relayed connection.
    Relay,
    /// Reading the first request head of a connection.
    Head,
    /// A CONNECT request.
    Connect,
    /// The TLS handshake of the guest inside a CONNECT.
    Tls,
    /// A request (absolute form, or inside an intercepted connection).
    Request,
    /// Name resolution and the address rules.
    Resolve,
    /// Connecting to the checked address and verifying the upstream's certificate.
    Upstream,
}

/// Whether a request went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionVerdict {
    /// It did.
    Allow,
    /// It did not.
    Deny,
}
