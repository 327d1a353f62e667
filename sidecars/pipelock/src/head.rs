//! Request heads, read strictly (RFC 9112).
//!
//! A lenient reader in front of another reader is how requests are smuggled, so everything ambiguous is refused: a line
//! feed without its carriage return, folded lines, space before a colon, two `Host` fields, two lengths, NUL.

use std::ops::Range;

use bottle_policy::{DenyReason, NONCE_FIELD};
use bytes::Bytes;

use crate::framing::Body;

/// Where the end of a head is, as far as the bytes seen so far tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Not here yet.
    More,
    /// The head is this long, its empty line included.
    Complete(usize),
    /// These bytes cannot become a head.
    Bad,
}

/// Looks for the end of a head. `from` says how far earlier calls came, so that dribbled heads cost linear time.
pub fn scan(bytes: &[u8], from: &mut usize) -> Scan {
    if bytes.first().is_some_and(|&b| !is_token(b)) {
        return Scan::Bad;
    }
    for at in *from..bytes.len() {
        match bytes[at] {
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => return Scan::Bad,
            b'\n' if bytes[..at].ends_with(b"\r\n\r") => return Scan::Complete(at + 1),
            b'\n' => {}
            _ if at > 0 && bytes[at - 1] == b'\r' => return Scan::Bad,
            _ => {}
        }
    }
    *from = bytes.len();
    Scan::More
}

/// A request head. All texts are ranges of one buffer.
#[derive(Clone, Debug)]
pub struct Head {
    bytes: Bytes,
    method: Range<usize>,
    target: Range<usize>,
    /// Minor version: 0 or 1.
    pub minor: u8,
    fields: Vec<FieldRange>,
}

impl Head {
    /// Reads a complete head (as [`scan`] delimits it) of at most `most` fields. The target is only cut out here: its
    /// authority is for the policy to judge, and its path for [`is_plain_path`]. With `is_lax` (a known-leaky bottle) field
    /// values may hold any byte, and a field's name ends at the first byte that cannot be part of it.
    ///
    /// # Errors
    /// `Framing`, `Version` or `HeadTooLarge`.
    pub fn parse(bytes: Bytes, most: usize, is_lax: bool) -> Result<Self, DenyReason> {
        let line_end = find(&bytes, b"\r\n").ok_or(DenyReason::Framing)?;
        let (method, target, minor) = request_line(&bytes[..line_end])?;
        let fields = fields(&bytes, line_end + 2, most, is_lax)?;
        Ok(Self {
            bytes,
            method,
            target,
            minor,
            fields,
        })
    }

    /// The whole head as it was sent.
    #[cfg(feature = "leaky")]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The method.
    pub fn method(&self) -> &str {
        // Only token characters pass the parser.
        std::str::from_utf8(&self.bytes[self.method.clone()]).unwrap_or_default()
    }

