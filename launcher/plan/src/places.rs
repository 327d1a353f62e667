//! Where everything of a manifest stands in its file.
//!
//! The typed reader knows lines but no paths, and spans woven through every type would spoil the types. So the text is
//! walked once more as YAML events, and each node is noted under its path.

use std::fmt;

use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file as it was given.
    pub source: String,
    /// From 1; 0 when there is no line to show.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// For example `bottles.dev.egress.routes[0].host`; empty at the top.
    pub path: String,
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
    /// What it is, in words.
    pub found: String,
}

/// All nodes in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Places {
    nodes: Vec<Node>,
}

impl Places {
    /// Walks the text as far as it is YAML.
    pub fn read(text: &str) -> Self {
        let mut walk = Walk::default();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            walk.step(event, position(span.start));
        }
        Self { nodes: walk.nodes }
    }

    /// The node whose value begins there.
    pub fn value_at(&self, position: Position) -> Option<&Node> {
        self.nodes.iter().find(|node| node.value == position)
    }

    /// The node whose key begins there.
    pub fn key_at(&self, position: Position) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key == Some(position))
    }

    /// The last node that begins at or before a position.
    pub fn before(&self, position: Position) -> Option<&Node> {
        self.nodes
            .iter()
            .filter(|node| node.value <= position)
            .max_by_key(|node| (node.value, node.path.len()))
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
                self.node(at, scalar(&text, style));
                self.leave();
            }
            Event::Alias(..) => {
                if let Some(Open::Mapping(key @ None)) = self.open.last_mut() {
                    *key = Some(("*".to_owned(), at));
                    return;
                }
                self.node(at, "an alias".to_owned());
                self.leave();
            }
            Event::SequenceStart(..) => {
                self.begin(at, "a list");
                self.open.push(Open::Sequence(0));
            }
            Event::MappingStart(..) => {
                self.begin(at, "a mapping");
                self.open.push(Open::Mapping(None));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                self.leave();
            }
            _ => {}
        }
    }

    fn begin(&mut self, at: Position, found: &str) {
        // A collection as a key: no manifest has one, the typed reader says so.
        if let Some(Open::Mapping(key @ None)) = self.open.last_mut() {
            *key = Some(("?".to_owned(), at));
        }
        self.node(at, found.to_owned());
    }

    /// Notes a node and steps into it.
    fn node(&mut self, at: Position, found: String) {
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

fn scalar(text: &str, style: ScalarStyle) -> String {
    const SHOWN: usize = 60;
    if matches!(style, ScalarStyle::Plain) && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return "nothing".to_owned();
    }
    let line = text.lines().next().unwrap_or("");
    let shown: String = line.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if shown.len() < text.len() {
        format!("`{shown}...`")
    } else {
        format!("`{shown}`")
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
