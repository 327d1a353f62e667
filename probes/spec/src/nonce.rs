//! Nonces: the only thing that a witness looks for.

use serde::{Deserialize, Serialize};

/// Characters of a nonce after its prefix: lower-case base32 (RFC 4648 alphabet), safe in names, fields, paths and payloads.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What every nonce starts with.
const PREFIX: &str = "bn";

/// Length of a nonce in bytes: the prefix and 26 characters that hold 128 bits.
pub const NONCE_LEN: usize = 28;

/// A fresh mark of 128 random bits that one attempt carries. Also the form of planted sentinels (tokens, files), so that
/// every witness recognises both with the same code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

impl Nonce {
    /// The nonce that stands for these random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let mut bits = u128::from_be_bytes(bytes);
        let mut text = [0u8; NONCE_LEN];
        text[..2].copy_from_slice(PREFIX.as_bytes());
        for slot in text[2..].iter_mut().rev() {
            *slot = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Self(text.iter().map(|&b| char::from(b)).collect())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All nonces in `bytes`, in order, each once. Letters are compared without regard to case, since names may be folded or
    /// mixed (RFC 4343 and 0x20 bits) on their way.
    pub fn find_all(bytes: &[u8]) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        let mut at = 0;
        while at + NONCE_LEN <= bytes.len() {
            let window = &bytes[at..at + NONCE_LEN];
            if is_nonce(window) {
                let nonce = Self(window.iter().map(|b| char::from(b.to_ascii_lowercase())).collect());
                if !found.contains(&nonce) {
                    found.push(nonce);
                }
                at += NONCE_LEN;
            } else {
                at += 1;
            }
        }
        found
    }
}

/// Whether these [`NONCE_LEN`] bytes are a nonce.
fn is_nonce(window: &[u8]) -> bool {
    window[0].eq_ignore_ascii_case(&b'b')
        && window[1].eq_ignore_ascii_case(&b'n')
        && window[2..].iter().all(|b| ALPHABET.contains(&b.to_ascii_lowercase()))
}

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.0
    }
}

impl TryFrom<String> for Nonce {
    type Error = NotANonce;

    fn try_from(text: String) -> Result<Self, NotANonce> {
        if text.len() == NONCE_LEN && is_nonce(text.as_bytes()) && !text.bytes().any(|b| b.is_ascii_uppercase()) {
            Ok(Self(text))
        } else {
            Err(NotANonce)
        }
    }
}

/// The text is not a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `bn` and 26 characters of a-z and 2-7")]
pub struct NotANonce;
