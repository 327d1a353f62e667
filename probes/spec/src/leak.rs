//! The known-leaky bottles.

use serde::{Deserialize, Serialize};

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
    #[serde(rename = "K-TSI")]
    Tsi,
    #[serde(rename = "K-HOSTSOCK")]
    HostSock,
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
        Self::Tsi,
        Self::HostSock,
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
