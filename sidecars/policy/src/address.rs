//! Addresses: which ones a guest may be led to, and every spelling that some parser would read as one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not dialled. Each class has its own source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// `0.0.0.0/8`, `::` (RFC 1122 3.2.1.3, RFC 4291 2.5.2). Linux dials itself for `0.0.0.0`.
    Unspecified,
    /// `127.0.0.0/8`, `::1` (RFC 1122, RFC 4291).
    Loopback,
    /// `10/8`, `172.16/12`, `192.168/16` (RFC 1918), `fc00::/7` (RFC 4193), `fec0::/10` (RFC 3879).
    Private,
    /// `100.64.0.0/10` (RFC 6598); several clouds keep their metadata service there.
    CarrierGrade,
    /// `169.254.0.0/16` (RFC 3927; cloud metadata), `fe80::/10` (RFC 4291).
    LinkLocal,
    /// `198.18.0.0/15` (RFC 2544).
    Benchmark,
    /// `224.0.0.0/4` (RFC 5771), `ff00::/8` (RFC 4291).
    Multicast,
    /// `240.0.0.0/4` and the broadcast address (RFC 1112, RFC 919), `192.0.0.0/24` (RFC 6890), `100::/64` (RFC 6666).
    Reserved,
    /// An IPv6 address that stands for an IPv4 address: mapped, compatible, or local NAT64 (RFC 4291 2.5.5, RFC 8215).
    Embedded,
}

impl AddressClass {
    /// The class in the words of a sentence: "a loopback address".
    pub fn words(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::CarrierGrade => "a carrier-grade NAT address",
            Self::LinkLocal => "a link-local address",
            Self::Benchmark => "a benchmarking address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::Embedded => "an IPv4 address inside an IPv6 one",
        }
    }

    /// Whether not even a listed literal may lead there: the bundle's own services, the cloud's metadata, and addresses
    /// that are no single host.
    fn is_never_dialled(self) -> bool {
        !matches!(self, Self::Private | Self::CarrierGrade | Self::Benchmark)
    }
}

/// The class that forbids dialling an address to which a name resolved; `None` for a public one.
///
/// The documentation ranges (`192.0.2.0/24`, `198.51.100.0/24`, `203.0.113.0/24`, `2001:db8::/32`) count as public on
/// purpose: nobody routes them, so allowing them costs nothing, and the conformance suite's stand-in internet lives in
/// them (DESIGN section 6). A rule that refused them would make the suite test another policy than the shipped one.
pub fn forbidden_class(address: IpAddr) -> Option<AddressClass> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

/// The class that forbids dialling a literal although the manifest lists it. An operator may name a private address on
/// purpose; loopback (the bundle itself), link-local (cloud metadata) and the like stay out of reach.
pub fn forbidden_listed_class(address: IpAddr) -> Option<AddressClass> {
    forbidden_class(address).filter(|class| class.is_never_dialled())
}

fn forbidden_v4(a: Ipv4Addr) -> Option<AddressClass> {
    let o = a.octets();
    Some(match o {
        [0, ..] => AddressClass::Unspecified,
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [192, 168, ..] => AddressClass::Private,
        [172, 16..=31, ..] => AddressClass::Private,
        [100, 64..=127, ..] => AddressClass::CarrierGrade,
        [169, 254, ..] => AddressClass::LinkLocal,
        [198, 18..=19, ..] => AddressClass::Benchmark,
        [192, 0, 0, _] => AddressClass::Reserved,
        [224..=239, ..] => AddressClass::Multicast,
        [240..=255, ..] => AddressClass::Reserved,
        _ => return None,
    })
}

fn forbidden_v6(a: Ipv6Addr) -> Option<AddressClass> {
    let s = a.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        forbidden_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(AddressClass::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(AddressClass::Loopback),
        // Compatible, mapped, and the "translated" form of RFC 2765: the kernel would dial the IPv4 address.
        [0, 0, 0, 0, 0, _, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => Some(AddressClass::Embedded),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Some(AddressClass::Embedded),
        [0x100, 0, 0, 0, ..] => Some(AddressClass::Reserved),
        // Teredo (RFC 4380) hides the client's address inverted in the last 32 bits and its server's in the second 32.
        [0x2001, 0, high, low, _, _, c, d] => embedded(!c, !d).or_else(|| embedded(high, low)),
        [0x2002, high, low, ..] => embedded(high, low),
        [0xfe80..=0xfebf, ..] => Some(AddressClass::LinkLocal),
        [0xfec0..=0xfeff, ..] | [0xfc00..=0xfdff, ..] => Some(AddressClass::Private),
        [0xff00..=0xffff, ..] => Some(AddressClass::Multicast),
        _ => None,
    }
}

/// What a host text is, as far as addresses are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A canonical literal: a dotted quad without leading zeros, or an RFC 4291 text in brackets.
    Canonical(IpAddr),
    /// Something that at least one parser in the world reads as an address, but which is not canonical.
    Other,
    /// No address.
    None,
}

