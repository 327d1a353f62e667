//! Probes, their cases, and the known-leaky bottles that prove them.

use serde::{Deserialize, Serialize};

use crate::{Action, Leak, Oracle, ShareAttack, Survival, Vantage};

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
}

/// A case that the runner performs from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum RunnerCase {
    /// LC-01: launches a bottle, closes it, and compares an inventory of this kind with the one before.
    InventoryAfterStop(InventoryKind),
    /// LC-02: ends a launcher in this way and compares the inventory within the bound.
    LauncherDeath(LauncherDeath),
    /// LC-05: looks at the launcher's state directory and the engine for keys and environment files.
    StateFiles(StateCheck),
    /// TX-12: searches an output of the suite or the bundle for planted secrets.
    SecretInOutput(OutputPlace),
    /// TX-18: searches what the engine tells of a bottle for planted secrets.
    SecretInEngine(EnginePlace),
    /// TX-05: looks at certificate authorities from outside.
    Authority(AuthorityCheck),
    /// LC-06: has the guest start a process that is to outlive its parent, closes the bottle, and looks for it on the host.
    Survivor(Survival),
    /// LC-09: kills a launcher, cleans up after it, and looks whether more than its bottle's is gone, or less.
    Cleanup(CleanupCheck),
    /// HE-20: puts a file that everybody may write into what the bottle shares read-only, has the guest attack it, and looks at it.
    ReadOnlyShare(ShareAttack),
    /// HE-24: looks at the process of the host that is the guest's machine.
    MachineProcess(ProcessCheck),
    /// XB-06: closes a bottle, opens another that takes its address, and attacks with what belonged to the former.
    AddressReuse(ReuseCheck),
    /// XB-09: the guest writes a nonce to these places, the peer searches all its files.
    WriteThenPeerSearches(Vec<&'static str>),
    /// XB-10: the guest writes a nonce to these places; a fresh bottle of the same image searches all its files.
    WriteThenFreshSearches(Vec<&'static str>),
    /// XB-13 and XB-14: the peer does the first thing, the bottle under test the second; the peer's secret or reach must not
    /// show.
    PeerThenSelf {
        /// Done in the peer (its policy and token allow it).
        peer: Action,
        /// Done in the bottle under test.
        own: Action,
    },
}

/// What kind of thing is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InventoryKind {
    Containers,
    Networks,
    Volumes,
    Interfaces,
    FirewallRules,
    Mounts,
    Cgroups,
    LoopDevices,
    Processes,
    Sockets,
    TemporaryFiles,
    StateDirectory,
    /// Networks that bear the bottle's name but not its label.
    UnlabelledNetworks,
    /// Volumes that do: an engine makes a volume again, by its name, for whoever mounts it.
    UnlabelledVolumes,
}

/// How a launcher ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LauncherDeath {
    /// SIGKILL while the guest runs.
    Kill,
    /// SIGINT.
    Interrupt,
    /// SIGHUP: its terminal is closed.
    Hangup,
    /// SIGKILL in the middle of a launch.
    KillWhileLaunching,
    /// SIGKILL while the guest runs; only what bears the bottle's name without its label counts, in the engine and on the host.
    KillByName,
    /// SIGKILL in the middle of a launch, as soon as it goes on after having noted this step of its teardown.
    KillAfterStep(&'static str),
    /// SIGKILL after the bundle was begun to be made: its guest must not run yet.
    KillBeforeReadiness,
}

/// What is checked about a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupCheck {
    /// Containers, networks and volumes of others stay, whatever they are called.
    ForeignObjects,
    /// Files beside the bottle's own stay, and those that a link in its directory leads to.
    ForeignFiles,
    /// Two that run at once remove everything, and neither fails.
    TwoAtOnce,
}

/// What is checked about state files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateCheck {
    /// Directory 0700, files 0600, owner the launcher's; nobody else may write to the directories above.
    Modes,
    /// Gone after the stop.
    GoneAfterStop,
    /// A symbolic link planted where the bottle's directory is made is not followed.
    NoFollow,
    /// Nor one planted where the directory above it is.
    NoFollowParent,
    /// Nothing is written where others may write to the directory above.
    WritableParent,
    /// Nor where they may write to the whole state directory.
    WritableStateDirectory,
    /// No key or token in any of them while the bottle lives.
    NoSecretWhileAlive,
    /// None in the engine's description of containers and volumes.
    NotInInspect,
    /// None in the layers and the configuration of the images that the bottle is made of, or that were made of it.
    NotInLayers,
    /// The engine keeps no image that was made of the bottle.
    NoImageKept,
}

/// Where an output is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputPlace {
    /// The bundle's standard output and error.
    BundleLogs,
    /// `evidence.jsonl` and `report.json`.
    Evidence,
    /// JUnit.
    Junit,
    /// The terminal table and `explain` texts.
    Terminal,
}

/// What of the engine is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnginePlace {
    /// `inspect` of the guest.
    InspectGuest,
    /// `inspect` of the bundle.
    InspectBundle,
    /// The engine's own log of the containers.
    ContainerLogs,
    /// An export of the guest's file system.
    GuestExport,
    /// What is mounted into the bottle's containers, as read from outside.
    Volumes,
}

/// What is checked about authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityCheck {
    /// The certificates that two bottles' guests are given in `/run/bottle/ca.pem` differ.
    DifferentPerBottle,
    /// It has pathlen 0, and its key signs certificates and revocation lists only.
    SignsLeavesOnly,
    /// It is the one certificate that the guest is given to trust, bears the bottle's name, and signed the leaf that the guest
    /// was shown.
    OnlyOwnTrusted,
    /// A leaf is no authority.
    LeafIsNoAuthority,
    /// A leaf is for exactly the host that was asked for.
    LeafName,
    /// A leaf is valid now, for days, and not longer than the authority, which is for months.
    LeafValidity,
    /// A leaf is for a TLS server only.
    LeafUsage,
}

/// What is checked about the process that is a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCheck {
    /// It runs as an ordinary user, as none that owns another machine, and its only further group is the one of KVM.
    User,
    /// It has no capability, effective, permitted, inheritable or ambient.
    Capabilities,
    /// `no_new_privs` is set.
    NoNewPrivileges,
    /// Its files and its working directory are smolvm's own, the machine's image and what the bottle shares.
    Descriptors,
    /// It has left the launcher's session: what ends that does not leave it half dead, and it cannot type at its terminal.
    Session,
}

/// What of a former owner is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReuseCheck {
    /// Reaching what only the former's policy allows.
    Policy,
    /// The former's token.
    Token,
    /// The former's guest listener.
    Listener,
    /// A connection that the former left open.
    Connection,
}
