//! Text that a guest had a part in, made fit for reports.

/// Longest text that a report takes from one source, in bytes.
pub const TEXT_LIMIT: usize = 16 * 1024;

/// Longest line in a table or a message, in characters.
pub const LINE_LIMIT: usize = 400;

/// Keeps the characters that XML 1.0 allows (Char, production 2) and that a terminal shows as they are: C0 and C1 controls but
/// tab and newline, U+FFFE, U+FFFF and bidirectional overrides become U+FFFD. Ends after `limit` bytes with a note of how much
/// was left out.
pub fn clean(text: &str, limit: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(limit) + 64);
    for (at, character) in text.char_indices() {
        if kept.len() + character.len_utf8() > limit {
            kept.push_str(&format!(" [{} more bytes left out]", text.len() - at));
            return kept;
        }
        kept.push(if is_harmless(character) {
            character
        } else {
            char::REPLACEMENT_CHARACTER
        });
    }
    kept
}

/// [`clean`] for one line: newlines and tabs become spaces, at most [`LINE_LIMIT`] characters.
pub fn one_line(text: &str) -> String {
    let flat: String = text
        .chars()
        .take(LINE_LIMIT + 1)
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    let mut line = clean(&flat, TEXT_LIMIT);
    if line.chars().count() > LINE_LIMIT {
        line = line.chars().take(LINE_LIMIT - 1).collect();
        line.push('…');
    }
    line
}

fn is_harmless(character: char) -> bool {
    match character {
        '\t' | '\n' => true,
        c if c.is_control() => false,
        // Overrides and isolates make a terminal show something other than what is there.
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => false,
        '\u{FFFE}' | '\u{FFFF}' => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn controls_become_visible() {
        assert_eq!(
            clean("a\0b\u{1b}[31m\u{FFFE}\u{202E}\r\n\t", 100),
            "a\u{FFFD}b\u{FFFD}[31m\u{FFFD}\u{FFFD}\u{FFFD}\n\t"
        );
    }

    #[test]
    fn long_texts_end_with_what_is_missing() {
        let text = clean(&"x".repeat(1 << 20), 10);
        assert_eq!(text, format!("xxxxxxxxxx [{} more bytes left out]", (1 << 20) - 10));
    }

    #[test]
    fn one_line_has_one_line() {
        assert_eq!(one_line("a\nb\tc"), "a b c");
        assert_eq!(one_line(&"é".repeat(1000)).chars().count(), LINE_LIMIT);
    }

    proptest! {
        #[test]
        fn only_xml_characters_remain(text in any::<String>(), limit in 0usize..200) {
            let cleaned = clean(&text, limit);
            let all_allowed = cleaned.chars().all(|c| matches!(c,
                '\t' | '\n' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}'));
            prop_assert!(all_allowed);
            prop_assert!(cleaned.len() <= limit + 64);
        }
    }
}