/// Looks at a host text the way the most permissive parsers would.
pub fn spelling(text: &[u8]) -> Spelling {
    if text.first() == Some(&b'[') || text.contains(&b':') {
        return bracketed(text);
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return Spelling::None;
    };
    if let Some(v4) = canonical_v4(text) {
        return Spelling::Canonical(IpAddr::V4(v4));
    }
    if ends_in_number(text) || is_disguised(text) {
        return Spelling::Other;
    }
    Spelling::None
}

fn bracketed(text: &[u8]) -> Spelling {
    let Some(inner) = text.strip_prefix(b"[").and_then(|t| t.strip_suffix(b"]")) else {
        return Spelling::Other;
    };
    let Ok(inner) = std::str::from_utf8(inner) else {
        return Spelling::Other;
    };
    match inner.parse::<Ipv6Addr>() {
        // A mapped or compatible address is a spelling of an IPv4 address.
        Ok(v6) if forbidden_v6(v6) == Some(AddressClass::Embedded) => Spelling::Other,
        Ok(v6) => Spelling::Canonical(IpAddr::V6(v6)),
        Err(_) => Spelling::Other,
    }
}

/// Dotted quad in exactly four decimal parts without leading zeros (`Ipv4Addr` refuses the rest since Rust 1.55).
fn canonical_v4(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok()
}

/// Whether the last label is a number in any base: then URL parsers and inet_aton take the whole for an address, or an
/// attempt at one. No top-level domain is numeric (RFC 3696 2), so no name is lost.
fn ends_in_number(text: &str) -> bool {
    let text = text.trim_end_matches('.');
    let last = text.rsplit('.').next().unwrap_or("");
    if last.is_empty() {
        return false;
    }
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Addresses behind percent-encoding, or in characters that Unicode maps to ASCII digits and dots, or with space around.
fn is_disguised(text: &str) -> bool {
    let plain_name = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if plain_name {
        return false;
    }
    let decoded = percent_decode(text);
    let trimmed = decoded.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    // Parsers that stop at the first of these would see an address before it.
    let cut = trimmed
        .split(['%', '\0', ' ', '\t', '/', '\\', '#', '?'])
        .next()
        .unwrap_or("");
    let folded = idna::domain_to_ascii(cut).unwrap_or_else(|_| cut.to_owned());
    folded.contains(':') || ends_in_number(&folded)
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| b == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(b);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads a text as C's `inet_aton` does: one to four parts, each decimal, octal (`0`) or hexadecimal (`0x`), the last
/// part filling the remaining bytes. Trailing dots are ignored.
///
/// Only tests and the known-leaky bottle K-PX-LAXIP read addresses so; the policy refuses whatever this accepts unless it
/// is canonical.
pub fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.trim_end_matches('.');
    let parts: Vec<u64> = text.split('.').map(aton_part).collect::<Option<_>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|&p| p > 255) {
        return None;
    }
    let room = 8 * (4 - front.len() as u32);
    if *last >= 1u64 << room {
        return None;
    }
    let head = front
        .iter()
        .enumerate()
        .fold(0u64, |acc, (i, &p)| acc | (p << (24 - 8 * i)));
    u32::try_from(head | last).ok().map(Ipv4Addr::from)
}

fn aton_part(part: &str) -> Option<u64> {
    if part.is_empty() || part.starts_with('+') {
        return None;
    }
    if let Some(hex) = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        return if hex.is_empty() {
            Some(0)
        } else {
            u64::from_str_radix(hex, 16).ok()
        };
    }
    if part.len() > 1 && part.starts_with('0') {
        return u64::from_str_radix(part, 8).ok();
    }
    part.parse().ok()
}

