//! The time of day for reports.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let whole = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    // A year of more than four digits is the only failure.
    whole.format(&Rfc3339).unwrap_or_default()
}

/// Today in UTC, as `YYYY-MM-DD`.
pub fn today() -> String {
    let today = OffsetDateTime::now_utc().date();
    format!("{:04}-{:02}-{:02}", today.year(), u8::from(today.month()), today.day())
}
