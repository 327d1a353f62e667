//! Token values on their way from the launcher's environment to the bundle's standard input.

use std::collections::BTreeMap;
use std::fmt;

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

    /// The second line of the bundle's standard input (`bottle_policy::Tokens` as JSON), with only the `wanted` names.
    pub(crate) fn line(&self, wanted: &[String]) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        // Room for everything beforehand (an escape takes six bytes at most): a growing vector would leave copies behind.
        let room: usize = self
            .values
            .iter()
            .map(|(name, value)| 6 * (name.len() + value.expose_secret().len()) + 8)
            .sum();
        let mut line = Zeroizing::new(Vec::with_capacity(room + 32));
        let chosen = Chosen { secrets: self, wanted };
        let mut json = serde_json::Serializer::new(&mut *line);
        let mut outer = serde::Serializer::serialize_map(&mut json, Some(1))?;
        outer.serialize_entry("tokens", &chosen)?;
        SerializeMap::end(outer)?;
        line.push(b'\n');
        Ok(line)
    }
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
        let line = secrets.line(&["A".to_owned()]).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let tokens: bottle_policy::Tokens = serde_json::from_slice(&line).unwrap();
        assert_eq!(tokens.tokens.len(), 1);
        assert_eq!(tokens.tokens["A"], "va\"lue\n");
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