    /// The request target as sent.
    pub fn target(&self) -> &[u8] {
        &self.bytes[self.target.clone()]
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields
            .iter()
            .map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// The values of one field, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The value of `Host`. With several of them the head is refused, unless `is_lenient` (a known-leaky bottle): then
    /// the last one counts.
    ///
    /// # Errors
    /// `Framing` for a second one.
    pub fn host(&self, is_lenient: bool) -> Result<Option<&[u8]>, DenyReason> {
        let mut values = self.values("host");
        let first = values.next();
        match values.last() {
            Some(_) if !is_lenient => Err(DenyReason::Framing),
            Some(last) => Ok(Some(last)),
            None => Ok(first),
        }
    }

    /// How the body is framed (RFC 9112 6.3), without any choice.
    ///
    /// # Errors
    /// `Framing` for two lengths, for a length and a coding, and for any coding but `chunked`.
    pub fn body(&self) -> Result<Body, DenyReason> {
        let mut codings = self.values("transfer-encoding");
        let mut lengths = self.values("content-length");
        match (codings.next(), codings.next(), lengths.next(), lengths.next()) {
            (None, None, None, None) => Ok(Body::Empty),
            (None, None, Some(length), None) => plain_length(length).map(Body::length).ok_or(DenyReason::Framing),
            (Some(coding), None, None, None) if coding.eq_ignore_ascii_case(b"chunked") && self.minor == 1 => {
                Ok(Body::chunked())
            }
            _ => Err(DenyReason::Framing),
        }
    }

    /// Whether the connection stays open after this request, as far as the client is concerned.
    pub fn keeps_alive(&self) -> bool {
        let says = |token: &str| self.values("connection").any(|value| has_token(value, token));
        if self.minor == 0 {
            says("keep-alive") && !says("close")
        } else {
            !says("close")
        }
    }

    /// Whether this asks for a WebSocket (RFC 6455 4.1): no other protocol is ever switched to.
    pub fn is_websocket(&self) -> bool {
        self.method() == "GET"
            && self.minor == 1
            && self
                .values("upgrade")
                .any(|value| value.eq_ignore_ascii_case(b"websocket"))
            && self.values("connection").any(|value| has_token(value, "upgrade"))
    }

    /// The nonce of a probe, if the request carries one.
    pub fn nonce(&self) -> Option<String> {
        self.values(NONCE_FIELD).next().and_then(clean_nonce)
    }
}

/// Finds a probe's nonce in bytes that are not (yet) a head.
pub fn raw_nonce(bytes: &[u8]) -> Option<String> {
    let name = NONCE_FIELD.as_bytes();
    let at = bytes
        .windows(name.len() + 1)
        .position(|w| w[..name.len()].eq_ignore_ascii_case(name) && w[name.len()] == b':')?;
    let value = &bytes[at + name.len() + 1..];
    let end = value
        .iter()
        .position(|b| matches!(b, b'\r' | b'\n' | 0))
        .unwrap_or(value.len());
    clean_nonce(&value[..end])
}

/// A nonce's value: at most 64 characters of `[0-9A-Za-z_-]`, anything else is dropped as a whole.
pub fn clean_nonce(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let is_plain = value
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let fits = !value.is_empty() && value.len() <= 64;
    (fits && is_plain).then(|| String::from_utf8_lossy(value).into_owned())
}

fn request_line(line: &[u8]) -> Result<(Range<usize>, Range<usize>, u8), DenyReason> {
    let first = find(line, b" ").ok_or(DenyReason::Framing)?;
    // The last space: a target with a space in it is then seen, and refused, as a whole.
    let second = line
        .iter()
        .rposition(|&b| b == b' ')
        .filter(|&at| at > first)
        .ok_or(DenyReason::Framing)?;
    let (method, target) = (0..first, first + 1..second);
    if method.is_empty()
        || method.len() > 32
        || !line[method.clone()].iter().copied().all(is_token)
        || target.is_empty()
    {
        return Err(DenyReason::Framing);
    }
    let minor = match &line[second + 1..] {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        other if other.starts_with(b"HTTP/") => return Err(DenyReason::Version),
        _ => return Err(DenyReason::Framing),
    };
    Ok((method, target, minor))
}

/// A field's name and value, as ranges of the head.
pub type FieldRange = (Range<usize>, Range<usize>);

/// Reads all fields of a head, from the line at `at` to the empty line that ends it.
///
/// # Errors
/// `Framing`, or `HeadTooLarge` for more than `most`.
pub fn fields(bytes: &[u8], mut at: usize, most: usize, is_lax: bool) -> Result<Vec<FieldRange>, DenyReason> {
    let mut fields = Vec::with_capacity(16);
    while let Some(length) = find(&bytes[at..], b"\r\n").filter(|&length| length > 0) {
        if fields.len() == most {
            return Err(DenyReason::HeadTooLarge);
        }
        fields.push(field(bytes, at, at + length, is_lax)?);
        at += length + 2;
    }
    if at + 2 == bytes.len() {
        Ok(fields)
    } else {
        Err(DenyReason::Framing)
    }
}

fn field(bytes: &[u8], from: usize, to: usize, is_lax: bool) -> Result<FieldRange, DenyReason> {
    let line = &bytes[from..to];
    let colon = find(line, b":").ok_or(DenyReason::Framing)?;
    let name = line[..colon].iter().take_while(|&&b| is_token(b)).count();
    // Also catches folded lines and space before the colon.
    if name == 0 || (name < colon && !is_lax) {
        return Err(DenyReason::Framing);
    }
    let is_text = |b: &u8| *b == b'\t' || (0x20..=0x7e).contains(b) || *b >= 0x80;
    let value = &line[colon + 1..];
    if !is_lax && !value.iter().all(is_text) {
        return Err(DenyReason::Framing);
    }
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    let base = from + colon + 1;
    Ok((from..from + name, base + start..base + end))
}

/// Whether a path (with query) is what one may be: visible ASCII (RFC 3986) without a fragment, which is never sent.
pub fn is_plain_path(path: &[u8]) -> bool {
    path.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b'#')
}

