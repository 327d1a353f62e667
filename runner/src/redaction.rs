//! Planted sentinels do not go into what the suite writes, in whatever form they come back.
//!
//! A guest may be told its token by an origin that echoes what it is sent, and a leaky bottle tells it by itself; both end up in
//! what the agent says it met. A sentinel that stands as it is becomes a pseudonym that is a nonce too, so that who judges the
//! written evidence again still sees that a secret and what was seen are the same.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use probe_spec::{Evidence, Nonce};
use sha2::{Digest as _, Sha256};

use crate::sightings::fresh_nonce;

/// What stands instead of a sentinel in another form.
const REDACTED: &str = "[redacted]";

/// The sentinels of a run that stand for tokens.
#[derive(Default)]
pub struct Redaction(Mutex<Vec<Forms>>);

/// One sentinel in the forms that are looked for.
struct Forms {
    /// Lower-case; found whatever the case of the text's letters is. With what replaces them.
    folded: Vec<(String, String)>,
    /// Found exactly.
    exact: Vec<String>,
}

impl Redaction {
    /// A new sentinel, which nothing that is written will hold.
    pub fn sentinel(&self) -> Nonce {
        let sentinel = fresh_nonce();
        let forms = Forms::of(&sentinel);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(forms);
        sentinel
    }

    /// The text without sentinels.
    pub fn text(&self, text: &str) -> String {
        let sentinels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = text.to_owned();
        for forms in sentinels.iter() {
            for (form, instead) in &forms.folded {
                while let Some(at) = text.to_ascii_lowercase().find(form) {
                    text.replace_range(at..at + form.len(), instead);
                }
            }
            for form in forms
                .exact
                .iter()
                .filter(|form| text.contains(form.as_str()))
                .collect::<Vec<_>>()
            {
                text = text.replace(form, REDACTED);
            }
        }
        text
    }

    /// The evidence without sentinels, which the judge sees as it did before.
    pub fn evidence(&self, evidence: Evidence) -> Evidence {
        let walked = serde_json::to_value(&evidence).and_then(|mut value| {
            self.walk(&mut value);
            serde_json::from_value(value)
        });
        // Every string is replaced by a string, and every nonce by a nonce.
        walked.unwrap_or_else(|error| Evidence {
            faults: vec![format!("the evidence cannot be redacted: {error}")],
            attempt: None,
            sightings: Vec::new(),
            decisions: Vec::new(),
            secrets: Vec::new(),
            ..evidence
        })
    }

    fn walk(&self, value: &mut serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.walk(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl Forms {
    fn of(sentinel: &Nonce) -> Self {
        let text = sentinel.as_str();
        let redacted = |form: String| (form, REDACTED.to_owned());
        // As in `scenario::search`: at any of three phases, without what depends on the neighbours.
        let base64 = (0..3).map(|phase| {
            let padded = format!("{}{text}", &"xx"[..phase]);
            let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(padded);
            encoded[4..encoded.len() - 4].to_owned()
        });
        Self {
            exact: base64.collect(),
            folded: vec![
                (text.to_owned(), pseudonym(sentinel).to_string()),
                redacted(hex::encode(text)),
                redacted(text.chars().rev().collect()),
            ],
        }
    }
}

/// A nonce that stands for a sentinel and from which nobody learns it.
fn pseudonym(sentinel: &Nonce) -> Nonce {
    let digest = Sha256::digest(sentinel.as_str());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Nonce::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_spec::{AgentEnd, Attempt, Cell, EVIDENCE_VERSION, Expectation, Oracle, Sighting, Vantage, judge};

    fn evidence(nonce: &Nonce, secret: &Nonce) -> Evidence {
        Evidence {
            version: EVIDENCE_VERSION,
            cell: Cell {
                probe: "TX-01".to_owned(),
                case: "a".to_owned(),
                backend: "docker".to_owned(),
                topology: "sealed".to_owned(),
                leak: None,
            },
            expectation: Expectation {
                oracle: Oracle::SecretUnseen,
                alive: Vec::new(),
                decision: false,
            },
            nonce: nonce.clone(),
            secrets: vec![secret.clone()],
            attempt: Some(Attempt {
                case: "a".to_owned(),
                nonce: nonce.clone(),
                issued: true,
                trace: vec![format!("x-api-key: {secret}"), hex::encode_upper(secret.as_str())],
                findings: Vec::new(),
                marker_found: None,
            }),
            faults: Vec::new(),
            agent: AgentEnd::Clean,
            liveness: Vec::new(),
            settled: true,
            sightings: vec![Sighting {
                at: Vantage::InternetTcp,
                nonces: vec![nonce.clone(), secret.clone()],
                from: String::new(),
                to: String::new(),
                what: format!("http GET /{secret}"),
                at_ms: 0,
            }],
            decisions: Vec::new(),
            facts: Vec::new(),
            started: String::new(),
            took_ms: 0,
        }
    }

    #[test]
    fn no_form_is_left_and_the_judge_sees_the_same() {
        let redaction = Redaction::default();
        let (secret, nonce) = (redaction.sentinel(), fresh_nonce());
        let before = evidence(&nonce, &secret);
        let after = redaction.evidence(before.clone());
        let text = serde_json::to_string(&after).unwrap();
        assert!(!text.to_ascii_lowercase().contains(secret.as_str()), "{text}");
        assert!(
            !text.to_ascii_lowercase().contains(&hex::encode(secret.as_str())),
            "{text}"
        );
        assert_eq!(judge(&after).verdict, judge(&before).verdict);
        assert_eq!((after.nonce, after.faults.len()), (nonce, 0));
    }
}
