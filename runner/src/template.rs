//! `${key}` in actions, replaced from the world of the run.

use std::collections::BTreeMap;

use probe_spec::Action;
use serde_json::Value;

/// What keys stand for.
pub type Keys = BTreeMap<String, String>;

/// An action that cannot be filled in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A key without a value.
    #[error("`${{{0}}}` stands for nothing in the world of this run")]
    UnknownKey(String),
    /// `${` without `}`.
    #[error("`{0}` opens a key and does not close it")]
    Unclosed(String),
    /// The action does not survive the replacement.
    #[error("the filled-in action is not understood: {0}")]
    Shape(String),
}

/// The action with every key replaced, in all its texts. Lists of one text that a key makes into several stay one text.
pub fn fill(action: &Action, keys: &Keys) -> Result<Action, TemplateError> {
    let shape = |error: serde_json::Error| TemplateError::Shape(error.to_string());
    let mut value = serde_json::to_value(action).map_err(shape)?;
    fill_value(&mut value, keys)?;
    serde_json::from_value(value).map_err(shape)
}

fn fill_value(value: &mut Value, keys: &Keys) -> Result<(), TemplateError> {
    match value {
        Value::String(text) => {
            *text = fill_text(text, keys)?;
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill_value(item, keys)),
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill_value(field, keys)),
        _ => Ok(()),
    }
}

/// One text with every key replaced.
pub fn fill_text(text: &str, keys: &Keys) -> Result<String, TemplateError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        filled.push_str(&rest[..at]);
        let key = &rest[at + 2..];
        let end = key.find('}').ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
        let value = keys
            .get(&key[..end])
            .ok_or_else(|| TemplateError::UnknownKey(key[..end].to_owned()))?;
        filled.push_str(value);
        rest = &key[end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::from([("sink".to_owned(), "203.0.113.99".to_owned())])
    }

    #[test]
    fn keys_are_replaced_and_nonces_are_left_to_the_agent() {
        let action = Action::Tcp {
            to: "${sink}:80".to_owned(),
            send: "GET /{nonce} ${sink}".to_owned(),
            from: None,
        };
        let filled = fill(&action, &keys()).unwrap();
        assert_eq!(
            filled,
            Action::Tcp {
                to: "203.0.113.99:80".to_owned(),
                send: "GET /{nonce} 203.0.113.99".to_owned(),
                from: None
            }
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        assert_eq!(
            fill_text("${x.y}", &keys()),
            Err(TemplateError::UnknownKey("x.y".to_owned()))
        );
        assert_eq!(
            fill_text("a ${x", &keys()),
            Err(TemplateError::Unclosed("a ${x".to_owned()))
        );
    }

    #[test]
    fn every_key_of_every_case_is_declared() {
        let keys: Keys = probe_spec::world::KEYS
            .iter()
            .map(|(key, _)| ((*key).to_owned(), "1".to_owned()))
            .collect();
        for probe in probe_spec::CATALOGUE {
            for case in (probe.cases)() {
                for action in crate::actions_of(&case.how) {
                    // Ports become `1`, so shapes hold; only unknown keys can fail.
                    fill(action, &keys).unwrap_or_else(|error| panic!("{}::{}: {error}", probe.id, case.name));
                }
            }
        }
    }
}
