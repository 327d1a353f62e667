//! Wall-clock time in records.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const RFC3339_MILLIS: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn timestamp() -> String {
    // Formatting numbers into a String has no way to fail but memory.
    OffsetDateTime::now_utc().format(RFC3339_MILLIS).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn has_milliseconds_and_zone() {
        let text = super::timestamp();
        assert_eq!(
            (text.len(), &text[10..11], &text[19..20], &text[23..]),
            (24, "T", ".", "Z")
        );
    }
}
