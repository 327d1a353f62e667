//! Probes, their cases, and the known-leaky bottles that prove them.

use serde::{Deserialize, Serialize};

use crate::{Action, Oracle, RunnerCase, Vantage};

/// One requirement and how it is attacked.
pub struct Probe {
    /// Stable id, for example `LB-01`. The two letters are the family.
    pub id: &'static str,
    /// Short title in lower case.
    pub title: &'static str,
    /// The requirement: one sentence with MUST or MUST NOT.
    pub requirement: &'static str,
    /// Why it matters, one or two sentences.
    pub why: &'static str,
    /// Where it comes from: CVE, RFC section, public issue, or the design.
    pub source: &'static str,
    /// What the probe does, one or two sentences.
    pub does: &'static str,
    /// What to do when it is breached.
    pub on_breach: &'static str,
    /// Priority of the catalogue.
    pub priority: Priority,
    /// Words to filter by.
    pub tags: &'static [&'static str],
    /// Its cases.
    pub cases: fn() -> Vec<CaseSpec>,
}

/// How important a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// Runs always.
    P0,
    /// Runs by default.
    P1,
    /// Runs when asked for.
    P2,
}

/// One case of a probe.
#[derive(Clone, Debug)]
pub struct CaseSpec {
    /// Name within the probe, kebab-case.
    pub name: String,
    /// How it is attempted.
    pub how: How,
    /// What counts as a breach.
    pub oracle: Oracle,
    /// The witnesses that must be shown to work for it.
    pub alive: Vec<Vantage>,
    /// Whether a logged refusal with the nonce is promised.
    pub decision: bool,
    /// The known-leaky bottles, each of which must turn this case red. Never empty.
    pub controls: Vec<Leak>,
    /// What it needs of a topology (names of the capability contract, for example `ip-address`).
    pub needs: Vec<&'static str>,
}

/// How a case is attempted.
#[derive(Clone, Debug)]
pub enum How {
    /// By the agent inside the guest.
    Agent(Action),
    /// By the agent, hammering from the first instruction of the guest while the runner does something to the bundle.
    Hammer {
        /// What is repeated until the end.
        action: Action,
        /// What the runner does meanwhile.
        meanwhile: Disturbance,
    },
    /// By the runner, from outside.
    Runner(RunnerCase),
}

/// What the runner does to a bundle while the agent hammers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing: the start itself is the moment.
    Start,
    /// Kills a daemon (SIGKILL); the supervisor starts it again.
    KillPipelock,
    /// Kills egress.
    KillEgress,
    /// Kills the bundle's init, and with it all daemons.
    KillInit,
    /// Stops pipelock (SIGSTOP) for a second.
    FreezePipelock,
    /// Pauses the bundle's container for a second.
    PauseBundle,
    /// Sends SIGHUP to init, what a reload would be.
    Reload,
    /// Removes the bundle's container.
    RemoveBundle,
    /// Kills both daemons, waits until both serve again, and has the action attempted once more.
    RestartDaemons,
    /// Has the engine restart the bundle's container.
    RestartBundle,
    /// Kills the process by which the engine keeps the bundle's container.
    KillKeeper,
}

/// The known-leaky bottles: the shipped bottle with exactly one control removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Leak {
    #[serde(rename = "K-HOSTNET")]
    HostNet,
    #[serde(rename = "K-BRIDGE")]
    Bridge,
    #[serde(rename = "K-GWHOST")]
    GwHost,
    #[serde(rename = "K-V6")]
    V6,
    #[serde(rename = "K-DNSFWD")]
    DnsFwd,
    #[serde(rename = "K-UDP")]
    Udp,
    #[serde(rename = "K-ICMP")]
    Icmp,
    #[serde(rename = "K-EARLY")]
    Early,
    #[serde(rename = "K-PX-OPEN")]
    PxOpen,
    #[serde(rename = "K-PX-NAMEONLY")]
    PxNameOnly,
    #[serde(rename = "K-PX-LAXHOST")]
    PxLaxHost,
    #[serde(rename = "K-PX-LAXIP")]
    PxLaxIp,
    #[serde(rename = "K-PX-ANYPORT")]
    PxAnyPort,
    #[serde(rename = "K-PX-HTTPFREE")]
    PxHttpFree,
    #[serde(rename = "K-PX-NOBIND")]
    PxNoBind,
    #[serde(rename = "K-PX-ONCE")]
    PxOnce,
    #[serde(rename = "K-PX-RESOLVE1")]
    PxResolve1,
    #[serde(rename = "K-PX-FOLLOW")]
    PxFollow,
    #[serde(rename = "K-PX-NOVERIFY")]
    PxNoVerify,
    #[serde(rename = "K-SIDEADM")]
    SideAdm,
    #[serde(rename = "K-RELAY")]
    Relay,
    #[serde(rename = "K-SHAREDNET")]
    SharedNet,
    #[serde(rename = "K-SHAREDVOL")]
    SharedVol,
    #[serde(rename = "K-PUB0")]
    Pub0,
    #[serde(rename = "K-ALIAS")]
    Alias,
    #[serde(rename = "K-SCOPEIP")]
    ScopeIp,
    #[serde(rename = "K-ENV")]
    Env,
    #[serde(rename = "K-FILE")]
    File,
    #[serde(rename = "K-CAKEY")]
    CaKey,
    #[serde(rename = "K-CAWIDE")]
    CaWide,
    #[serde(rename = "K-INJANY")]
    InjAny,
    #[serde(rename = "K-NOSCRUB")]
    NoScrub,
    #[serde(rename = "K-CAPS")]
    Caps,
    #[serde(rename = "K-SECCOMP0")]
    Seccomp0,
    #[serde(rename = "K-SOCK")]
    Sock,
    #[serde(rename = "K-FDLEAK")]
    FdLeak,
    #[serde(rename = "K-DEV")]
    Dev,
    #[serde(rename = "K-RO-GUEST")]
    RoGuest,
    #[serde(rename = "K-VMM-LAX")]
    VmmLax,
    #[serde(rename = "K-NOREAP")]
    NoReap,
    #[serde(rename = "K-REAPALL")]
    ReapAll,
    #[serde(rename = "K-KEEPKEYS")]
    KeepKeys,
}

impl Leak {
    /// All of them, in the catalogue's order.
    pub const ALL: &'static [Self] = &[
        Self::HostNet,
        Self::Bridge,
        Self::GwHost,
        Self::V6,
        Self::DnsFwd,
        Self::Udp,
        Self::Icmp,
        Self::Early,
        Self::PxOpen,
        Self::PxNameOnly,
        Self::PxLaxHost,
        Self::PxLaxIp,
        Self::PxAnyPort,
        Self::PxHttpFree,
        Self::PxNoBind,
        Self::PxOnce,
        Self::PxResolve1,
        Self::PxFollow,
        Self::PxNoVerify,
        Self::SideAdm,
        Self::Relay,
        Self::SharedNet,
        Self::SharedVol,
        Self::Pub0,
        Self::Alias,
        Self::ScopeIp,
        Self::Env,
        Self::File,
        Self::CaKey,
        Self::CaWide,
        Self::InjAny,
        Self::NoScrub,
        Self::Caps,
        Self::Seccomp0,
        Self::Sock,
        Self::FdLeak,
        Self::Dev,
        Self::RoGuest,
        Self::VmmLax,
        Self::NoReap,
        Self::ReapAll,
        Self::KeepKeys,
    ];
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The names of record are those of the serialised form: one table of them is enough.
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => f.write_str(&name),
            _ => Err(std::fmt::Error),
        }
    }
}