/// A length in plain digits: no sign, no list, no overflow.
pub fn plain_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether a comma-separated list holds a token.
pub fn has_token(value: &[u8], token: &str) -> bool {
    value
        .split(|&b| b == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a byte may stand in a method or a field name (RFC 9110 5.6.2).
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parse(text: &str) -> Result<Head, DenyReason> {
        let mut from = 0;
        match scan(text.as_bytes(), &mut from) {
            Scan::Complete(length) => Head::parse(Bytes::copy_from_slice(&text.as_bytes()[..length]), 8, false),
            _ => Err(DenyReason::Framing),
        }
    }

    fn framed(text: &str) -> Result<Head, DenyReason> {
        let head = parse(text)?;
        head.host(false)?;
        head.body()?;
        if is_plain_path(head.target()) {
            Ok(head)
        } else {
            Err(DenyReason::Framing)
        }
    }

    #[rstest]
    #[case("GET / HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("POST /x?y=z HTTP/1.1\r\nHost:a\r\nContent-Length: 12\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")]
    #[case("CONNECT a:443 HTTP/1.0\r\n\r\n")]
    fn accepted(#[case] text: &str) {
        framed(text).unwrap();
    }

    #[rstest]
    #[case("GET / HTTP/1.1\nHost: a\n\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\n\r\n")]
    #[case("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\n Host: a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost : a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost\0: a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\r\nX\0Y: b\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nno colon\r\n\r\n")]
    #[case("GET  / HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("GET / x HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("G(T / HTTP/1.1\r\nHost: a\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n")]
    #[case("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")]
    #[case("SSH-2.0-x\r\n\r\n")]
    #[case("\x05\x01\x00")]
    fn refused(#[case] text: &str) {
        assert_eq!(framed(text).unwrap_err(), DenyReason::Framing);
    }

    #[rstest]
    #[case("PRI * HTTP/2.0\r\n\r\n", DenyReason::Version)]
    #[case("GET / HTTP/1.2\r\n\r\n", DenyReason::Version)]
    #[case(
        "GET / HTTP/1.1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\n\r\n",
        DenyReason::HeadTooLarge
    )]
    fn refused_with(#[case] text: &str, #[case] reason: DenyReason) {
        assert_eq!(framed(text).unwrap_err(), reason);
    }

    #[rstest]
    fn only_a_lax_reader_ends_names_early(#[values(" ", "\t", "\0", "\0x")] byte: &str) {
        let text = format!("GET / HTTP/1.1\r\nHost{byte}: a\r\n\r\n");
        let head = Head::parse(Bytes::from(text.clone()), 8, true).unwrap();
        assert_eq!(head.host(false), Ok(Some(&b"a"[..])));
        assert_eq!(
            Head::parse(Bytes::from(text), 8, false).unwrap_err(),
            DenyReason::Framing
        );
        let folded = Bytes::from("GET / HTTP/1.1\r\nHost: a\r\n : b\r\n\r\n");
        assert!(Head::parse(folded, 8, true).is_err());
    }

    #[test]
    fn one_byte_at_a_time() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut from = 0;
        for end in 0..27 {
            assert_eq!(scan(&text[..end], &mut from), Scan::More, "{end}");
        }
        assert_eq!(scan(text, &mut from), Scan::Complete(27));
    }

    #[test]
    fn nonces() {
        assert_eq!(
            raw_nonce(b"GARBAGE\nX-Bottle-Nonce: abc-1\r\n").as_deref(),
            Some("abc-1")
        );
        assert_eq!(raw_nonce(b"x-bottle-nonce:abc").as_deref(), Some("abc"));
        assert_eq!(raw_nonce(b"x-bottle-nonce: a b"), None);
        assert_eq!(raw_nonce(b"x-bottle-nonc"), None);
        let head = parse("GET / HTTP/1.1\r\nX-Bottle-Nonce: n_1\r\n\r\n").unwrap();
        assert_eq!(head.nonce().as_deref(), Some("n_1"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut from = 0;
            if let Scan::Complete(length) = scan(&bytes, &mut from) {
                let _ = Head::parse(Bytes::copy_from_slice(&bytes[..length]), 100, false).map(|head| head.body().is_ok());
            }
            let _ = raw_nonce(&bytes);
        }
    }
}
