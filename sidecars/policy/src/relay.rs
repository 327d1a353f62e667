//! The preface of a relayed connection: what the launcher says first on the port that a bundle publishes for it.
//!
//! It has one length and one form, so that a reader needs no judgement before all of it is there:
//! [`VERSION`](self), the service's name padded with zero bytes, the bottle's secret, a line feed.

/// Bytes of a bottle's relay secret.
pub const RELAY_SECRET: usize = 32;

/// Bytes of a preface.
pub const PREFACE: usize = VERSION.len() + NAME + RELAY_SECRET + 1;

/// First bytes: which version of the preface.
const VERSION: &[u8; 8] = b"BTLRLY01";
/// Longest name of a service in bytes.
const NAME: usize = 15;
/// Last byte: nobody who sends a longer secret is taken for one who knows this one.
const END: u8 = b'\n';

/// Why a connection to the relay's port comes to nothing. Whoever connects is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayRefusal {
    /// The preface did not come in time.
    Late,
    /// The connection ended before all of the preface was there.
    BrokenOff,
    /// It is another version's preface, or none.
    Version,
    /// The secret is not this bottle's.
    Secret,
    /// It goes on where it should end.
    Length,
    /// The bundle has no service of this name.
    Service,
    /// The service does not take connections.
    Unreachable,
}

impl RelayRefusal {
    /// The stable kebab-case name, as in decision records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Late => "relay-late",
            Self::BrokenOff => "relay-broken-off",
            Self::Version => "relay-version",
            Self::Secret => "relay-secret",
            Self::Length => "relay-length",
            Self::Service => "relay-service",
            Self::Unreachable => "relay-unreachable",
        }
    }
}

/// The preface for a service; `None` when its name is empty, longer than 15 bytes or no printable ASCII. The answer has the
/// secret in it.
pub fn preface(service: &str, secret: &[u8; RELAY_SECRET]) -> Option<[u8; PREFACE]> {
    if service.is_empty() || service.len() > NAME || !service.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut preface = [0; PREFACE];
    let (version, rest) = preface.split_at_mut(VERSION.len());
    let (name, rest) = rest.split_at_mut(NAME);
    version.copy_from_slice(VERSION);
    name[..service.len()].copy_from_slice(service.as_bytes());
    rest[..RELAY_SECRET].copy_from_slice(secret);
    rest[RELAY_SECRET] = END;
    Some(preface)
}

/// The service that a preface with this bottle's secret asks for.
///
/// # Errors
/// Whatever else it is. The secret is looked at before the name is, so that a guess tells nothing of the services.
pub fn asked<'a>(preface: &'a [u8; PREFACE], secret: &[u8; RELAY_SECRET]) -> Result<&'a str, RelayRefusal> {
    let (version, rest) = preface.split_at(VERSION.len());
    let (name, rest) = rest.split_at(NAME);
    let (theirs, end) = rest.split_at(RELAY_SECRET);
    if version != VERSION {
        return Err(RelayRefusal::Version);
    }
    if !is_same(theirs, secret) {
        return Err(RelayRefusal::Secret);
    }
    if end != [END] {
        return Err(RelayRefusal::Length);
    }
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    let (name, padding) = name.split_at(length);
    let is_plain = !name.is_empty() && name.iter().all(u8::is_ascii_graphic) && padding.iter().all(|byte| *byte == 0);
    let name = str::from_utf8(name).ok().filter(|_| is_plain);
    name.ok_or(RelayRefusal::Service)
}

/// Whether two secrets are the same. Of equally long ones every byte is looked at, so that the time tells nothing.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |seen, (one, other)| seen | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const OURS: [u8; RELAY_SECRET] = [7; RELAY_SECRET];
    const SECRET_AT: usize = VERSION.len() + NAME;

    #[rstest]
    #[case::ours(0, b"", Ok("proxy.sock"))]
    #[case::another_version(7, b"2", Err(RelayRefusal::Version))]
    #[case::http(0, b"GET / HTTP/1.1\r\n", Err(RelayRefusal::Version))]
    #[case::first_byte_of_the_secret(SECRET_AT, &[6], Err(RelayRefusal::Secret))]
    #[case::last_byte_of_the_secret(SECRET_AT + RELAY_SECRET - 1, &[6], Err(RelayRefusal::Secret))]
    #[case::no_secret(SECRET_AT, &[0; RELAY_SECRET], Err(RelayRefusal::Secret))]
    #[case::too_long(PREFACE - 1, &[7], Err(RelayRefusal::Length))]
    #[case::no_name(VERSION.len(), &[0; NAME], Err(RelayRefusal::Service))]
    #[case::after_the_padding(VERSION.len() + NAME - 1, b"x", Err(RelayRefusal::Service))]
    #[case::control(VERSION.len(), b"\x1b", Err(RelayRefusal::Service))]
    #[case::space(VERSION.len(), b" ", Err(RelayRefusal::Service))]
    #[case::not_utf8(VERSION.len(), b"\xff", Err(RelayRefusal::Service))]
    fn prefaces(#[case] at: usize, #[case] bytes: &[u8], #[case] expected: Result<&str, RelayRefusal>) {
        let mut given = preface("proxy.sock", &OURS).unwrap();
        given[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(asked(&given, &OURS), expected);
    }

    /// A guess with a wrong name and a wrong end is a wrong secret like any other.
    #[test]
    fn without_the_secret_nothing_is_learnt_of_the_services() {
        let mut given = preface("nothing", &[8; RELAY_SECRET]).unwrap();
        given[PREFACE - 1] = 0;
        assert_eq!(asked(&given, &OURS), Err(RelayRefusal::Secret));
    }

    #[test]
    fn names_that_do_not_fit_are_none() {
        for name in ["", "sixteen-letters-", "two words", "ä"] {
            assert_eq!(preface(name, &OURS), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in "[!-~]{1,15}", secret: [u8; RELAY_SECRET]) {
            let written = preface(&name, &secret).unwrap();
            prop_assert_eq!(asked(&written, &secret), Ok(name.as_str()));
        }

        #[test]
        fn any_other_bytes_are_refused(bytes: [u8; PREFACE], with_version: bool) {
            let mut bytes = bytes;
            if with_version {
                bytes[..VERSION.len()].copy_from_slice(VERSION);
            }
            prop_assert!(asked(&bytes, &OURS).is_err());
        }

        #[test]
        fn secrets_are_the_same_or_not(one: Vec<u8>, other: Vec<u8>) {
            prop_assert_eq!(is_same(&one, &other), one == other);
            prop_assert!(is_same(&one, &one.clone()));
        }
    }
}
