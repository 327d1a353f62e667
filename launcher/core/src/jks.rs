//! A Java key store with one certificate: Java reads neither PEM files nor the variables that all others read.
//!
//! The old format of the JDK (`JKS`, version 2). Every JDK reads it, and without a password it is read without the
//! digest at its end being looked at, so there are zeros.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
const DIGEST: usize = 20;

/// The store for a certificate in PEM form; `None` when there is none in the text.
pub(crate) fn jks(pem: &str) -> Option<Vec<u8>> {
    let der = der(pem)?;
    let mut store = Vec::with_capacity(der.len() + 128);
    for number in [MAGIC, VERSION, 1, TRUSTED_CERTIFICATE] {
        store.extend(number.to_be_bytes());
    }
    text(&mut store, "bottle");
    // When it was made: nobody asks, and the same certificate gives the same store.
    store.extend(0u64.to_be_bytes());
    text(&mut store, "X.509");
    store.extend(u32::try_from(der.len()).ok()?.to_be_bytes());
    store.extend(der);
    store.extend([0; DIGEST]);
    Some(store)
}

fn text(store: &mut Vec<u8>, text: &str) {
    // Two short ASCII texts: their length is that of modified UTF-8.
    store.extend((text.len() as u16).to_be_bytes());
    store.extend(text.as_bytes());
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let rest = pem.split_once("-----BEGIN CERTIFICATE-----")?.1;
    let body: String = rest
        .split_once("-----END CERTIFICATE-----")?
        .0
        .split_whitespace()
        .collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let store = jks("-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n").unwrap();
        let mut expected = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 6];
        expected.extend(b"bottle");
        expected.extend([0; 8]);
        expected.extend([0, 5]);
        expected.extend(b"X.509");
        expected.extend([0, 0, 0, 3, 1, 2, 3]);
        expected.extend([0; 20]);
        assert_eq!(store, expected);
        assert_eq!(jks("no certificate"), None);
    }
}
