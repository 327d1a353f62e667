//! Where everything of a manifest stands in its file.
//!
//! The typed reader knows lines but no paths, and spans woven through every type would spoil the types. So the text is
//! walked once more as YAML events, and each node is noted under its path.

use std::fmt;
use std::sync::Arc;

use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file as it was given.
    pub source: Arc<str>,
    /// From 1; 0 when there is no line to show.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// For example `bottles.dev.egress.routes[0].host`; empty at the top.
    pub path: Box<str>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        Ok(())
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

/// Renders a path. Keys that would be ambiguous are quoted.
pub(crate) fn render(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
            Segment::Key(key) if is_plain(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Key(key) => text.push_str(&format!("[{key:?}]")),
        }
    }
    text
}

/// A path with one more key.
pub(crate) fn below(path: &str, key: &str) -> String {
    let tail = render(&[Segment::Key(key.to_owned())]);
    if tail.starts_with('[') {
        format!("{path}{tail}")
    } else {
        format!("{path}.{tail}")
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// (line, column), both from 1.
pub(crate) type Position = (u64, u64);

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub path: Vec<Segment>,
    /// Where its key stands, when it is a value of a mapping.
    pub key: Option<Position>,
    pub value: Position,
    pub kind: Kind,
    /// The text of a scalar.
    pub text: String,
    /// What it is, in words.
    pub found: String,
}

/// What a node is to a JSON schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nothing,
    Boolean,
    Number,
    Text,
    List,
    Mapping,
    /// Known only where it is defined.
    Alias,
}

/// All nodes in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Places {
    nodes: Vec<Node>,
    complete: bool,
}

impl Places {
    /// Walks the text as far as it is YAML.
    pub fn read(text: &str) -> Self {
        let mut walk = Walk::default();
        let mut complete = true;
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else {
                complete = false;
                break;
            };
            walk.step(event, position(span.start));
        }
        Self {
            nodes: walk.nodes,
            complete,
        }
    }

    /// Whether the whole text is YAML.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All of them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node whose value begins there.
    pub fn value_at(&self, position: Position) -> Option<&Node> {
        self.nodes.iter().find(|node| node.value == position)
    }

    /// The node whose key begins there.
    pub fn key_at(&self, position: Position) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key == Some(position))
    }

    /// The node of a path, or of the nearest path above it (a value that came in by an alias has no node of its own).
    pub fn find(&self, path: &str) -> Option<&Node> {
        let exact = self.nodes.iter().find(|node| render(&node.path) == path);
        exact.or_else(|| {
            let above = |node: &&Node| {
                let own = render(&node.path);
                path.strip_prefix(&own)
                    .is_some_and(|rest| own.is_empty() || rest.starts_with(['.', '[']))
            };
            self.nodes.iter().filter(above).max_by_key(|node| node.path.len())
        })
    }
}

fn position(marker: Marker) -> Position {
    (marker.line() as u64, marker.col() as u64 + 1)
}

/// An open collection.
enum Open {
    Sequence(usize),
    /// The key that waits for its value.
    Mapping(Option<(String, Position)>),
}

#[derive(Default)]
struct Walk {
    nodes: Vec<Node>,
    open: Vec<Open>,
    path: Vec<Segment>,
}

impl Walk {
    fn step(&mut self, event: Event<'_>, at: Position) {
        match event {
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Mapping(key @ None)) = self.open.last_mut() {
                    *key = Some((text.into_owned(), at));
                    return;
                }
                let (kind, found) = (kind(&text, style), scalar(&text, style));
                self.node(at, kind, found, &text);
                self.leave();
            }
            Event::Alias(..) => {
                if let Some(Open::Mapping(key @ None)) = self.open.last_mut() {
                    *key = Some(("*".to_owned(), at));
                    return;
                }
                self.node(at, Kind::Alias, "an alias".to_owned(), "");
                self.leave();
            }
            Event::SequenceStart(..) => {
                self.begin(at, Kind::List, "a list");
                self.open.push(Open::Sequence(0));
            }
            Event::MappingStart(..) => {
                self.begin(at, Kind::Mapping, "a mapping");
                self.open.push(Open::Mapping(None));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                self.leave();
            }
            _ => {}
        }
    }

    fn begin(&mut self, at: Position, kind: Kind, found: &str) {
        // A collection as a key: no manifest has one, the typed reader says so.
        if let Some(Open::Mapping(key @ None)) = self.open.last_mut() {
            *key = Some(("?".to_owned(), at));
        }
        self.node(at, kind, found.to_owned(), "");
    }

    /// Notes a node and steps into it.
    fn node(&mut self, at: Position, kind: Kind, found: String, text: &str) {
        let mut key_at = None;
        match self.open.last() {
            Some(Open::Sequence(index)) => self.path.push(Segment::Index(*index)),
            Some(Open::Mapping(Some((key, position)))) => {
                key_at = Some(*position);
                self.path.push(Segment::Key(key.clone()));
            }
            _ => {}
        }
        self.nodes.push(Node {
            path: self.path.clone(),
            key: key_at,
            value: at,
            kind,
            text: text.to_owned(),
            found,
        });
    }

    /// Steps out of a node that has ended.
    fn leave(&mut self) {
        match self.open.last_mut() {
            Some(Open::Sequence(index)) => *index += 1,
            Some(Open::Mapping(key)) => *key = None,
            None => {}
        }
        self.path.pop();
    }
}

/// The kind of a scalar by the core schema of YAML 1.2 (10.3.2).
fn kind(text: &str, style: ScalarStyle) -> Kind {
    if !matches!(style, ScalarStyle::Plain) {
        return Kind::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Nothing,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Boolean,
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let of = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix);
        digits.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)))
    };
    if of("0x", 16)
        || of("0o", 8)
        || matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
    {
        return true;
    }
    let is_decimal = unsigned
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    is_decimal && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

fn scalar(text: &str, style: ScalarStyle) -> String {
    const SHOWN: usize = 60;
    if kind(text, style) == Kind::Nothing {
        return "nothing".to_owned();
    }
    let line = text.lines().next().unwrap_or("");
    let shown: String = line.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let more = if line.chars().count() > SHOWN || line.len() < text.trim_end().len() {
        "..."
    } else {
        ""
    };
    match kind(text, style) {
        // Where quotes are what is wrong, they must be seen.
        Kind::Text if kind(text, ScalarStyle::Plain) != Kind::Text => format!("the text `\"{shown}\"`"),
        _ => format!("`{shown}{more}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_paths_and_positions() {
        let places = Places::read("a:\n  b: [x, {c: 1}]\n  \"d.e\": y\n");
        let at = |path: &str| places.find(path).map(|node| (node.key, node.value));
        assert_eq!(at("a"), Some((Some((1, 1)), (2, 3))));
        assert_eq!(at("a.b[0]"), Some((None, (2, 7))));
        assert_eq!(at("a.b[1].c"), Some((Some((2, 11)), (2, 14))));
        assert_eq!(at("a[\"d.e\"]"), Some((Some((3, 3)), (3, 10))));
        assert_eq!(at("a.b[1].missing"), Some((None, (2, 10))));
        assert_eq!(at("nowhere"), Some((None, (1, 1))));
    }
}
