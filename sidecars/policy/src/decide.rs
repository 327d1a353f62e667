//! The decision: may this request go on, and to where.
//!
//! [`Rules`] is a [`Policy`](crate::Policy) made ready for look-ups. A request through CONNECT is decided three times: on
//! the CONNECT authority, on the name in the TLS handshake, and on each request inside; the later ones must agree with
//! the first. Nothing here does I/O; addresses are judged by [`Rules::dialled`] once somebody has resolved them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::address::{forbidden_class, forbidden_listed_class};
use crate::authority::{connect_authority, host_authority};
use crate::name::{Host, HostError, Name};
use crate::reason::DenyReason;
use crate::{Control, Controls, Policy, Route};

/// Where a request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Stable kebab-case name of the kind of rule that allows it.
    pub rule: &'static str,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Which addresses may be dialled for it.
    pub dial: Dial,
}

/// Which addresses may be dialled for an allowed destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// What the name resolves to, if every address is public.
    Public,
    /// The literal itself, unless it is of a kind that is never dialled.
    Listed,
    /// Whatever comes out (known-leaky bottles).
    #[cfg(feature = "leaky")]
    Anything,
    /// This address, unchecked (known-leaky bottles).
    #[cfg(feature = "leaky")]
    To(IpAddr),
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on.
    Allow(Allowed),
    /// It may not.
    Deny(DenyReason),
}

impl From<Result<Allowed, DenyReason>> for Decision {
    fn from(result: Result<Allowed, DenyReason>) -> Self {
        match result {
            Ok(allowed) => Self::Allow(allowed),
            Err(reason) => Self::Deny(reason),
        }
    }
}

/// A rule of the policy that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule `{host}`: {problem}")]
pub struct RuleError {
    host: String,
    problem: RuleProblem,
}

/// What is wrong with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum RuleProblem {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("it is not in normal form (lower case, A-labels, no trailing dot)")]
    NotNormal,
    #[error("it covers no port")]
    NoPort,
    #[error("port 0 does not exist")]
    PortZero,
    #[error("`*.` stands before a name, not before an address")]
    WildcardAddress,
}

/// A policy made ready for look-ups. An empty one allows nothing.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    exact: HashMap<Name, Grant>,
    below: HashMap<Name, Grant>,
    addresses: HashMap<IpAddr, Grant>,
    pub(crate) controls: Controls,
}

/// The ports that are allowed, with the kind of rule that does.
#[derive(Clone, Debug, Default)]
struct Grant {
    ports: Vec<(u16, &'static str)>,
}

impl Grant {
    fn rule(&self, port: u16) -> Option<&'static str> {
        self.ports.iter().find(|(p, _)| *p == port).map(|(_, rule)| *rule)
    }
}

impl Rules {
    /// Compiles the policy; each route's host and port is allowed as well.
    ///
    /// # Errors
    /// Names the first rule that is not in normal form or covers no port. Plans are checked earlier, so this means a
    /// configuration that did not come from a plan.
    pub fn new(policy: &Policy, routes: &[Route], controls: Controls) -> Result<Self, RuleError> {
        let mut rules = Self {
            controls,
            ..Self::default()
        };
        for rule in &policy.allow {
            rules.add(&rule.host, &rule.ports).map_err(|problem| RuleError {
                host: rule.host.clone(),
                problem,
            })?;
        }
        for route in routes {
            let failed = |problem| RuleError {
                host: route.host.clone(),
                problem,
            };
            let Host::Name(name) = normal(&route.host).map_err(failed)? else {
                return Err(failed(RuleProblem::WildcardAddress));
            };
            rules.exact.entry(name).or_default().ports.push((route.port, "route"));
        }
        Ok(rules)
    }

    fn add(&mut self, host: &str, ports: &[u16]) -> Result<(), RuleProblem> {
        if ports.is_empty() {
            return Err(RuleProblem::NoPort);
        }
        if ports.contains(&0) {
            return Err(RuleProblem::PortZero);
        }
        let (grant, kind) = match (
            host.strip_prefix("*."),
            normal(host.strip_prefix("*.").unwrap_or(host))?,
        ) {
            (Some(_), Host::Addr(_)) => return Err(RuleProblem::WildcardAddress),
            (Some(_), Host::Name(name)) => (self.below.entry(name).or_default(), "allow-wildcard"),
            (None, Host::Name(name)) => (self.exact.entry(name).or_default(), "allow-name"),
            (None, Host::Addr(address)) => (self.addresses.entry(address).or_default(), "allow-address"),
        };
        grant.ports.extend(ports.iter().map(|&port| (port, kind)));
        Ok(())
    }