/// Reads a text as the most permissive parser would: percent-decoded, Unicode digits and dots folded, `inet_aton` rules,
/// IPv4 inside IPv6. What K-PX-LAXIP dials.
#[cfg(feature = "leaky")]
pub fn lax_address(text: &[u8]) -> Option<IpAddr> {
    let text = percent_decode(&String::from_utf8_lossy(text));
    let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    let inner = text.trim_start_matches('[').trim_end_matches(']');
    let inner = inner.split(['%', '\0', ' ', '/', '\\']).next().unwrap_or("");
    if let Ok(v6) = inner.parse::<Ipv6Addr>() {
        let s = v6.segments();
        let is_v4 = matches!(s, [0, 0, 0, 0, 0, _, _, _] | [0x64, 0xff9b, ..]);
        let [a, b, c, d] = [s[6] >> 8, s[6] & 255, s[7] >> 8, s[7] & 255].map(|v| v as u8);
        return Some(if is_v4 {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(v6)
        });
    }
    let folded = idna::domain_to_ascii(inner).unwrap_or_else(|_| inner.to_owned());
    inet_aton(&folded).map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0.0.0.0", Some(AddressClass::Unspecified))]
    #[case("127.255.255.254", Some(AddressClass::Loopback))]
    #[case("10.0.0.1", Some(AddressClass::Private))]
    #[case("172.15.255.255", None)]
    #[case("172.16.0.1", Some(AddressClass::Private))]
    #[case("172.31.255.255", Some(AddressClass::Private))]
    #[case("172.32.0.0", None)]
    #[case("192.168.1.1", Some(AddressClass::Private))]
    #[case("100.64.0.1", Some(AddressClass::CarrierGrade))]
    #[case("100.100.100.200", Some(AddressClass::CarrierGrade))]
    #[case("100.128.0.1", None)]
    #[case("169.254.169.254", Some(AddressClass::LinkLocal))]
    #[case("198.18.0.1", Some(AddressClass::Benchmark))]
    #[case("198.20.0.1", None)]
    #[case("224.0.0.1", Some(AddressClass::Multicast))]
    #[case("240.0.0.1", Some(AddressClass::Reserved))]
    #[case("255.255.255.255", Some(AddressClass::Reserved))]
    #[case("192.0.2.7", None)]
    #[case("198.51.100.7", None)]
    #[case("203.0.113.7", None)]
    #[case("2001:db8::7", None)]
    #[case("::", Some(AddressClass::Unspecified))]
    #[case("::1", Some(AddressClass::Loopback))]
    #[case("::ffff:198.51.100.7", Some(AddressClass::Embedded))]
    #[case("::198.51.100.7", Some(AddressClass::Embedded))]
    #[case("::ffff:0:198.51.100.7", Some(AddressClass::Embedded))]
    #[case("64:ff9b::10.0.0.1", Some(AddressClass::Private))]
    #[case("64:ff9b::198.51.100.7", None)]
    #[case("64:ff9b:1::1", Some(AddressClass::Embedded))]
    #[case("2002:7f00:1::", Some(AddressClass::Loopback))]
    #[case("2001:0:c633:6407::f5ff:fffe", Some(AddressClass::Private))]
    #[case("fe80::1", Some(AddressClass::LinkLocal))]
    #[case("fec0::1", Some(AddressClass::Private))]
    #[case("fd00:ec2::254", Some(AddressClass::Private))]
    #[case("ff02::1", Some(AddressClass::Multicast))]
    #[case("2606:4700::1111", None)]
    fn classes(#[case] text: &str, #[case] expected: Option<AddressClass>) {
        assert_eq!(forbidden_class(text.parse().unwrap()), expected);
    }

    #[rstest]
    #[case("0177.0.0.1")]
    #[case("0x7f.0.0.1")]
    #[case("0x7f000001")]
    #[case("0X7F.1")]
    #[case("2130706433")]
    #[case("017700000001")]
    #[case("127.1")]
    #[case("127.0.1")]
    #[case("127.0.0.1.")]
    #[case("127.0.0.1..")]
    #[case("0")]
    #[case("00000177.0.0.0x1")]
    #[case("127.0.0.01")]
    #[case("999.1.1.1")]
    #[case("1.2.3.4.5")]
    #[case("１２７.0.0.1")]
    #[case("127。0。0。1")]
    #[case("%31%32%37.0.0.1")]
    #[case("127.0.0.1%00")]
    #[case("127.0.0.1 ")]
    #[case("①②⑦.0.0.1")]
    #[case("[::ffff:127.0.0.1]")]
    #[case("[::127.0.0.1]")]
    #[case("[fe80::1%eth0]")]
    #[case("[fe80::1%25eth0]")]
    #[case("[127.0.0.1]")]
    #[case("[::1")]
    #[case("::1")]
    #[case("[v1.x]")]
    fn other_spellings(#[case] text: &str) {
        assert_eq!(spelling(text.as_bytes()), Spelling::Other);
    }

    #[rstest]
    #[case("198.51.100.7")]
    #[case("127.0.0.1")]
    #[case("[2001:db8::1]")]
    #[case("[::1]")]
    #[case("[64:ff9b::7f00:1]")]
    fn canonical_spellings(#[case] text: &str) {
        assert!(matches!(spelling(text.as_bytes()), Spelling::Canonical(_)));
    }

    #[rstest]
    #[case("example.test")]
    #[case("1.example")]
    #[case("0x7f.example")]
    #[case("a.0x7g")]
    #[case("localhost")]
    fn no_address(#[case] text: &str) {
        assert_eq!(spelling(text.as_bytes()), Spelling::None);
    }

    #[test]
    fn aton_reads_short_forms() {
        let home = Some(Ipv4Addr::LOCALHOST);
        for text in [
            "127.1",
            "0x7f.1",
            "017700000001",
            "2130706433",
            "127.0.1",
            "0177.0.0.0x1",
        ] {
            assert_eq!(inet_aton(text), home, "{text}");
        }
        assert_eq!(inet_aton("256.1.1.1"), None);
        assert_eq!(inet_aton("1.2.3.4.5"), None);
        assert_eq!(inet_aton("4294967296"), None);
    }
}
