//! Host names: one normalisation, used for the manifest, the rules and everything a guest sends.
//!
//! The normal form is lower-case ASCII without a trailing dot, international names as A-labels. On the wire only ASCII is
//! taken: HTTP, TLS and DNS carry A-labels (RFC 9110 4.2, RFC 6066 3, RFC 5890), and mapping what a guest sends would let
//! two texts that another parser holds apart become one. The manifest, written by people, may use Unicode.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::address::{Spelling, spelling};

/// Longest name in characters (RFC 1035 2.3.4, without the root's dot).
pub const MAX_NAME: usize = 253;

/// Longest label in characters (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A name in normal form. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The normal form, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// A name exactly as given, without any check: what the known-leaky bottles dial.
    #[cfg(feature = "leaky")]
    pub fn unchecked(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A host: a name, or an address given as a canonical literal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name in normal form.
    Name(Name),
    /// A literal.
    Addr(IpAddr),
}

impl fmt::Display for Host {
    /// As in an authority: IPv6 literals in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Addr(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Addr(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// Why a text is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// An address in a spelling that only some parsers read.
    #[error("an address must be a plain dotted quad, or IPv6 in brackets")]
    Spelling,
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// A byte that no name has.
    #[error("a name has letters, digits, `-`, `_` and `.` only")]
    Character,
    /// Longer than 253 characters, or a label longer than 63.
    #[error("a name has at most 253 characters, and at most 63 between dots")]
    Length,
    /// An empty label, or one that begins or ends with a hyphen.
    #[error("a label is not empty and has no hyphen at its ends")]
    Label,
    /// Not valid as an international name (UTS 46, non-transitional).
    #[error("the international name is not valid")]
    International,
}

impl Host {
    /// Reads a host that a guest sent: ASCII only, any case, at most one trailing dot.
    ///
    /// # Errors
    /// Says why the text is neither a name nor a canonical literal.
    pub fn from_wire(text: &[u8]) -> Result<Self, HostError> {
        match spelling(text) {
            Spelling::Canonical(address) => return Ok(Self::Addr(address)),
            Spelling::Other => return Err(HostError::Spelling),
            Spelling::None => {}
        }
        let text = std::str::from_utf8(text).map_err(|_| HostError::Character)?;
        if !text.is_ascii() {
            return Err(HostError::Character);
        }
        ascii_name(text).map(Self::Name)
    }

    /// Reads a host of the manifest: as [`Host::from_wire`], and Unicode names become A-labels.
    ///
    /// # Errors
    /// Says why the text is neither a name nor a canonical literal.
    pub fn from_manifest(text: &str) -> Result<Self, HostError> {
        if text.is_ascii() {
            return Self::from_wire(text.as_bytes());
        }
        if spelling(text.as_bytes()) != Spelling::None {
            return Err(HostError::Spelling);
        }
        let mapped = to_ascii(text)?;
        Self::from_wire(mapped.as_bytes())
    }
}

fn ascii_name(text: &str) -> Result<Name, HostError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    {
        return Err(HostError::Character);
    }
    if text.len() > MAX_NAME || text.split('.').any(|label| label.len() > MAX_LABEL) {
        return Err(HostError::Length);
    }
    if text
        .split('.')
        .any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-'))
    {
        return Err(HostError::Label);
    }
    let name = text.to_ascii_lowercase();
    // An A-label must decode to something that encodes to itself, or two spellings would be one name.
    if name.split('.').any(|label| label.starts_with("xn--")) && to_ascii(&name)? != name {
        return Err(HostError::International);
    }
    Ok(Name(name.into()))
}

