//! What pipelock says about a request, in fields that end here.

use std::net::{IpAddr, SocketAddr};

use bottle_wire::upstream::Security;
use http::header::HeaderName;
use http::uri::Scheme;
use http::{HeaderMap, Uri};

use crate::refusal::Refusal;

/// The secret that only pipelock and egress have.
pub const SECRET_FIELD: HeaderName = HeaderName::from_static("x-bottle-hop");
/// The address that was checked, and that is dialled: an address, or an address with the port of the target.
pub const ADDRESS_FIELD: HeaderName = HeaderName::from_static("x-bottle-address");
/// `h2` when the upstream may be spoken to in HTTP/2, else `http/1.1`.
pub const ALPN_FIELD: HeaderName = HeaderName::from_static("x-bottle-alpn");
/// In answers of egress itself: the rule by which it refused. Never passed on from an upstream.
pub const REFUSAL_FIELD: HeaderName = HeaderName::from_static("x-bottle-refusal");
/// Prefix of all fields of the hop. Those with [`NONCE_FIELD`](bottle_policy::NONCE_FIELD)'s name are the guest's.
pub const PREFIX: &str = "x-bottle-";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name or address in normal form, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The checked address with [`Target::port`].
    pub address: SocketAddr,
    /// Whether and how the connection is encrypted.
    pub security: Security,
}

impl Target {
    /// Reads target and fields of a request from pipelock.
    pub(crate) fn read(uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        let malformed = Refusal::HopMalformed;
        let authority = uri.authority().ok_or(malformed("an absolute target"))?;
        if authority.as_str().contains('@') {
            return Err(malformed("an authority without user information"));
        }
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(malformed("the scheme http or https")),
        };
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| malformed("a port below 65536"))?,
            None if https => 443,
            None => 80,
        };
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let address = single(headers, &ADDRESS_FIELD)
            .and_then(parse_address)
            .ok_or(malformed("one checked address"))?;
        if port == 0 || host.is_empty() || address.1.is_some_and(|other| other != port) {
            return Err(malformed("one port for target and address"));
        }
        let security = match (https, single(headers, &ALPN_FIELD)) {
            (false, Some("http/1.1") | None) => Security::Plain,
            (true, Some("http/1.1") | None) => Security::Tls { http2: false },
            (true, Some("h2")) => Security::Tls { http2: true },
            _ => return Err(malformed("the protocol h2 (over https) or http/1.1")),
        };
        let address = SocketAddr::new(address.0, port);
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            address,
            security,
        })
    }

    /// The value of a Host field or `:authority`, with the port only where it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let own = if self.security == Security::Plain { 80 } else { 443 };
        let bracketed = self.host.contains(':');
        match (bracketed, self.port == own) {
            (false, true) => self.host.clone(),
            (false, false) => format!("{}:{}", self.host, self.port),
            (true, true) => format!("[{}]", self.host),
            (true, false) => format!("[{}]:{}", self.host, self.port),
        }
    }
}

/// The value of a field that is to be there exactly once.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        None
    } else {
        value.to_str().ok()
    }
}

fn parse_address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    text.parse::<IpAddr>()
        .map(|ip| (ip, None))
        .or_else(|_| {
            text.parse::<SocketAddr>()
                .map(|address| (address.ip(), Some(address.port())))
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str, fields: &[(&'static str, &str)]) -> Result<Target, Refusal> {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        Target::read(&uri.parse().unwrap(), &map)
    }

    #[test]
    fn targets_are_read() {
        let target = read(
            "https://A.test/x",
            &[("x-bottle-address", "198.51.100.7"), ("x-bottle-alpn", "h2")],
        )
        .unwrap();
        assert_eq!((target.host.as_str(), target.port), ("a.test", 443));
        assert_eq!(target.address, "198.51.100.7:443".parse().unwrap());
        assert_eq!(target.security, Security::Tls { http2: true });
        assert_eq!(target.authority(), "a.test");
        let target = read(
            "http://[2001:db8::1]:8080/",
            &[("x-bottle-address", "[2001:db8::1]:8080")],
        )
        .unwrap();
        assert_eq!(target.authority(), "[2001:db8::1]:8080");
        assert_eq!(target.security, Security::Plain);
    }

    #[rstest::rstest]
    #[case::origin_form("/x", &[("x-bottle-address", "198.51.100.7")])]
    #[case::no_address("https://a.test/", &[])]
    #[case::two_addresses("https://a.test/", &[("x-bottle-address", "198.51.100.7"), ("x-bottle-address", "198.51.100.8")])]
    #[case::no_number("https://a.test/", &[("x-bottle-address", "a.test")])]
    #[case::other_port("https://a.test/", &[("x-bottle-address", "198.51.100.7:80")])]
    #[case::user("https://u@a.test/", &[("x-bottle-address", "198.51.100.7")])]
    #[case::scheme("ftp://a.test/", &[("x-bottle-address", "198.51.100.7")])]
    #[case::h2_plain("http://a.test/", &[("x-bottle-address", "198.51.100.7"), ("x-bottle-alpn", "h2")])]
    #[case::alpn("https://a.test/", &[("x-bottle-address", "198.51.100.7"), ("x-bottle-alpn", "h3")])]
    #[case::port_zero("https://a.test:0/", &[("x-bottle-address", "198.51.100.7")])]
    fn anything_else_is_refused(#[case] uri: &str, #[case] fields: &[(&'static str, &str)]) {
        assert_eq!(read(uri, fields).unwrap_err().rule(), "hop-malformed");
    }
}
