//! `host:port` as it stands in CONNECT, `Host` and `:authority`.

use crate::name::{Host, HostError};

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The host part is not one.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The port is missing where it must stand, or is not a plain decimal number from 1 to 65535.
    #[error("the port must be a plain number from 1 to 65535")]
    Port,
}

/// Reads the target of CONNECT: host and port (RFC 9112 3.2.3), the port mandatory.
///
/// # Errors
/// Says which part is wrong.
pub fn connect_authority(text: &[u8]) -> Result<(Host, u16), AuthorityError> {
    let (host, port) = split(text);
    let host = Host::from_wire(host)?;
    let port = port.and_then(plain_port).ok_or(AuthorityError::Port)?;
    Ok((host, port))
}

/// Reads the value of `Host` or `:authority`: the port may be missing (RFC 9110 7.2).
///
/// # Errors
/// Says which part is wrong.
pub fn host_authority(text: &[u8]) -> Result<(Host, Option<u16>), AuthorityError> {
    let (host, port) = split(text);
    let host = Host::from_wire(host)?;
    let port = port.map(|p| plain_port(p).ok_or(AuthorityError::Port)).transpose()?;
    Ok((host, port))
}

/// Splits at the colon behind the host; brackets protect IPv6. Nothing is judged here.
pub fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = if text.first() == Some(&b'[') {
        text.iter().position(|&b| b == b']').unwrap_or(0)
    } else {
        0
    };
    // The last colon: with several of them the host keeps one, and is then refused as a spelling.
    match text
        .iter()
        .rposition(|&b| b == b':')
        .filter(|&at| at > from || from == 0)
    {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// A port in plain decimal digits: no sign, no space, no leading zero.
pub fn plain_port(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 5 || text[0] == b'0' || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("example.test:443", "example.test", 443)]
    #[case("EXAMPLE.test.:1", "example.test", 1)]
    #[case("198.51.100.7:65535", "198.51.100.7", 65535)]
    #[case("[2001:db8::1]:8443", "[2001:db8::1]", 8443)]
    fn connect(#[case] text: &str, #[case] host: &str, #[case] port: u16) {
        let (h, p) = connect_authority(text.as_bytes()).unwrap();
        assert_eq!((h.to_string().as_str(), p), (host, port));
    }

    #[rstest]
    #[case("example.test")]
    #[case("example.test:")]
    #[case("example.test:0")]
    #[case("example.test:00443")]
    #[case("example.test:0443")]
    #[case("example.test:65536")]
    #[case("example.test:99999")]
    #[case("example.test:+443")]
    #[case("example.test: 443")]
    #[case("example.test:443 ")]
    #[case("example.test:-1")]
    #[case("example.test:4a3")]
    #[case("example.test:443443")]
    #[case("[2001:db8::1]")]
    fn bad_ports(#[case] text: &str) {
        assert_eq!(connect_authority(text.as_bytes()), Err(AuthorityError::Port));
    }

    #[rstest]
    #[case("example.test:443:443")]
    #[case("::1:443")]
    #[case("[::1:443")]
    #[case("127.1:443")]
    fn bad_hosts(#[case] text: &str) {
        assert_eq!(
            connect_authority(text.as_bytes()),
            Err(AuthorityError::Host(HostError::Spelling))
        );
    }

    #[test]
    fn host_port_is_optional() {
        assert_eq!(host_authority(b"example.test").unwrap().1, None);
        assert_eq!(host_authority(b"example.test:80").unwrap().1, Some(80));
        assert_eq!(host_authority(b"[2001:db8::1]").unwrap().1, None);
        assert_eq!(host_authority(b"example.test:"), Err(AuthorityError::Port));
        assert_eq!(
            host_authority(b"user@example.test"),
            Err(AuthorityError::Host(HostError::Character))
        );
    }
}
