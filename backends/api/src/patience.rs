//! How much longer than on an ordinary machine everything may take. An emulated machine is ten to forty times slower; what is
//! awaited there is the same, and a limit that is too short makes an answer that came a missing one.

use std::sync::OnceLock;
use std::time::Duration;

/// The variable with the factor, a whole number.
const VARIABLE: &str = "BOTTLE_PATIENCE";

/// Largest factor: beyond it, a mistake.
const MOST: u32 = 100;

/// A limit, as long as it is on this machine.
pub fn patient(limit: Duration) -> Duration {
    limit * patience()
}

/// A limit in milliseconds, as long as it is on this machine.
pub fn patient_ms(limit: u64) -> u64 {
    limit * u64::from(patience())
}

/// How much longer than on an ordinary machine; 1 on those.
pub fn patience() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| read(std::env::var(VARIABLE).ok().as_deref()))
}

fn read(text: Option<&str>) -> u32 {
    text.and_then(|text| text.parse().ok())
        .filter(|factor| (1..=MOST).contains(factor))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None, 1)]
    #[case(Some("4"), 4)]
    #[case(Some(""), 1)]
    #[case(Some("0"), 1)]
    #[case(Some("-3"), 1)]
    #[case(Some("101"), 1)]
    #[case(Some("many"), 1)]
    fn what_is_no_factor_changes_nothing(#[case] text: Option<&str>, #[case] expected: u32) {
        assert_eq!(read(text), expected);
    }
}
