//! Texts of cases with their marks filled in.
//!
//! Braces that begin none of the known forms stand for themselves, so that JSON bodies need no escaping.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use probe_spec::Nonce;

/// What a case's templates are filled with.
#[derive(Clone, Debug)]
pub struct Words {
    /// `{nonce}`.
    pub nonce: Nonce,
    /// `{ok}`.
    pub ok: Nonce,
}

/// A template cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{b64:`, `{rot:` or `{hex:` without its closing brace.
    #[error("expected a closing brace for `{0}`")]
    Unclosed(&'static str),
    /// `{hex:..}` around something else than pairs of hexadecimal digits.
    #[error("expected pairs of hexadecimal digits in `{{hex:..}}`")]
    NotHex,
    /// The filled-in text must be UTF-8 (a name, an address, a field) and is not.
    #[error("expected text where `{{hex:..}}` made other bytes")]
    NotText,
}

/// The forms that enclose a text.
const ENCLOSING: [&str; 3] = ["{b64:", "{rot:", "{hex:"];

impl Words {
    /// The bytes that `template` stands for: `{nonce}`, `{ok}`, `{b64:TEXT}` (base64), `{rot:TEXT}` (bytes in reverse order)
    /// and `{hex:DIGITS}` (raw bytes), nested at will.
    pub fn bytes(&self, template: &str) -> Result<Vec<u8>, TemplateError> {
        let mut out = Vec::with_capacity(template.len());
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            out.extend_from_slice(&rest.as_bytes()[..open]);
            rest = &rest[open..];
            if let Some(after) = rest.strip_prefix("{nonce}") {
                out.extend_from_slice(self.nonce.as_str().as_bytes());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{ok}") {
                out.extend_from_slice(self.ok.as_str().as_bytes());
                rest = after;
            } else if let Some(form) = ENCLOSING.into_iter().find(|form| rest.starts_with(form)) {
                let (inner, after) = enclosed(&rest[form.len()..]).ok_or(TemplateError::Unclosed(form))?;
                out.extend(encode(form, self.bytes(inner)?)?);
                rest = after;
            } else {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(out)
    }

    /// As [`Self::bytes`], where text is needed.
    pub fn text(&self, template: &str) -> Result<String, TemplateError> {
        String::from_utf8(self.bytes(template)?).map_err(|_| TemplateError::NotText)
    }

    /// Pairs of templates, as field lines have.
    pub fn pairs(&self, templates: &[(String, String)]) -> Result<Vec<(String, String)>, TemplateError> {
        templates
            .iter()
            .map(|(name, value)| Ok((self.text(name)?, self.text(value)?)))
            .collect()
    }
}

/// Splits at the brace that closes an already opened one.
fn enclosed(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Applies an enclosing form to its filled-in content.
fn encode(form: &str, mut inner: Vec<u8>) -> Result<Vec<u8>, TemplateError> {
    match form {
        "{b64:" => Ok(STANDARD.encode(inner).into_bytes()),
        "{rot:" => {
            inner.reverse();
            Ok(inner)
        }
        _ => unhex(&inner).ok_or(TemplateError::NotHex),
    }
}

/// Bytes of hexadecimal digits.
fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(value(*high)? * 16 + value(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use rstest::rstest;

    pub fn words() -> Words {
        Words {
            nonce: Nonce::from_bytes([1; 16]),
            ok: Nonce::from_bytes([2; 16]),
        }
    }

    #[rstest]
    #[case("plain", "plain")]
    #[case("{\"a\": {}}", "{\"a\": {}}")]
    #[case("{b64:abc}", "YWJj")]
    #[case("{rot:abc}", "cba")]
    #[case("{b64:{rot:cba}}", "YWJj")]
    #[case("{b64:{\"a\":1}}!", "eyJhIjoxfQ==!")]
    #[case("{hex:41 }", "")]
    #[case("{hex:4142}", "AB")]
    #[case("{", "{")]
    #[case("é{rot:ab}", "éba")]
    fn fills_in(#[case] template: &str, #[case] expected: &str) {
        match words().text(template) {
            Ok(text) => assert_eq!(text, expected),
            Err(error) => assert!(expected.is_empty(), "{error}"),
        }
    }

    #[test]
    fn nonces_are_distinct_and_hidden_when_reversed() {
        let words = words();
        let text = words.text("{nonce}/{ok}").expect("fills in");
        assert_eq!(
            Nonce::find_all(text.as_bytes()),
            [words.nonce.clone(), words.ok.clone()]
        );
        assert!(Nonce::find_all(&words.bytes("{rot:{nonce}}").expect("fills in")).is_empty());
    }

    #[test]
    fn unclosed_forms_are_refused() {
        assert_eq!(words().bytes("{b64:{nonce}"), Err(TemplateError::Unclosed("{b64:")));
        assert_eq!(words().text("{hex:ff}"), Err(TemplateError::NotText));
    }
}
