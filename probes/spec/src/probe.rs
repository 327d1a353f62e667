//! Probes, their cases, and the known-leaky bottles that prove them.

use serde::{Deserialize, Serialize};

use crate::{Action, Leak, Oracle, RunnerCase, Vantage};

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
