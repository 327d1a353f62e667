//! Reading a manifest.

use std::sync::Arc;

use serde_json::Value;
use serde_yaml::{DuplicateKeyPolicy, Error as YamlError, Location, MergeKeyPolicy};

use crate::describe::{expected, nearest, one_of, schema_at, takes};
use crate::document::{Bottle, Document};
use crate::places::{Kind, Node, Place, Places, Position, render};
use crate::scalar::{ByteSize, SIZE};

/// A manifest that was read, with the place of everything in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    document: Document,
    source: Arc<str>,
    places: Places,
}

/// Something in a manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found {found}{}", help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default())]
pub struct ManifestError {
    /// Where.
    pub place: Place,
    /// What can stand there.
    pub expected: String,
    /// What does.
    pub found: String,
    /// What to do about it, when that is known.
    pub help: Option<Box<str>>,
}

/// Reads a manifest. `source_name` is what messages call it.
///
/// # Errors
/// The first thing that is not YAML, not a known key, a key twice, or of another type, with its place. What a value means
/// is looked at by [`prepare`](crate::prepare).
pub fn parse(source_name: &str, text: &str) -> Result<Manifest, ManifestError> {
    let places = Places::read(text);
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let reading = Reading {
        source_name,
        places: &places,
    };
    let document: Document = reading
        .kinds()
        .and_then(|()| serde_yaml::from_str_with_options(text, options).map_err(|error| reading.refusal(&error)))?;
    let manifest = Manifest {
        document,
        source: source_name.into(),
        places,
    };
    if manifest.document.version != 1 {
        return Err(manifest.refuse("version", "1, the only version of the format"));
    }
    Ok(manifest)
}

/// JSON schema (draft 2020-12) of the format, from the types that read it.
pub fn schema() -> Value {
    schemars::schema_for!(Document).to_value()
}

impl Manifest {
    /// What was written.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Name of the file as it was given to [`parse`].
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A bottle by name.
    pub fn bottle(&self, name: &str) -> Option<&Bottle> {
        self.document.bottles.get(name)
    }

    /// The files of certificate authorities that preparing a bottle needs the contents of, as they are written.
    pub fn ca_files(&self, bottle: &str) -> &[String] {
        self.bottle(bottle)
            .map_or(&[], |bottle| bottle.egress.ca_certificates.as_slice())
    }

    /// The directory that is given to a bottle, as it is written; `None` when it is given none.
    pub fn workspace(&self, bottle: &str) -> Option<&str> {
        let workspace = self.bottle(bottle)?.workspace.as_ref()?;
        Some(workspace.path.as_deref().unwrap_or("."))
    }

    /// Where a path like `bottles.dev.image` stands; where the nearest path above it does, when it is absent.
    pub fn place(&self, path: &str) -> Place {
        let at = self.places.find(path).map_or((0, 0), |node| node.value);
        self.at(at, path)
    }

    /// A refusal of the value at a path.
    pub(crate) fn refuse(&self, path: &str, expected: impl Into<String>) -> ManifestError {
        let found = match self.places.find(path) {
            Some(node) if render(&node.path) == path => node.found.clone(),
            _ => "nothing".to_owned(),
        };
        self.refuse_found(path, expected, found)
    }

    /// A refusal of the value at a path, with other words for what is there.
    pub(crate) fn refuse_found(
        &self,
        path: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ManifestError {
        ManifestError {
            place: self.place(path),
            expected: expected.into(),
            found: found.into(),
            help: None,
        }
    }

    /// A refusal of a key, at the key.
    pub(crate) fn refuse_key(
        &self,
        path: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ManifestError {
        let node = self.places.find(path);
        let at = node.map_or((0, 0), |node| node.key.unwrap_or(node.value));
        ManifestError {
            place: self.at(at, path),
            expected: expected.into(),
            found: found.into(),
            help: None,
        }
    }

    fn at(&self, (line, column): Position, path: &str) -> Place {
        Place {
            source: self.source.clone(),
            line,
            column,
            path: path.into(),
        }
    }
}

/// Turns errors of the YAML reader into ours.
struct Reading<'a> {
    source_name: &'a str,
    places: &'a Places,
}

impl Reading<'_> {
    fn refusal(&self, error: &YamlError) -> ManifestError {
        match error {
            YamlError::WithSnippet { error, .. } => self.refusal(error),
            YamlError::AliasError { error, .. } => self.refusal(error),
            YamlError::SerdeUnknownField {
                field,
                expected,
                location,
            } => self.unknown_key(field, expected, *location),
            YamlError::SerdeMissingField { field, location } => {
                let node = self.value(*location);
                let found = format!("{} without it", node.map_or("a mapping", |node| node.found.as_str()));
                self.error(node, *location, format!("the key `{field}`"), found)
            }
            YamlError::DuplicateMappingKey { key, location } => {
                let key = key.as_deref().unwrap_or("?");
                let node = self.places.key_at(position(*location));
                self.error(
                    node,
                    *location,
                    "every key once".to_owned(),
                    format!("`{key}` a second time"),
                )
            }
            YamlError::MergeKeyNotAllowed { location } => {
                let node = self.value(*location);
                self.error(
                    node,
                    *location,
                    "plain keys".to_owned(),
                    "the merge key `<<`".to_owned(),
                )
            }
            YamlError::MultipleDocuments { location, .. } => self.error(
                None,
                *location,
                "one document".to_owned(),
                "the beginning of a second (`---`)".to_owned(),
            ),
            other => self.value_or_syntax(other),
        }
    }