/// UTS 46, non-transitional, bidi and joiner rules on. The ASCII rules are ours (underscores are in use).
fn to_ascii(text: &str) -> Result<String, HostError> {
    Uts46::new()
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::URL,
            Hyphens::CheckFirstLast,
            DnsLength::VerifyAllowRootDot,
        )
        .map(|name| name.into_owned())
        .map_err(|_| HostError::International)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::inet_aton;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("example.test", "example.test")]
    #[case("EXAMPLE.Test", "example.test")]
    #[case("example.test.", "example.test")]
    #[case("_dmarc.example.test", "_dmarc.example.test")]
    #[case("r3---sn-a.example.test", "r3---sn-a.example.test")]
    #[case("xn--bcher-kva.test", "xn--bcher-kva.test")]
    #[case("XN--BCHER-KVA.test", "xn--bcher-kva.test")]
    fn normal_form(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(Host::from_wire(text.as_bytes()).unwrap().to_string(), expected);
    }

    #[rstest]
    #[case(b"", HostError::Empty)]
    #[case(b".", HostError::Empty)]
    #[case(b"example.test..", HostError::Label)]
    #[case(b"a..b", HostError::Label)]
    #[case(b".a", HostError::Label)]
    #[case(b"-a.test", HostError::Label)]
    #[case(b"a-.test", HostError::Label)]
    #[case(b"allowed.test\0.evil.test", HostError::Character)]
    #[case(b"evil.test\0.allowed.test", HostError::Character)]
    #[case(b"allowed.test ", HostError::Character)]
    #[case(b"\tallowed.test", HostError::Character)]
    #[case(b"user@allowed.test", HostError::Character)]
    #[case(b"evil.test\\.allowed.test", HostError::Character)]
    #[case(b"evil.test/.allowed.test", HostError::Character)]
    #[case(b"evil.test#.allowed.test", HostError::Character)]
    #[case(b"evil.test%2eallowed.test", HostError::Character)]
    #[case(b"a,b", HostError::Character)]
    #[case(b"*.allowed.test", HostError::Character)]
    #[case("allowed\u{3002}test".as_bytes(), HostError::Character)]
    #[case("ａllowed.test".as_bytes(), HostError::Character)]
    #[case(b"\xff\xfe", HostError::Character)]
    #[case(b"xn--a.test", HostError::International)]
    #[case(b"xn--zzzzzz--.test", HostError::Label)]
    #[case(b"[::1]:443", HostError::Spelling)]
    #[case(b"0x7f.1", HostError::Spelling)]
    fn refused(#[case] text: &[u8], #[case] expected: HostError) {
        assert_eq!(Host::from_wire(text), Err(expected));
    }

    #[test]
    fn lengths() {
        let label = "a".repeat(63);
        let name = [&*label, &label, &label, &"a".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        assert!(Host::from_wire(name.as_bytes()).is_ok());
        assert_eq!(Host::from_wire(format!("a{name}").as_bytes()), Err(HostError::Length));
        assert_eq!(
            Host::from_wire(format!("{}.test", "a".repeat(64)).as_bytes()),
            Err(HostError::Length)
        );
    }

    #[test]
    fn unicode_is_for_the_manifest_only() {
        assert_eq!(
            Host::from_manifest("Bücher.test").unwrap().to_string(),
            "xn--bcher-kva.test"
        );
        assert_eq!(Host::from_wire("bücher.test".as_bytes()), Err(HostError::Character));
        assert_eq!(Host::from_manifest("１２７.0.0.1"), Err(HostError::Spelling));
        assert_eq!(Host::from_manifest("a\u{200d}b.test"), Err(HostError::International));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "[a-zA-Z0-9._\\-x]{0,80}") {
            if let Ok(host) = Host::from_wire(text.as_bytes()) {
                prop_assert_eq!(Host::from_wire(host.to_string().as_bytes()), Ok(host));
            }
        }

        #[test]
        fn unicode_normalising_twice_changes_nothing(text in "\\PC{0,20}\\.test") {
            if let Ok(host) = Host::from_manifest(&text) {
                prop_assert_eq!(Host::from_wire(host.to_string().as_bytes()), Ok(host));
            }
        }

        #[test]
        fn no_accepted_name_is_an_address(text in "[0-9a-fA-FxX.]{1,24}") {
            if let Ok(Host::Name(name)) = Host::from_wire(text.as_bytes()) {
                prop_assert!(inet_aton(name.as_str()).is_none());
                prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            }
        }

        #[test]
        fn anything_at_all_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Host::Name(name)) = Host::from_wire(&bytes) {
                prop_assert!(name.as_str().len() <= MAX_NAME);
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()
                    || matches!(b, b'.' | b'-' | b'_')));
            }
        }
    }
}
