//! The controls of the bundle that a known-leaky bottle can take away, one at a time.
//!
//! In a shipped build [`Controls::has`] is a constant `true`: there is no value, flag or file that switches a control off.
//! The `leaky` feature is enabled only for the bundle that `bottle-conform` embeds for its self-test.

/// One thing that the bundle does to keep a guest in. The documentation names the CATALOG variant that removes it.
#[cfg_attr(feature = "leaky", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "leaky", serde(rename_all = "kebab-case"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Only listed destinations (K-PX-OPEN removes it: every name, address and port is allowed and dialled).
    AllowList,
    /// Address rules on what a name resolves to, and dialling just the checked address (K-PX-NAMEONLY).
    ResolvedAddress,
    /// One strict normalisation of names, and heads without stray bytes (K-PX-LAXHOST: the allowed names are looked for
    /// anywhere in the text, byte for byte; the text is then cut at NUL and the like and dialled; no care for dots, case and
    /// IDN; names of fields end at NUL, space and tab).
    StrictName,
    /// Address spellings are recognised before the check (K-PX-LAXIP: inet_aton rules are applied after it).
    StrictAddress,
    /// Ports are part of a rule (K-PX-ANYPORT).
    Ports,
    /// Absolute-form requests are filtered too (K-PX-HTTPFREE).
    AbsoluteForm,
    /// CONNECT authority, SNI, Host and `:authority` must agree (K-PX-NOBIND).
    Binding,
    /// One decision a request, upstream connections and responses of one bottle only (K-PX-ONCE).
    EveryRequest,
    /// Nothing is looked up for a denied name (K-PX-RESOLVE1).
    DecideFirst,
    /// Redirects are the client's business (K-PX-FOLLOW).
    NoFollow,
    /// The upstream's certificate is verified (K-PX-NOVERIFY).
    UpstreamVerify,
    /// No control route on a service port (K-SIDEADM: an admin listener on port 9901 and `/__admin/...` on the proxy port).
    NoAdmin,
    /// Only pipelock answers as a proxy (K-RELAY: an open forward proxy on port 9418 beside it).
    NoRelay,
    /// The bundle answers no DNS (K-DNSFWD: a forwarder on UDP and TCP port 53).
    NoDns,
    /// A bundle belongs to one bottle (K-SCOPEIP: a second proxy port serves whoever connects with the first's policy and
    /// tokens).
    OwnBottle,
    /// A token is added for its route's host and port only, over verified TLS (K-INJANY).
    RouteScope,
    /// Tokens never reach a log, an error page or a decision record (K-NOSCRUB).
    Scrub,
    /// The authority signs leaves only and is the one that the guest is told to trust; a leaf is for one host, for days, and for
    /// a TLS server (K-CAWIDE: both may sign, for every host, for years and for everything, and a second authority is trusted).
    NarrowAuthority,
    /// The authority's private key stays in memory (K-CAKEY: it is written beside the certificate).
    KeyInMemory,
}

/// The controls in force.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    #[cfg(feature = "leaky")]
    removed: Vec<Control>,
}

impl Controls {
    /// All controls: what every shipped bottle has.
    pub const fn all() -> Self {
        Self {
            #[cfg(feature = "leaky")]
            removed: Vec::new(),
        }
    }

    /// All but these.
    #[cfg(feature = "leaky")]
    pub fn without(removed: Vec<Control>) -> Self {
        Self { removed }
    }

    /// Whether `control` is in force.
    #[inline]
    pub fn has(&self, control: Control) -> bool {
        #[cfg(feature = "leaky")]
        {
            !self.removed.contains(&control)
        }
        #[cfg(not(feature = "leaky"))]
        {
            let _ = control;
            true
        }
    }
}
