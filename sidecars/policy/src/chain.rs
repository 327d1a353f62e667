//! The chain over what a bundle says: each line has a digest of itself and of all before it, and the last one says how many there
//! were. A record of the lines that was cut, reordered or changed afterwards does not verify.
//!
//! A link is `SHA-256(link before ++ line)`, in hexadecimal the first field of the line, which is left out of the digest. The link
//! before the first is 64 zeros. What proves a whole record to somebody who does not trust its keeper is its last link, told
//! elsewhere.

use sha2::{Digest, Sha256};

use crate::BundleEvent;

/// How a linked line begins.
const BEGIN: &[u8] = b"{\"chain\":\"";
/// How its link ends and its other fields begin.
const END: &[u8] = b"\",";
/// Length of a link in hexadecimal.
const LINK: usize = 64;

/// A chain as far as it goes: made by the one who says the lines, followed by the one who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: String,
    lines: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            head: "0".repeat(LINK),
            lines: 0,
        }
    }
}

/// Why lines are no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// It has no link.
    #[error("expected line {0} to begin with a link, found none")]
    Unlinked(u64),
    /// It was changed, or one before it is missing.
    #[error("line {0} does not follow from those before it: something was changed or left out")]
    Broken(u64),
    /// The last line is missing.
    #[error("the end is missing after line {0}: the bundle was killed, or the rest was cut off")]
    NoEnd(u64),
    /// Something stands after the last line, or it counts other lines than there are.
    #[error("line {0} is not the end that it says it is")]
    FalseEnd(u64),
}

impl Chain {
    /// The last link.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    fn next(&self, line: &[u8]) -> String {
        let mut digest = Sha256::new();
        digest.update(self.head.as_bytes());
        digest.update(line);
        hex::encode(digest.finalize())
    }

    /// Links a line (one JSON object with at least one field). Anything else stays as it is, and breaks the chain for its reader.
    pub fn link(&mut self, line: &[u8]) -> Vec<u8> {
        let Some(fields) = line.strip_prefix(b"{") else {
            return line.to_vec();
        };
        self.head = self.next(line);
        self.lines += 1;
        [BEGIN, self.head.as_bytes(), END, fields].concat()
    }

    /// Takes the next line of a record.
    ///
    /// # Errors
    /// When it does not follow from those before it.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), ChainFault> {
        let number = self.lines + 1;
        let linked = line.strip_prefix(BEGIN).filter(|rest| rest.len() > LINK);
        let (link, rest) = linked.ok_or(ChainFault::Unlinked(number))?.split_at(LINK);
        let fields = rest.strip_prefix(END).ok_or(ChainFault::Unlinked(number))?;
        let expected = self.next(&[b"{", fields].concat());
        if expected.as_bytes() != link {
            return Err(ChainFault::Broken(number));
        }
        self.head = expected;
        self.lines = number;
        Ok(())
    }
}

/// Follows a whole record, whose last line must be [`BundleEvent::Ended`].
///
/// # Errors
/// At the first line that does not follow, or when the end is missing.
pub fn verify<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Chain, ChainFault> {
    let mut chain = Chain::default();
    let mut is_over = false;
    for line in lines {
        if is_over {
            return Err(ChainFault::FalseEnd(chain.lines));
        }
        let before = chain.lines;
        chain.follow(line)?;
        if let Ok(BundleEvent::Ended { lines }) = serde_json::from_slice(line) {
            is_over = true;
            if lines != before {
                return Err(ChainFault::FalseEnd(chain.lines));
            }
        }
    }
    if is_over {
        Ok(chain)
    } else {
        Err(ChainFault::NoEnd(chain.lines))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(texts: &[String]) -> Vec<Vec<u8>> {
        let mut chain = Chain::default();
        let mut lines: Vec<Vec<u8>> = texts
            .iter()
            .map(|text| chain.link(serde_json::json!({ "text": text }).to_string().as_bytes()))
            .collect();
        let end = BundleEvent::Ended { lines: chain.lines() };
        lines.push(chain.link(&serde_json::to_vec(&end).unwrap()));
        lines
    }

    fn verified(lines: &[Vec<u8>]) -> Result<Chain, ChainFault> {
        verify(lines.iter().map(Vec::as_slice))
    }

    proptest! {
        #[test]
        fn a_whole_record_verifies_and_no_other_does(
            texts in prop::collection::vec(".{0,20}", 1..8), at in any::<prop::sample::Index>(), bit in 0..8u8
        ) {
            let whole = record(&texts);
            let chain = verified(&whole).unwrap();
            prop_assert_eq!(chain.lines() as usize, whole.len());
            let index = at.index(whole.len());
            let mut missing = whole.clone();
            missing.remove(index);
            prop_assert!(verified(&missing).is_err());
            let mut twice = whole.clone();
            twice.insert(index, whole[index].clone());
            prop_assert!(verified(&twice).is_err());
            let mut changed = whole.clone();
            let byte = at.index(changed[index].len());
            changed[index][byte] ^= 1 << bit;
            prop_assert!(verified(&changed).is_err());
        }
    }

    #[test]
    fn faults_say_where() {
        let whole = record(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(verified(&whole[..2]), Err(ChainFault::NoEnd(2)));
        assert_eq!(verified(&[]), Err(ChainFault::NoEnd(0)));
        assert_eq!(verified(&whole[1..]), Err(ChainFault::Broken(1)));
        assert_eq!(verified(&[b"{\"text\":1}".to_vec()]), Err(ChainFault::Unlinked(1)));
        let mut chain = Chain::default();
        let end = chain.link(br#"{"event":"ended","lines":7}"#);
        assert_eq!(verified(&[end]), Err(ChainFault::FalseEnd(1)));
    }

    #[test]
    fn a_linked_line_is_still_the_event() {
        let event = BundleEvent::Failed {
            bottle: "b".to_owned(),
            reason: "r".to_owned(),
        };
        let line = Chain::default().link(&serde_json::to_vec(&event).unwrap());
        assert_eq!(serde_json::from_slice::<BundleEvent>(&line).unwrap(), event);
        assert_eq!(Chain::default().link(b"words"), b"words");
    }
}
