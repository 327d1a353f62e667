//! What a manifest may have at a path, in words, read from the JSON schema: so that messages and schema cannot disagree.

use serde_json::Value;

use crate::places::{Kind, Segment};

/// The schema of a path.
pub(crate) fn schema_at<'a>(root: &'a Value, path: &[Segment]) -> Option<&'a Value> {
    let mut schema = root;
    for segment in path {
        schema = step(resolve(root, schema)?, segment)?;
    }
    resolve(root, schema)
}

fn step<'a>(schema: &'a Value, segment: &Segment) -> Option<&'a Value> {
    match segment {
        Segment::Key(key) => schema
            .get("properties")
            .and_then(|properties| properties.get(key))
            .or_else(|| schema.get("additionalProperties").filter(|value| value.is_object())),
        Segment::Index(_) => schema.get("items"),
    }
}

/// Follows references, and takes the side of an optional value that is not null.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> Option<&'a Value> {
    for _ in 0..16 {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            schema = root.pointer(reference.strip_prefix('#')?)?;
        } else if let Some(sides) = schema.get("anyOf").and_then(Value::as_array) {
            schema = sides
                .iter()
                .find(|side| side.get("type").and_then(Value::as_str) != Some("null"))?;
        } else {
            return Some(schema);
        }
    }
    None
}

/// Whether a schema takes a value of a kind. The YAML reader is more lenient than a schema: it takes a number for a text, a
/// text in quotes for a number, and nothing for an empty mapping.
pub(crate) fn takes(root: &Value, path: &[Segment], kind: Kind) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return true;
    };
    let Some(schema) = schema_at(root, parents).and_then(|parent| step(parent, last)) else {
        return true;
    };
    let name = match kind {
        Kind::Nothing => "null",
        Kind::Boolean => "boolean",
        Kind::Number => "number",
        Kind::Text => "string",
        Kind::List => "array",
        Kind::Mapping => "object",
        Kind::Alias => return true,
    };
    has_type(root, schema, name, 0)
}

fn has_type(root: &Value, schema: &Value, name: &str, depth: u32) -> bool {
    if depth > 16 {
        return false;
    }
    let is = |value: &Value| {
        value
            .as_str()
            .is_some_and(|kind| kind == name || (name == "number" && kind == "integer"))
    };
    let sides = ["anyOf", "oneOf"]
        .iter()
        .filter_map(|key| schema.get(key)?.as_array())
        .flatten();
    let mut sides = sides.chain(
        schema
            .get("$ref")
            .and_then(|at| root.pointer(at.as_str()?.strip_prefix('#')?)),
    );
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is),
        Some(kind) => is(kind),
        None => sides.any(|side| has_type(root, side, name, depth + 1)),
    }
}

/// What it takes, in words.
pub(crate) fn expected(schema: &Value) -> String {
    // Only scalars have titles of use here.
    if schema.get("properties").is_none()
        && let Some(title) = schema.get("title").and_then(Value::as_str)
    {
        return title.to_owned();
    }
    if let Some(choices) = choices(schema) {
        return one_of(&choices);
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match kind {
        Some("integer") => with_range("a whole number", schema),
        Some("number") => with_range("a number", schema),
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("string") => "a text".to_owned(),
        Some("array") => "a list".to_owned(),
        Some("object") => "a mapping".to_owned(),
        _ => "something else".to_owned(),
    }
}

fn choices(schema: &Value) -> Option<Vec<String>> {
    let own = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.iter().filter_map(own).collect());
    }
    let sides = schema.get("oneOf")?.as_array()?;
    Some(
        sides
            .iter()
            .filter_map(|side| side.get("const").and_then(own))
            .collect(),
    )
}

/// "`a`, `b` or `c`".
pub(crate) fn one_of<T: AsRef<str>>(choices: &[T]) -> String {
    let mut text = String::new();
    for (index, choice) in choices.iter().enumerate() {
        match index {
            0 => {}
            _ if index + 1 == choices.len() => text.push_str(" or "),
            _ => text.push_str(", "),
        }
        text.push_str(&format!("`{}`", choice.as_ref()));
    }
    text
}

fn with_range(noun: &str, schema: &Value) -> String {
    let bound = |name: &str| schema.get(name).filter(|value| value.is_number()).map(trimmed);
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) if low == high => low,
        (Some(low), Some(high)) => format!("{noun} from {low} to {high}"),
        (Some(low), None) => format!("{noun} from {low}"),
        _ => noun.to_owned(),
    }
}

fn trimmed(number: &Value) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// The candidate nearest to a misspelt name, when one is near: one edit in three letters, or the same beginning.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let edits = |candidate: &str| strsim::osa_distance(name, candidate);
    let is_near = |candidate: &&str| {
        edits(candidate) <= (name.chars().count() / 3).max(1) || strsim::jaro_winkler(name, candidate) >= 0.85
    };
    candidates
        .into_iter()
        .filter(is_near)
        .min_by_key(|candidate| edits(candidate))
}
