//! Names.

use sha2::{Digest, Sha256};

/// RFC 4648 base 32, in lower case: engine and host names have no case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

const LONGEST_BOTTLE: usize = 32;
const LONGEST_SLUG: usize = 48;

/// `<bottle>-<8 characters>`: 40 bits of the entropy.
pub(super) fn slug(bottle: &str, entropy: [u8; 8]) -> String {
    let digest = Sha256::new()
        .chain_update(b"bottle slug\0")
        .chain_update(bottle)
        .chain_update([0])
        .chain_update(entropy)
        .finalize();
    let bits = digest
        .iter()
        .take(5)
        .fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
    let tail = (0..8)
        .rev()
        .map(|place| char::from(ALPHABET[(bits >> (5 * place)) as usize & 31]));
    format!("{bottle}-{}", tail.collect::<String>())
}

pub(super) fn is_bottle_name(name: &str) -> bool {
    is_label(name, LONGEST_BOTTLE)
}

pub(super) fn is_slug(slug: &str) -> bool {
    is_label(slug, LONGEST_SLUG)
}

fn is_label(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
