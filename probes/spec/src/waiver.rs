//! Waivers: a breach or missing proof that somebody answers for, until a date.

use serde::{Deserialize, Serialize};

use crate::{Cell, Judgement, Verdict};

/// One waiver of the waiver file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Probe id or glob (`*` any text, `?` one character), without regard to case.
    pub probe: String,
    /// Case name or glob; all cases when left out.
    #[serde(default = "everything")]
    pub case: String,
    /// Backend or glob; all when left out.
    #[serde(default = "everything")]
    pub backend: String,
    /// Topology or glob; all when left out.
    #[serde(default = "everything")]
    pub topology: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is acceptable until then.
    pub reason: String,
    /// Last day on which it counts.
    pub expires: Date,
}

fn everything() -> String {
    "*".to_owned()
}

/// A calendar day, `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// Why a waiver cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaiverError {
    /// The text is no day of the calendar.
    #[error("expected a day as YYYY-MM-DD, found `{0}`")]
    Date(String),
    /// Nobody answers for it.
    #[error("the waiver for `{0}` names no owner; say who answers for it")]
    NoOwner(String),
    /// It does not say why.
    #[error("the waiver for `{0}` gives no reason; say why it is acceptable")]
    NoReason(String),
    /// It would waive whatever happens.
    #[error("the waiver for `{0}` covers every probe; name a probe or a family such as `PX-*`")]
    TooWide(String),
}

/// What became of a judgement under the waivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The judgement to report.
    pub judgement: Judgement,
    /// Index of an expired waiver that would have covered it.
    pub expired: Option<usize>,
    /// Index of the waiver that covers it.
    pub used: Option<usize>,
}

impl Waiver {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn check(&self) -> Result<(), WaiverError> {
        let name = || self.probe.clone();
        if self.owner.trim().is_empty() {
            return Err(WaiverError::NoOwner(name()));
        }
        if self.reason.trim().is_empty() {
            return Err(WaiverError::NoReason(name()));
        }
        if self.probe.chars().all(|c| matches!(c, '*' | '?' | '-')) {
            return Err(WaiverError::TooWide(name()));
        }
        Ok(())
    }

    /// Whether it is about this cell.
    pub fn covers(&self, cell: &Cell) -> bool {
        glob(&self.probe, &cell.probe)
            && glob(&self.case, &cell.case)
            && glob(&self.backend, &cell.backend)
            && glob(&self.topology, &cell.topology)
    }
}

/// Applies the waivers to one judgement. Only `BREACHED` and `INCONCLUSIVE` can be waived, never the suite's own failure, and
/// nothing in a known-leaky bottle.
pub fn apply_waivers(waivers: &[Waiver], cell: &Cell, judgement: Judgement, today: Date) -> Applied {
    let is_waivable = matches!(judgement.verdict, Verdict::Breached | Verdict::Inconclusive) && cell.leak.is_none();
    let covering = |is_expired: bool| {
        waivers
            .iter()
            .position(|w| is_waivable && w.covers(cell) && (w.expires < today) == is_expired)
    };
    let Some(used) = covering(false) else {
        return Applied {
            judgement,
            expired: covering(true),
            used: None,
        };
    };
    let waiver = &waivers[used];
    let was = if judgement.verdict == Verdict::Breached {
        "breached"
    } else {
        "inconclusive"
    };
    let reason = format!(
        "waived by {} until {}: {} (was {was}: {})",
        waiver.owner, waiver.expires, waiver.reason, judgement.reason
    );
    Applied {
        judgement: Judgement {
            verdict: Verdict::Waived,
            reason,
        },
        expired: None,
        used: Some(used),
    }
}

/// Whether `pattern` (`*` any text, `?` one character; no regard to ASCII case) covers all of `text`.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    // The last `*`, and how much of the text it has been given so far.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, given)) = star else { return false };
                star = Some((at, given + 1));
                p = at + 1;
                t = given + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl Date {
    /// The day, if there is such a day.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            _ => return None,
        };
        (1..=days).contains(&day).then_some(Self { year, month, day })
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

impl TryFrom<String> for Date {
    type Error = WaiverError;

    fn try_from(text: String) -> Result<Self, WaiverError> {
        text.parse()
    }
}

impl std::str::FromStr for Date {
    type Err = WaiverError;