    /// Refuses values of the wrong kind: the YAML reader is lenient with some, and says less about the others. A text that
    /// is no YAML is left to it.
    fn kinds(&self) -> Result<(), ManifestError> {
        let root = schema();
        let is_wrong = |node: &&Node| !takes(&root, &node.path, node.kind) || is_no_size(&root, node);
        let Some(node) = self
            .places
            .nodes()
            .iter()
            .find(is_wrong)
            .filter(|_| self.places.is_complete())
        else {
            return Ok(());
        };
        let expected = schema_at(&root, &node.path).map_or("something else".to_owned(), expected);
        let text_needed = matches!(node.kind, Kind::Boolean | Kind::Number);
        Err(ManifestError {
            place: Place {
                source: self.source_name.into(),
                line: node.value.0,
                column: node.value.1,
                path: render(&node.path).into(),
            },
            expected,
            found: node.found.clone(),
            help: text_needed.then(|| "put it in quotes".into()),
        })
    }

    fn unknown_key(&self, field: &str, known: &[&str], location: Location) -> ManifestError {
        let node = self.places.key_at(position(location));
        let mut error = self.error(node, location, one_of(known), format!("the unknown key `{field}`"));
        error.help = nearest(field, known.iter().copied()).map(|near| format!("did you mean `{near}`?").into());
        error
    }

    /// A value of another type; or a text that is no YAML at all, which is what the reader reports where no node is.
    fn value_or_syntax(&self, error: &YamlError) -> ManifestError {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let is_value = matches!(
            error,
            YamlError::SerdeInvalidType { .. }
                | YamlError::SerdeInvalidValue { .. }
                | YamlError::SerdeUnknownVariant { .. }
                | YamlError::InvalidScalar { .. }
                | YamlError::InvalidBooleanStrict { .. }
                | YamlError::NullIntoString { .. }
                | YamlError::Unexpected { .. }
                | YamlError::QuotingRequired { .. }
                | YamlError::ExternallyTaggedEnumExpectedScalarOrMapping { .. }
                | YamlError::TaggedScalarCannotDeserializeIntoString { .. }
                | YamlError::NonFiniteFloat { .. }
        );
        let node = self.value(location);
        let root = schema();
        match node.and_then(|node| Some((node, schema_at(&root, &node.path)?))) {
            Some((node, schema)) if is_value => self.error(Some(node), location, expected(schema), node.found.clone()),
            _ => {
                // No path: the text around it may not mean what it seems to.
                let said = one_line(&error.without_snippet().to_string());
                self.error(None, location, "well-formed YAML".to_owned(), said)
            }
        }
    }

    fn value(&self, location: Location) -> Option<&Node> {
        let at = position(location);
        self.places.value_at(at).or_else(|| self.places.key_at(at))
    }

    fn error(&self, node: Option<&Node>, location: Location, expected: String, found: String) -> ManifestError {
        let (line, column) = position(location);
        ManifestError {
            place: Place {
                source: self.source_name.into(),
                line,
                column,
                path: node.map(|node| render(&node.path)).unwrap_or_default().into(),
            },
            expected,
            found,
            help: None,
        }
    }
}

fn position(location: Location) -> Position {
    (location.line(), location.column())
}

/// Whether a size is expected and the text is none.
fn is_no_size(root: &Value, node: &Node) -> bool {
    let title = schema_at(root, &node.path).and_then(|schema| schema.get("title"));
    title.and_then(Value::as_str) == Some(SIZE) && node.kind != Kind::Alias && ByteSize::parse(&node.text).is_none()
}

/// The reader's own words, without the position, which is told already.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