    /// The controls these rules are applied with.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Decides on a CONNECT request: its authority, and its `Host` where it has one (RFC 9112 3.2 wants the same text; some
    /// clients leave the port or the field out).
    pub fn connect(&self, authority: &[u8], host: Option<&[u8]>) -> Decision {
        #[cfg(feature = "leaky")]
        if let Some(allowed) = self.lax_destination(authority, None) {
            return Decision::Allow(allowed);
        }
        self.strict_connect(authority, host).into()
    }

    fn strict_connect(&self, authority: &[u8], named: Option<&[u8]>) -> Result<Allowed, DenyReason> {
        let (host, port) = connect_authority(authority)?;
        if let Some(text) = named.filter(|_| self.controls.has(Control::Binding)) {
            agrees(&host, port, port, text)?;
        }
        self.destination(host, port)
    }

    /// Decides whether the name in the TLS handshake fits the CONNECT authority. `None` means that none was sent.
    ///
    /// # Errors
    /// `SniMissing` or `SniMismatch`. A literal has no name to send (RFC 6066 3).
    pub fn tls(&self, tunnel: &Allowed, sni: Option<&str>) -> Result<(), DenyReason> {
        if !self.controls.has(Control::Binding) || !self.controls.has(Control::StrictName) {
            return Ok(());
        }
        match (&tunnel.host, sni) {
            (Host::Name(_), None) => Err(DenyReason::SniMissing),
            (Host::Name(name), Some(sni)) => match Host::from_wire(sni.as_bytes()) {
                Ok(Host::Name(sent)) if sent == *name => Ok(()),
                _ => Err(DenyReason::SniMismatch),
            },
            (Host::Addr(_), None) => Ok(()),
            (Host::Addr(_), Some(_)) => {
                // A leaky spelling may have turned a name that the client does send into an address.
                if self.controls.has(Control::StrictAddress) {
                    Err(DenyReason::SniMismatch)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Decides on a request inside an intercepted connection: every authority it names (`Host`, `:authority`, an absolute
    /// target) must be the tunnel's. `sni` is what the handshake named.
    pub fn inner(&self, tunnel: &Allowed, sni: Option<&str>, named: &[&[u8]]) -> Decision {
        let _ = sni;
        #[cfg(feature = "leaky")]
        if let Some(decision) = self.lax_inner(tunnel, sni, named) {
            return decision;
        }
        if named.is_empty() {
            return Decision::Deny(DenyReason::HostMissing);
        }
        named
            .iter()
            .try_for_each(|text| agrees(&tunnel.host, tunnel.port, 443, text))
            .map(|()| tunnel.clone())
            .into()
    }

    /// Decides on an absolute-form request outside CONNECT: its target's scheme and authority, and `Host`.
    pub fn absolute(&self, scheme: &[u8], authority: &[u8], host: Option<&[u8]>) -> Decision {
        #[cfg(feature = "leaky")]
        if let Some(allowed) = self.lax_absolute(scheme, authority, host) {
            return Decision::Allow(allowed);
        }
        self.strict_absolute(scheme, authority, host).into()
    }

    fn strict_absolute(&self, scheme: &[u8], authority: &[u8], host: Option<&[u8]>) -> Result<Allowed, DenyReason> {
        if !scheme.eq_ignore_ascii_case(b"http") {
            return Err(DenyReason::Scheme);
        }
        let (target, port) = host_authority(authority)?;
        let port = port.unwrap_or(80);
        if let Some(text) = host {
            agrees(&target, port, 80, text)?;
        }
        self.destination(target, port)
    }

    /// Decides on a parsed destination.
    pub(crate) fn destination(&self, host: Host, port: u16) -> Result<Allowed, DenyReason> {
        if !self.controls.has(Control::AllowList) {
            #[cfg(feature = "leaky")]
            return Ok(Allowed {
                rule: "open",
                host,
                port,
                dial: Dial::Anything,
            });
        }
        match &host {
            Host::Addr(address) => {
                let Some(grant) = self.addresses.get(address) else {
                    return Err(DenyReason::AddressLiteral);
                };
                let rule = self.port_rule(&[grant], port)?;
                Ok(Allowed {
                    rule,
                    host,
                    port,
                    dial: Dial::Listed,
                })
            }
            Host::Name(name) => {
                let grants: Vec<&Grant> = self.grants(name).collect();
                if grants.is_empty() {
                    return Err(DenyReason::HostNotAllowed);
                }
                let rule = self.port_rule(&grants, port)?;
                let dial = self.name_dial();
                Ok(Allowed { rule, host, port, dial })
            }
        }
    }

    fn name_dial(&self) -> Dial {
        #[cfg(feature = "leaky")]
        if !self.controls.has(Control::ResolvedAddress) {
            return Dial::Anything;
        }
        Dial::Public
    }

    fn port_rule(&self, grants: &[&Grant], port: u16) -> Result<&'static str, DenyReason> {
        match grants.iter().find_map(|grant| grant.rule(port)) {
            Some(rule) => Ok(rule),
            None if !self.controls.has(Control::Ports) => Ok("any-port"),
            None => Err(DenyReason::PortNotAllowed),
        }
    }

    /// Every grant that covers a name: its own, and those of the wildcards above it.
    fn grants(&self, name: &Name) -> impl Iterator<Item = &Grant> {
        let mut rest = name.as_str();
        let above = std::iter::from_fn(move || {
            let (_, parent) = rest.split_once('.')?;
            rest = parent;
            Some(parent)
        });
        self.exact
            .get(name.as_str())
            .into_iter()
            .chain(above.filter_map(|parent| self.below.get(parent)))
    }

    /// No rules at all, under these controls.
    #[cfg(feature = "leaky")]
    pub(crate) fn bare(controls: Controls) -> Self {
        Self {
            controls,
            ..Self::default()
        }
    }

    /// Every exact name and wildcard base of the rules, for the lax matchers of known-leaky bottles.
    #[cfg(feature = "leaky")]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.exact.keys().chain(self.below.keys()).map(Name::as_str)
    }

    /// Judges the addresses to which an allowed destination resolved (for a literal: the literal). All of them must pass,
    /// or a name could hide an internal address behind a public one.
    ///
    /// # Errors
    /// `ResolvedAddress` for the first address that is not dialled, `NameUnresolved` when there is none.
    pub fn dialled<'a>(&self, allowed: &Allowed, addresses: &'a [IpAddr]) -> Result<&'a [IpAddr], DenyReason> {
        if addresses.is_empty() {
            return Err(DenyReason::NameUnresolved);
        }
        let forbidden = |address: &IpAddr| match allowed.dial {
            Dial::Public => forbidden_class(*address),
            Dial::Listed => forbidden_listed_class(*address),
            #[cfg(feature = "leaky")]
            Dial::Anything | Dial::To(_) => None,
        };
        match addresses.iter().find_map(forbidden) {
            Some(class) => Err(DenyReason::ResolvedAddress(class)),
            None => Ok(addresses),
        }
    }
}

/// Whether an authority names this host and port; without a port it means the scheme's default.
fn agrees(host: &Host, port: u16, default_port: u16, text: &[u8]) -> Result<(), DenyReason> {
    // The common case, without an allocation: the very text of a name.
    if let Host::Name(name) = host
        && port == default_port
        && text.eq_ignore_ascii_case(name.as_str().as_bytes())
    {
        return Ok(());
    }
    let (sent, sent_port) = host_authority(text)?;
    if sent == *host && sent_port.unwrap_or(default_port) == port {
        Ok(())
    } else {
        Err(DenyReason::AuthorityMismatch)
    }
}

fn normal(text: &str) -> Result<Host, RuleProblem> {
    // A rule writes an IPv6 literal with or without brackets.
    let bracketed = text.parse::<std::net::Ipv6Addr>().ok().map(|v6| format!("[{v6}]"));
    let host = Host::from_wire(bracketed.as_deref().unwrap_or(text).as_bytes())?;
    match &host {
        Host::Name(name) if name.as_str() != text => Err(RuleProblem::NotNormal),
        _ => Ok(host),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
