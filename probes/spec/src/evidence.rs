//! What is known about one case after it was attempted: the input of the judge.

use serde::{Deserialize, Serialize};

use crate::{Leak, Nonce};

/// Version of the evidence document.
pub const EVIDENCE_VERSION: u32 = 1;

/// A place outside the guest from which nonces are seen, or a kind of knowledge that must be shown to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vantage {
    /// TCP payload at any address of the stand-in internet.
    InternetTcp,
    /// UDP payload there (QUIC Initials included).
    InternetUdp,
    /// ICMP echo payload there.
    InternetIcmp,
    /// Any of these over IPv6.
    InternetIp6,
    /// Any of these over IPv6, from an address that the stand-in internet's router advertised (RFC 4862).
    InternetAdvertised,
    /// A name in a query that reached the authoritative name server.
    InternetDns,
    /// A request at the fake metadata service.
    Metadata,
    /// A request at an origin that the policy allows, that is: the way through the bundle works.
    Origin,
    /// TCP listener of the host on 127.0.0.0/8.
    HostLoopback4,
    /// TCP listener of the host on `::1`.
    HostLoopback6,
    /// TCP listener of the host on the wildcard addresses.
    HostWildcard,
    /// UDP listeners of the host.
    HostUdp,
    /// Listener in the peer bottle's guest.
    PeerGuest,
    /// Decision log (and control routes) of the peer bottle's bundle.
    PeerBundle,
    /// Loopback (see `bundle.lo.tcp` in [`crate::world`]) and control routes of the bottle's own bundle.
    OwnBundle,
    /// The decision log of the bottle's own bundle.
    DecisionLog,
    /// What the agent found inside the guest. Alive when it found the planted marker in the same case, or when cases of its own
    /// before and after (a search for the marker) found it.
    Guest,
    /// What the host reads about the guest's processes (`/proc/PID/status`).
    HostProcess,
    /// Inventory of the engine and of the host's kernel objects.
    Inventory,
    /// Files on the host: state directory, logs, reports.
    HostFiles,
}

/// A nonce seen where it must not (or may) be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Where.
    pub at: Vantage,
    /// The nonces in the same message, the case's own among them.
    pub nonces: Vec<Nonce>,
    /// Who sent it, as far as known (`address:port`).
    pub from: String,
    /// To where (`address:port`, or a name).
    pub to: String,
    /// Protocol and more, for a person: `tcp`, `udp`, `quic-initial`, `http GET /x host=y`.
    pub what: String,
    /// Milliseconds since the witness started.
    pub at_ms: u64,
}

/// What the agent reports of a case: one JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Key of the case in the agent's list.
    pub case: String,
    /// The case's nonce, as proof that the line belongs to it.
    pub nonce: Nonce,
    /// Whether everything was really tried.
    pub issued: bool,
    /// Calls and their results, for a person; never a verdict. At most 64 lines of 300 characters.
    pub trace: Vec<String>,
    /// What was found that must not be there.
    pub findings: Vec<String>,
    /// Whether the planted marker was found (`None`: there was none to find).
    pub marker_found: Option<bool>,
}

/// Proof that a witness worked: a nonce sent by the same client code over a path that is open, and whether it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// Which witness.
    pub at: Vantage,
    /// Whether the proof was made before the case was attempted and arrived.
    pub before: bool,
    /// Whether a proof made after the case's settle window arrived.
    pub after: bool,
}

/// How the agent's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentEnd {
    /// It answered its whole list and ended with 0.
    Clean,
    /// It ended with this code before its list was done.
    Crashed(i64),
    /// It was ended at the runner's deadline.
    TimedOut,
    /// It was started; how it ended was not seen. An engine forgets that when the guest has gone with it.
    Unseen(String),
    /// It could not be started.
    NotStarted(String),
    /// There is none: the runner itself did what the case asks (life cycle, host files).
    NoAgent,
}

/// A line of the decision log that carries the case's nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionSeen {
    /// Whether it was a refusal.
    pub denied: bool,
    /// Rule or reason.
    pub rule: String,
    /// Daemon and stage.
    pub by: String,
}

/// What one case must show to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// What counts as a breach.
    pub oracle: Oracle,
    /// The witnesses that must be shown to have worked.
    pub alive: Vec<Vantage>,
    /// Whether the design promises a logged refusal.
    pub decision: bool,
}

/// What counts as a breach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oracle {
    /// The nonce seen anywhere, or anything found.
    Unseen,
    /// The nonce seen together with a planted secret, or anything found. (The request itself may arrive.)
    SecretUnseen,
    /// A fact about the guest that the host reads differs, or anything found.
    Facts(Vec<(String, String)>),
}

/// Everything known about one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// [`EVIDENCE_VERSION`].
    pub version: u32,
    /// Which cell of the matrix.
    pub cell: Cell,
    /// What it must show.
    pub expectation: Expectation,
    /// Its nonce.
    pub nonce: Nonce,
    /// Planted secrets that this case is about.
    pub secrets: Vec<Nonce>,
    /// The agent's line (or the runner's own, for cases without an agent).
    pub attempt: Option<Attempt>,
    /// What was wrong with the agent's output: lines that are malformed, duplicate, or missing after a clean end.
    pub faults: Vec<String>,
    /// How the agent ended.
    pub agent: AgentEnd,
    /// Proofs of the witnesses.
    pub liveness: Vec<Liveness>,
    /// Whether the settle window passed with the witness acknowledging its end.
    pub settled: bool,
    /// Sightings that have the case's nonce.
    pub sightings: Vec<Sighting>,
    /// Decisions that have the case's nonce.
    pub decisions: Vec<DecisionSeen>,
    /// Facts that the host read.
    pub facts: Vec<(String, String)>,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A cell of the matrix: one case of one probe on one kind of bottle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// Probe id, for example `LB-01`.
    pub probe: String,
    /// Case name.
    pub case: String,
    /// `docker` or `smolmachines`.
    pub backend: String,
    /// `sealed` or `routed`.
    pub topology: String,
    /// The known-leaky bottle it ran in, when it did.
    pub leak: Option<Leak>,
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub reason: String,
}

/// What a case showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All four parts of the proof are there.
    Held,
    /// Seen once is enough.
    Breached,
    /// A part of the proof is missing.
    Inconclusive,
    /// The suite itself failed.
    Error,
    /// The backend's contract says that it does not apply.
    NotApplicable,
    /// A documented channel within its budget.
    Residual,
    /// Waived by an owner until a date.
    Waived,
}