    fn from_str(text: &str) -> Result<Self, WaiverError> {
        let parse = || {
            let is_plain = text.bytes().enumerate().all(|(at, b)| match at {
                4 | 7 => b == b'-',
                _ => b.is_ascii_digit(),
            });
            if text.len() != 10 || !is_plain {
                return None;
            }
            Self::new(
                text[..4].parse().ok()?,
                text[5..7].parse().ok()?,
                text[8..].parse().ok()?,
            )
        };
        parse().ok_or_else(|| WaiverError::Date(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn waiver(probe: &str, case: &str) -> Waiver {
        Waiver {
            probe: probe.into(),
            case: case.into(),
            backend: everything(),
            topology: everything(),
            owner: "net-team".into(),
            reason: "engine 20.10".into(),
            expires: "2026-06-30".parse().unwrap(),
        }
    }

    fn cell() -> Cell {
        Cell {
            probe: "LB-04".into(),
            case: "gateway-tcp".into(),
            backend: "docker".into(),
            topology: "routed".into(),
            leak: None,
        }
    }

    fn judged(verdict: Verdict) -> Judgement {
        Judgement {
            verdict,
            reason: "seen.".into(),
        }
    }

    #[rstest]
    #[case("LB-04", "*", Verdict::Breached, "2026-06-30", Verdict::Waived, false)]
    #[case("lb-*", "gateway-*", Verdict::Inconclusive, "2026-01-01", Verdict::Waived, false)]
    #[case("LB-04", "*", Verdict::Breached, "2026-07-01", Verdict::Breached, true)]
    #[case("LB-04", "*", Verdict::Held, "2026-07-01", Verdict::Held, false)]
    #[case("LB-04", "*", Verdict::Error, "2026-01-01", Verdict::Error, false)]
    #[case("LB-05", "*", Verdict::Breached, "2026-01-01", Verdict::Breached, false)]
    #[case("LB-04", "other", Verdict::Breached, "2026-01-01", Verdict::Breached, false)]
    fn application(
        #[case] probe: &str,
        #[case] case: &str,
        #[case] before: Verdict,
        #[case] today: &str,
        #[case] after: Verdict,
        #[case] expired: bool,
    ) {
        let applied = apply_waivers(&[waiver(probe, case)], &cell(), judged(before), today.parse().unwrap());
        assert_eq!((applied.judgement.verdict, applied.expired.is_some()), (after, expired));
    }

    #[test]
    fn a_leaky_bottle_is_never_waived() {
        let cell = Cell {
            leak: Some(crate::Leak::GwHost),
            ..cell()
        };
        let today = "2026-01-01".parse().unwrap();
        let applied = apply_waivers(&[waiver("LB-04", "*")], &cell, judged(Verdict::Breached), today);
        assert_eq!(applied.judgement.verdict, Verdict::Breached);
    }

    #[test]
    fn the_reason_keeps_what_it_was() {
        let today = "2026-01-01".parse().unwrap();
        let applied = apply_waivers(&[waiver("LB-04", "*")], &cell(), judged(Verdict::Breached), today);
        assert_eq!(
            applied.judgement.reason,
            "waived by net-team until 2026-06-30: engine 20.10 (was breached: seen.)"
        );
    }

    #[rstest]
    #[case("2026-02-29")]
    #[case("2026-13-01")]
    #[case("2026-1-01")]
    #[case("26-01-01")]
    #[case("2026-01-00")]
    #[case("２０２６-01-01")]
    #[case("")]
    fn no_days(#[case] text: &str) {
        assert!(text.parse::<Date>().is_err());
    }

    #[test]
    fn documents() {
        let text = r#"{"probe":"PX-*","owner":"a","reason":"b","expires":"2028-02-29"}"#;
        let read: Waiver = serde_json::from_str(text).unwrap();
        assert_eq!(read.case, "*");
        assert!(read.check().is_ok());
        assert_eq!(
            Waiver {
                owner: " ".into(),
                ..read.clone()
            }
            .check(),
            Err(WaiverError::NoOwner("PX-*".into()))
        );
        assert_eq!(
            Waiver {
                probe: "*-*".into(),
                ..read
            }
            .check(),
            Err(WaiverError::TooWide("*-*".into()))
        );
        assert!(serde_json::from_str::<Waiver>(&text.replace("owner", "owners")).is_err());
    }

    proptest! {
        #[test]
        fn a_text_covers_itself_and_stars_cover_all(text in "[a-zA-Z0-9-]{0,12}", cut in 0usize..12) {
            prop_assert!(glob(&text, &text));
            let at = cut.min(text.len());
            let with_star = format!("{}*{}", &text[..at], &text[at..]);
            let doubled = format!("{}{}", text, "x");
            prop_assert!(glob(&with_star, &text));
            prop_assert!(glob("*", &text));
            prop_assert!(!glob(&text, &doubled));
        }

        #[test]
        fn dates_survive_their_text(year in 1u16..9999, month in 0u8..14, day in 0u8..33) {
            if let Some(date) = Date::new(year, month, day) {
                prop_assert_eq!(date.to_string().parse::<Date>(), Ok(date));
            }
        }
    }
}
