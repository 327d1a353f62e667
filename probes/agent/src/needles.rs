//! Planted texts in streams of bytes, in the forms that careless programs leave them in: as they are, base64 (both alphabets,
//! all three alignments), hexadecimal, reversed, and URL-encoded. Compressed data is not unpacked: an agent without a
//! decompressor stays small, and a text that a program compresses has been in its memory first.

use std::io::{self, Read};

use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Shortest form that is looked for: shorter ones would be found anywhere.
const SHORTEST: usize = 6;
/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// What is looked for.
pub struct Scanner {
    forms: Vec<Form>,
    /// Whether a form begins with these two bytes: nearly all positions are told by it.
    pairs: Vec<bool>,
    longest: usize,
}

struct Form {
    /// Index of its text.
    text: usize,
    kind: &'static str,
    bytes: Vec<u8>,
}

/// A text that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Index of the text among those given.
    pub text: usize,
    /// In which form.
    pub kind: &'static str,
}

impl Scanner {
    /// Looks for these texts. None when one of them is too short to be told from chance.
    pub fn new(texts: &[Vec<u8>]) -> Option<Self> {
        let mut forms: Vec<Form> = Vec::new();
        for (text, needle) in texts.iter().enumerate() {
            if needle.len() < SHORTEST {
                return None;
            }
            for (kind, bytes) in forms_of(needle) {
                let known = forms.iter().any(|form| form.text == text && form.bytes == bytes);
                if bytes.len() >= SHORTEST && !known {
                    forms.push(Form { text, kind, bytes });
                }
            }
        }
        let mut pairs = vec![false; 1 << 16];
        for form in &forms {
            pairs[pair(&form.bytes)] = true;
        }
        let longest = forms.iter().map(|form| form.bytes.len()).max().unwrap_or(0);
        Some(Self { forms, pairs, longest })
    }

    /// What is in these bytes, each form once.
    pub fn scan(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        self.scan_into(bytes, &mut hits);
        hits
    }

    /// What is in the first `limit` bytes of a stream. Hits that came before an error are kept with it.
    pub fn scan_stream(&self, source: &mut dyn Read, limit: u64) -> (Vec<Hit>, io::Result<u64>) {
        let mut hits = Vec::new();
        let mut source = source.take(limit);
        let mut window = vec![0; PIECE + self.longest];
        let (mut kept, mut total) = (0, 0);
        loop {
            match source.read(&mut window[kept..]) {
                Ok(0) => return (hits, Ok(total)),
                Ok(length) => {
                    total += length as u64;
                    let filled = kept + length;
                    self.scan_into(&window[..filled], &mut hits);
                    // A text may go on in the next piece.
                    kept = filled.min(self.longest.saturating_sub(1));
                    window.copy_within(filled - kept..filled, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (hits, Err(error)),
            }
        }
    }

    fn scan_into(&self, bytes: &[u8], hits: &mut Vec<Hit>) {
        for at in 0..bytes.len().saturating_sub(1) {
            if !self.pairs[pair(&bytes[at..])] {
                continue;
            }
            for form in self.forms.iter().filter(|form| bytes[at..].starts_with(&form.bytes)) {
                let hit = Hit {
                    text: form.text,
                    kind: form.kind,
                };
                if !hits.contains(&hit) {
                    hits.push(hit);
                }
            }
        }
    }
}

/// The first two bytes as an index.
fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

fn forms_of(needle: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |upper: bool| -> Vec<u8> {
        let digit = |byte: &u8| {
            if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            }
        };
        needle.iter().map(digit).collect::<String>().into_bytes()
    };
    let mut reversed = needle.to_vec();
    reversed.reverse();
    let mut forms = vec![
        ("as it is", needle.to_vec()),
        ("hex", hex(false)),
        ("hex", hex(true)),
        ("reversed", reversed),
        (
            "url-encoded",
            url_encoded(needle, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
        ),
        ("url-encoded", url_encoded(needle, |_| false)),
    ];
    for offset in 0..3 {
        forms.push(("base64", base64_inside(needle, offset, &STANDARD)));
        forms.push(("base64", base64_inside(needle, offset, &URL_SAFE)));
    }
    forms
}

/// The characters that `needle` alone decides when it begins `offset` bytes after a group's start.
fn base64_inside(needle: &[u8], offset: usize, engine: &impl base64::Engine) -> Vec<u8> {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(needle);
    let text = engine.encode(&padded).into_bytes();
    let first = [0, 2, 3][offset];
    // Six bits a character: the last full one ends within the needle.
    let last = padded.len() * 8 / 6;
    text[first..last.max(first)].to_vec()
}

fn url_encoded(needle: &[u8], plain: impl Fn(u8) -> bool) -> Vec<u8> {
    needle
        .iter()
        .flat_map(|byte| {
            if plain(*byte) {
                vec![*byte]
            } else {
                format!("%{byte:02X}").into_bytes()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use rstest::rstest;

    const NEEDLE: &[u8] = b"bnsecret+/needle?1";

    fn scanner() -> Scanner {
        Scanner::new(&[b"unrelated".to_vec(), NEEDLE.to_vec()]).expect("is long enough")
    }

    #[rstest]
    #[case("as it is", NEEDLE.to_vec())]
    #[case("hex", b"626e7365637265742b2f6e6565646c653f31".to_vec())]
    #[case("hex", b"626E7365637265742B2F6E6565646C653F31".to_vec())]
    #[case("reversed", b"1?eldeen/+tercesnb".to_vec())]
    #[case("url-encoded", b"bnsecret%2B%2Fneedle%3F1".to_vec())]
    #[case("base64", STANDARD.encode(NEEDLE).into_bytes())]
    #[case("base64", STANDARD.encode([b"x", NEEDLE].concat()).into_bytes())]
    #[case("base64", STANDARD.encode([b"xy", NEEDLE, b"z"].concat()).into_bytes())]
    #[case("base64", URL_SAFE.encode([b"a:", NEEDLE, b"zz"].concat()).into_bytes())]
    fn forms_are_found_wherever_they_are(
        #[case] kind: &'static str,
        #[case] form: Vec<u8>,
        #[values(0, 1, 300_000)] before: usize,
    ) {
        let bytes = [vec![b'b'; before], form, vec![b'n'; 10]].concat();
        let expected = Hit { text: 1, kind };
        assert!(scanner().scan(&bytes).contains(&expected));
        let (hits, read) = scanner().scan_stream(&mut &*bytes, u64::MAX);
        assert!(hits.contains(&expected));
        assert_eq!(read.expect("reads"), bytes.len() as u64);
    }

    #[test]
    fn texts_across_pieces_are_found() {
        /// Gives one byte a read.
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.len().min(1);
                self.0.read(&mut buffer[..length])
            }
        }
        assert_eq!(
            scanner().scan_stream(&mut Drip(NEEDLE), u64::MAX).0,
            [Hit {
                text: 1,
                kind: "as it is"
            }]
        );
        assert!(scanner().scan_stream(&mut Drip(NEEDLE), 10).0.is_empty());
    }

    #[test]
    fn nothing_is_found_in_other_bytes() {
        assert!(scanner().scan(&vec![b'n'; 100_000]).is_empty());
        assert!(scanner().scan(b"").is_empty() && scanner().scan(b"b").is_empty());
        assert!(Scanner::new(&[b"short".to_vec()]).is_none());
    }
}
