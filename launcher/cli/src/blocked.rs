//! What was blocked, counted, with what would allow it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bottle_policy::DecisionRecord;

use crate::preflight::printable;

/// Most destinations told apart: a guest can make up as many as it likes.
const LIMIT: usize = 200;
/// Most of them shown at the end.
const SHOWN: usize = 20;

/// Refusals by destination and rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    counts: BTreeMap<(String, Option<u16>, String), u64>,
    others: u64,
}

impl Blocked {
    /// Counts a refusal.
    pub fn add(&mut self, record: &DecisionRecord) {
        let host = record.host.clone().unwrap_or_default();
        let key = (host, record.port, record.rule.clone());
        if self.counts.len() >= LIMIT && !self.counts.contains_key(&key) {
            self.others += record.count;
        } else {
            *self.counts.entry(key).or_default() += record.count;
        }
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.others
    }

    /// A few lines, the most frequent first; nothing when nothing was blocked.
    pub fn summary(&self) -> String {
        let total = self.total();
        if total == 0 {
            return String::new();
        }
        let mut rows: Vec<_> = self.counts.iter().collect();
        rows.sort_by_key(|(key, count)| (std::cmp::Reverse(**count), *key));
        let mut text = match total {
            1 => "1 request was blocked:".to_owned(),
            _ => format!("{total} requests were blocked:"),
        };
        for ((host, port, rule), count) in rows.iter().take(SHOWN) {
            let place = place(host, *port);
            // Writing to a String does not fail.
            let _ = match allow_line(rule, host, *port) {
                Some(line) => write!(text, "\n  {count} x {place}: to allow it, egress.allow: [{line}]"),
                None => write!(text, "\n  {count} x {place}: {rule}; no line of the manifest allows it"),
            };
        }
        let rest = rows.iter().skip(SHOWN).map(|(_, count)| **count).sum::<u64>() + self.others;
        if rest > 0 {
            let _ = write!(text, "\n  {rest} x other destinations");
        }
        text
    }
}

/// `host:port` for a person; the guest has chosen it.
pub fn place(host: &str, port: Option<u16>) -> String {
    let host = if host.is_empty() { "no host" } else { host };
    let host = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let shown = port.map_or(host.clone(), |port| format!("{host}:{port}"));
    printable(&shown)
}

/// The entry of `egress.allow` that would allow it, in quotes; `None` when there is no such entry.
pub fn allow_line(rule: &str, host: &str, port: Option<u16>) -> Option<String> {
    let is_a_question_of_the_list = matches!(rule, "host-not-allowed" | "port-not-allowed" | "address-literal");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if !is_a_question_of_the_list || host.is_empty() || !host.bytes().all(is_plain) {
        return None;
    }
    match port {
        // An entry without a port means these two.
        None | Some(443 | 80) => Some(format!("\"{host}\"")),
        Some(_) => Some(format!("\"{}\"", place(host, port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str, port: u16, rule: &str, count: u64) -> DecisionRecord {
        serde_json::from_value(serde_json::json!({
            "time": "", "bottle": "b", "daemon": "pipelock", "stage": "connect", "verdict": "deny", "rule": rule,
            "method": null, "host": host, "port": port, "address": null, "nonce": null, "told": null, "count": count
        }))
        .unwrap()
    }

    #[test]
    fn the_most_frequent_comes_first_with_its_line() {
        let mut blocked = Blocked::default();
        assert_eq!(blocked.summary(), "");
        for (host, port, rule, count) in [
            ("rare.example", 443, "host-not-allowed", 1),
            ("registry.example", 443, "host-not-allowed", 3),
            ("registry.example", 8443, "port-not-allowed", 1),
            ("198.51.100.7", 80, "address-literal", 2),
            ("2001:db8::1", 8080, "address-literal", 1),
            ("10.0.0.1", 80, "resolved-address", 1),
            ("evil\u{1b}[2J\"", 443, "host-not-allowed", 1),
            ("", 0, "framing", 1),
        ] {
            blocked.add(&record(host, port, rule, count));
        }
        insta::assert_snapshot!(blocked.summary());
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let mut blocked = Blocked::default();
        for number in 0..1000 {
            blocked.add(&record(&format!("n{number}.example"), 443, "host-not-allowed", 1));
        }
        assert_eq!(blocked.total(), 1000);
        assert_eq!(blocked.counts.len(), LIMIT);
        assert!(blocked.summary().lines().count() <= SHOWN + 2);
        assert!(blocked.summary().ends_with("980 x other destinations"));
    }
}
