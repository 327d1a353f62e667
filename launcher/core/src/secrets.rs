//! Token values on their way from the launcher's environment to the bundle's standard input.

use std::collections::BTreeMap;
use std::fmt;

use bottle_backend::RelaySecret;
use secrecy::{ExposeSecret, SecretString};
use serde::ser::SerializeMap;
use zeroize::Zeroizing;

/// Token values by the name of the operator's environment variable. Values are wiped from memory on drop and are never
/// shown by `Debug`.
#[derive(Default)]
pub struct Secrets {
    values: BTreeMap<String, SecretString>,
}

impl Secrets {
    /// No tokens.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one; a second value of the same name replaces the first.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<SecretString>) {
        self.values.insert(name.into(), value.into());
    }

    /// Reads the named variables of this process's environment; names that are not set (or are empty) stay absent, and
    /// [`launch`](crate::launch) refuses a plan that needs them.
    pub fn from_env(names: &[String]) -> Self {
        let mut secrets = Self::default();
        for name in names {
            if let Ok(value) = std::env::var(name)
                && !value.is_empty()
            {
                secrets.insert(name.clone(), value);
            }
        }
        secrets
    }

    /// The names of `wanted` that have no value here.
    pub fn missing(&self, wanted: &[String]) -> Vec<String> {
        wanted
            .iter()
            .filter(|name| !self.values.contains_key(*name))
            .cloned()
            .collect()
    }

    /// The second line of the bundle's standard input (`bottle_policy::Tokens` as JSON), with only the `wanted` names, and with
    /// the secret of its relay.
    pub(crate) fn line(
        &self,
        wanted: &[String],
        relay: Option<&RelaySecret>,
    ) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        // Room for everything beforehand (an escape takes six bytes at most): a growing vector would leave copies behind.
        let room: usize = self
            .values
            .iter()
            .map(|(name, value)| 6 * (name.len() + value.expose_secret().len()) + 8)
            .sum();
        let mut line = Zeroizing::new(Vec::with_capacity(room + 128));
        let chosen = Chosen { secrets: self, wanted };
        let mut json = serde_json::Serializer::new(&mut *line);
        let mut outer = serde::Serializer::serialize_map(&mut json, None)?;
        outer.serialize_entry("tokens", &chosen)?;
        if let Some(relay) = relay {
            outer.serialize_entry("relay", digits(relay.expose_secret()).as_str())?;
        }
        SerializeMap::end(outer)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// In hexadecimal digits, of which no copy is left.
fn digits(bytes: &[u8]) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            digits.extend(char::from_digit(half.into(), 16));
        }
    }
    digits
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

struct Chosen<'a> {
    secrets: &'a Secrets,
    wanted: &'a [String],
}

impl serde::Serialize for Chosen<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.secrets.values {
            if self.wanted.contains(name) {
                map.serialize_entry(name, value.expose_secret())?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_what_the_bundle_reads_and_has_only_what_is_wanted() {
        let mut secrets = Secrets::none();
        secrets.insert("A", "va\"lue\n".to_owned());
        secrets.insert("B", "unwanted".to_owned());
        let line = secrets.line(&["A".to_owned()], None).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let tokens: bottle_policy::Tokens = serde_json::from_slice(&line).unwrap();
        assert_eq!(tokens.tokens.len(), 1);
        assert_eq!(tokens.tokens["A"], "va\"lue\n");
        assert_eq!(tokens.relay, None);
    }

    #[test]
    fn the_relays_secret_is_on_the_line_in_digits() {
        let secret = RelaySecret::init_with_mut(|bytes| bytes[..2].copy_from_slice(&[0xa0, 0x0b]));
        let line = Secrets::none().line(&[], Some(&secret)).unwrap();
        let tokens: bottle_policy::Tokens = serde_json::from_slice(&line).unwrap();
        assert_eq!(tokens.relay.unwrap(), "a00b".to_owned() + &"0".repeat(60));
        assert!(!format!("{secret:?}").contains("160"), "{secret:?}");
        // The one reservation was enough.
        assert!(line.capacity() >= line.len() && line.len() <= 128);
    }

    #[test]
    fn debug_shows_names_only() {
        let mut secrets = Secrets::none();
        secrets.insert("A", "hidden-value".to_owned());
        assert_eq!(format!("{secrets:?}"), "{\"A\"}");
    }

    #[test]
    fn missing_names_what_is_absent() {
        let mut secrets = Secrets::none();
        secrets.insert("A", "x".to_owned());
        assert_eq!(secrets.missing(&["A".to_owned(), "B".to_owned()]), ["B"]);
    }
}
