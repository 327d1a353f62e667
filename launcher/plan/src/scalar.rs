//! Scalars of the manifest that YAML has no type for.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a size is, in words.
pub(crate) const SIZE: &str = "a size such as `512MiB` or `4GiB` (or a number of bytes)";
const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// A number of bytes, written as one or with a binary unit (`KiB`, `MiB`, `GiB`, `TiB`). Decimal units are not taken: `4GB`
/// means two different things to two tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads digits with an optional unit.
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
            .unwrap_or((text, 0));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        number.checked_mul(1 << shift).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match UNITS.iter().rev().find(|(_, shift)| fits(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        // As a text, which YAML numbers are too: the reader then knows the place of the value.
        deserializer.deserialize_str(Size)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": SIZE,
            "type": ["string", "integer"],
            "minimum": 0,
            "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)?$",
        })
    }
}

/// A text for which numbers and booleans are taken too, as they are written: values of environment variables, arguments,
/// users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "a text", "type": ["string", "number", "boolean"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", Some(0))]
    #[case("4096", Some(4096))]
    #[case("1KiB", Some(1024))]
    #[case("4GiB", Some(4 << 30))]
    #[case("2TiB", Some(2 << 40))]
    #[case("4GB", None)]
    #[case("4 GiB", None)]
    #[case("-1", None)]
    #[case("GiB", None)]
    #[case("+4MiB", None)]
    #[case("99999999TiB", None)]
    fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(ByteSize::parse(text).map(|size| size.0), bytes);
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for bytes in [0, 1, 1023, 1024, 512 << 20, 4 << 30, 3 << 40] {
            let size = ByteSize(bytes);
            assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
        }
    }
}
