//! Why something was refused: a stable name for machines, a sentence for the agent.

use crate::address::AddressClass;
use crate::authority::AuthorityError;
use crate::name::HostError;

/// Why a request or connection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenyReason {
    /// No rule names the host.
    HostNotAllowed,
    /// A rule names the host, but not this port.
    PortNotAllowed,
    /// An address literal that is not itself listed.
    AddressLiteral,
    /// An address in a spelling that is not the canonical one.
    AddressSpelling,
    /// The host is no valid name.
    NameMalformed,
    /// The port is no valid port, or missing where it must stand.
    PortMalformed,
    /// CONNECT authority, request target, `Host` and `:authority` do not agree.
    AuthorityMismatch,
    /// The name in the TLS handshake is not the one of CONNECT.
    SniMismatch,
    /// The TLS handshake names no host.
    SniMissing,
    /// The name resolved to an address (or the literal is one) that is not dialled.
    ResolvedAddress(AddressClass),
    /// The name has no address.
    NameUnresolved,
    /// The name servers did not answer in time, or not validly.
    ResolverFailed,
    /// What came after CONNECT is not TLS.
    NotTls,
    /// The TLS handshake failed or took too long.
    TlsHandshake,
    /// The message is framed ambiguously or is no HTTP.
    Framing,
    /// The request head is longer or has more fields than allowed.
    HeadTooLarge,
    /// The request head did not arrive in time.
    HeadTimeout,
    /// The method is not one for this place (CONNECT inside CONNECT, TRACE).
    Method,
    /// The scheme of an absolute target is not `http`.
    Scheme,
    /// The form of the request target is not one for this place.
    Target,
    /// The HTTP version is not spoken here.
    Version,
    /// `Host` is missing.
    HostMissing,
    /// An expectation other than `100-continue`.
    Expectation,
}

impl DenyReason {
    /// The stable kebab-case name, as in decision records and in the `x-bottle-refusal` field.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostNotAllowed => "host-not-allowed",
            Self::PortNotAllowed => "port-not-allowed",
            Self::AddressLiteral => "address-literal",
            Self::AddressSpelling => "address-spelling",
            Self::NameMalformed => "name-malformed",
            Self::PortMalformed => "port-malformed",
            Self::AuthorityMismatch => "authority-mismatch",
            Self::SniMismatch => "sni-mismatch",
            Self::SniMissing => "sni-missing",
            Self::ResolvedAddress(_) => "resolved-address",
            Self::NameUnresolved => "name-unresolved",
            Self::ResolverFailed => "resolver-failed",
            Self::NotTls => "not-tls",
            Self::TlsHandshake => "tls-handshake",
            Self::Framing => "framing",
            Self::HeadTooLarge => "head-too-large",
            Self::HeadTimeout => "head-timeout",
            Self::Method => "method",
            Self::Scheme => "scheme",
            Self::Target => "target",
            Self::Version => "version",
            Self::HostMissing => "host-missing",
            Self::Expectation => "expectation",
        }
    }

    /// The HTTP status of the refusal.
    pub fn status(self) -> u16 {
        match self {
            Self::Framing | Self::Version | Self::HostMissing | Self::Target => 400,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::Expectation => 417,
            Self::NameUnresolved => 502,
            Self::ResolverFailed => 504,
            _ => 403,
        }
    }
}

impl From<HostError> for DenyReason {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Spelling => Self::AddressSpelling,
            _ => Self::NameMalformed,
        }
    }
}

impl From<AuthorityError> for DenyReason {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Host(host) => host.into(),
            AuthorityError::Port => Self::PortMalformed,
        }
    }
}

/// One sentence for the agent: what was refused, and which manifest key would allow it where one would. No other rule is
/// named. `host` is printed as given and must be free of control characters.
pub fn sentence(reason: DenyReason, host: &str, port: Option<u16>) -> String {
    let place = match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    // Without a port an entry means 443.
    let entry = if port.is_none_or(|p| p == 443) {
        host.to_owned()
    } else {
        place.clone()
    };
    let key = format!("the manifest key `egress.allow: [\"{entry}\"]` would allow it");
    match reason {
        DenyReason::HostNotAllowed => {
            format!("{place} is not among the hosts this bottle may reach; {key}.")
        }
        DenyReason::PortNotAllowed => format!(
            "port {} of {host} is not one this bottle may reach; {key}.",
            port.unwrap_or(0)
        ),
        DenyReason::AddressLiteral => {
            format!("the address {place} is not one this bottle may reach; {key}.")
        }
        DenyReason::ResolvedAddress(class) => format!(
            "{host} leads to {}, which a bottle never dials by name; no entry of `egress.allow` changes that.",
            class.words()
        ),
        DenyReason::NameUnresolved => {
            format!("{host} is allowed but has no address; check the name.")
        }
        DenyReason::ResolverFailed => {
            format!("{host} is allowed but the name servers did not answer; try again.")
        }
        _ => format!("{}.", refused_form(reason, &place)),
    }
}

/// Refusals of a form, which no manifest key changes.
fn refused_form(reason: DenyReason, place: &str) -> String {
    match reason {
        DenyReason::AddressSpelling => {
            format!("`{place}` is an address in an unusual spelling; write a plain dotted quad, or IPv6 in brackets")
        }
        DenyReason::NameMalformed => {
            format!("`{place}` is not a valid host name (ASCII letters, digits, `-`, `_`, `.`)")
        }
        DenyReason::PortMalformed => format!("`{place}` needs a plain port number from 1 to 65535"),
        DenyReason::AuthorityMismatch => {
            format!("the request names another host or port than the connection, which was opened for {place}")
        }
        DenyReason::SniMismatch => {
            format!("the TLS handshake names another host than CONNECT, which was for {place}")
        }
        DenyReason::SniMissing => format!("the TLS handshake for {place} names no host (SNI)"),
        DenyReason::NotTls => format!("what was sent through CONNECT to {place} is not TLS"),
        DenyReason::TlsHandshake => {
            format!("the TLS handshake for {place} failed or took too long")
        }
        DenyReason::Framing => "the message is not well-formed HTTP, or its length is ambiguous".to_owned(),
        DenyReason::HeadTooLarge => "the request head is too large".to_owned(),
        DenyReason::HeadTimeout => "the request head did not arrive in time".to_owned(),
        DenyReason::Method => "this method is not accepted here".to_owned(),
        DenyReason::Scheme => "an absolute target must have the scheme `http`; use CONNECT for `https`".to_owned(),
        DenyReason::Target => "this form of request target is not accepted here".to_owned(),
        DenyReason::Version => "only HTTP/1.0, HTTP/1.1 and (inside TLS) HTTP/2 are spoken here".to_owned(),
        DenyReason::HostMissing => "the request has no `Host` field".to_owned(),
        DenyReason::Expectation => "only the expectation `100-continue` is understood".to_owned(),
        _ => format!("{place} was refused"),
    }
}
