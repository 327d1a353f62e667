//! Looking for planted secrets in bytes, in every form in which they could stand there.

use base64::Engine as _;
use probe_spec::Nonce;

/// In which form a secret stands in the bytes; `None` when in none.
pub fn find(secret: &Nonce, bytes: &[u8]) -> Option<&'static str> {
    let text = secret.as_str();
    let reversed: String = text.chars().rev().collect();
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD_NO_PAD.encode(text);
    let lower = bytes.to_ascii_lowercase();
    if contains(&lower, text.as_bytes()) {
        return Some("as it is");
    }
    if contains(&lower, hex::encode(text).as_bytes()) {
        return Some("in hex");
    }
    if contains(&lower, reversed.as_bytes()) {
        return Some("reversed");
    }
    // In a longer text base64 may begin at any of three phases; what follows the first and precedes the last group is the same.
    for phase in 0..3 {
        let encoded = base64(&format!("{}{text}", &"xx"[..phase]));
        let stable = &encoded[4..encoded.len() - 4];
        if contains(bytes, stable.as_bytes()) {
            return Some("in base64");
        }
    }
    None
}

/// Whether one is within the other.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some((first, rest)) = wanted.split_first() else {
        return false;
    };
    // From one first byte to the next: images of tens of megabytes are searched for a dozen texts.
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sightings::fresh_nonce;

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let secret = fresh_nonce();
        let text = secret.as_str();
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        for (form, found) in [
            (format!("x{text}y"), "as it is"),
            (text.to_ascii_uppercase(), "as it is"),
            (hex::encode_upper(text), "in hex"),
            (text.chars().rev().collect(), "reversed"),
            (base64(text), "in base64"),
            (base64(&format!("user:{text}")), "in base64"),
            (base64(&format!("u:{text}!")), "in base64"),
        ] {
            assert_eq!(find(&secret, form.as_bytes()), Some(found), "{form}");
        }
        assert_eq!(find(&secret, fresh_nonce().as_str().as_bytes()), None);
    }

    #[test]
    fn a_part_is_found_wherever_it_begins() {
        for (bytes, wanted, is_there) in [
            (&b"aaab"[..], &b"aab"[..], true),
            (b"aab", b"aab", true),
            (b"xaab", b"b", true),
            (b"aa", b"aab", false),
            (b"", b"a", false),
            (b"a", b"", false),
        ] {
            assert_eq!(contains(bytes, wanted), is_there, "{bytes:?} {wanted:?}");
        }
    }

    #[test]
    fn every_form_that_is_found_is_redacted() {
        let redaction = crate::redaction::Redaction::default();
        let secret = redaction.sentinel();
        let text = secret.as_str();
        let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        for form in [
            format!("a {text} b {}", text.to_ascii_uppercase()),
            hex::encode_upper(text),
            text.chars().rev().collect(),
            base64(text),
            base64(&format!("user:{text}")),
            base64(&format!("u:{text}!")),
        ] {
            assert!(find(&secret, form.as_bytes()).is_some(), "{form}");
            assert_eq!(find(&secret, redaction.text(&form).as_bytes()), None, "{form}");
        }
        let other = fresh_nonce();
        assert_eq!(redaction.text(other.as_str()), other.as_str());
    }
}
