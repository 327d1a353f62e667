//! `bottle logs`: what the daemons said and decided.

use std::time::Duration;

use bottle_policy::{BundleEvent, DecisionRecord, DecisionVerdict};

use crate::args::LogsArgs;
use crate::backend::with_remains;
use crate::blocked::{allow_line, place};
use crate::failure::Failure;
use crate::journal::Entry;
use crate::live;
use crate::plan::print;
use crate::preflight::printable;

/// How often a followed journal is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Prints them; with `--follow` until the bottle ends.
pub async fn logs(args: &LogsArgs) -> Result<u8, Failure> {
    let live = live::one(&*with_remains().await?, args.name.as_deref()).await?;
    let mut tail = live.journal()?;
    let failed = Failure::system("reading the bottle's journal");
    let follow = async {
        loop {
            // Asked before reading: what was written before the removal is read in any case.
            let is_last = tail.is_removed()? || !args.follow;
            while let Some(line) = tail.next()? {
                if let Some(text) = shown(&line, args)
                    && print(&text).is_err()
                {
                    // Nobody reads any more.
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    follow.await.map_err(failed)?;
    Ok(0)
}

/// A line of output for a line of the journal.
fn shown(line: &[u8], args: &LogsArgs) -> Option<String> {
    let entry: Entry = serde_json::from_slice(line).ok()?;
    if args.blocked && !is_refusal(&entry) {
        return None;
    }
    if args.json {
        return Some(String::from_utf8_lossy(line).into_owned() + "\n");
    }
    Some(words(&entry)? + "\n")
}

fn is_refusal(entry: &Entry) -> bool {
    matches!(entry, Entry::Event { event: BundleEvent::Decision(record), .. } if record.verdict == DecisionVerdict::Deny)
}

fn words(entry: &Entry) -> Option<String> {
    let (time, text) = match entry {
        Entry::Event { time, event } => match event {
            BundleEvent::Decision(record) => (&record.time, decision(record)),
            BundleEvent::Ready { after_ms, .. } => (time, format!("bundle   ready after {after_ms} ms")),
            BundleEvent::Failed { reason, .. } => (time, format!("bundle   failed: {reason}")),
            BundleEvent::DaemonExited {
                daemon,
                status,
                restart_in_ms,
                ..
            } => {
                let next = restart_in_ms.map_or("it is given up".to_owned(), |ms| format!("again in {ms} ms"));
                (time, format!("bundle   {} ended ({status}), {next}", name_of(daemon)))
            }
            BundleEvent::Ended { lines } => (time, format!("bundle   ended after {lines} events")),
            BundleEvent::DaemonRestarted { daemon, .. } => (time, format!("bundle   {} serves again", name_of(daemon))),
        },
        Entry::Log { time, line } => (time, format!("log      {line}")),
        Entry::Full => return Some("the journal is full; what came after it was only counted".to_owned()),
    };
    Some(format!("{}  {}", clock(time), printable(&text)))
}

fn decision(record: &DecisionRecord) -> String {
    let host = place(record.host.as_deref().unwrap_or_default(), record.port);
    let method = record.method.as_deref().unwrap_or("-");
    let count = if record.count > 1 {
        format!(" ({} times)", record.count)
    } else {
        String::new()
    };
    match record.verdict {
        DecisionVerdict::Allow => format!("allowed  {method} {host}{count}"),
        DecisionVerdict::Deny => {
            let allow = record
                .host
                .as_deref()
                .and_then(|host| allow_line(&record.rule, host, record.port));
            let advice = allow.map_or(String::new(), |line| format!("; to allow it, egress.allow: [{line}]"));
            format!("blocked  {method} {host}{count}: {}{advice}", record.rule)
        }
    }
}

/// `pipelock`, as it is written in events.
fn name_of(daemon: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(daemon).ok();
    name.and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The time of day of an RFC 3339 time, to the millisecond.
fn clock(time: &str) -> String {
    let of_day = time.split_once('T').map_or(time, |(_, of_day)| of_day);
    let (seconds, fraction) = of_day
        .trim_end_matches('Z')
        .split_once('.')
        .unwrap_or((of_day.trim_end_matches('Z'), "0"));
    format!("{seconds}.{:0<3}Z", fraction.get(..3).unwrap_or(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[&str] = &[
        r#"{"entry":"event","time":"2026-01-01T10:00:00Z","event":{"event":"ready","bottle":"b","ca_pem":"PEM","after_ms":7}}"#,
        r#"{"entry":"event","time":"2026-01-01T10:00:01.5Z","event":{"event":"decision","time":"2026-01-01T10:00:01.499Z","bottle":"b","daemon":"pipelock","stage":"connect","verdict":"deny","rule":"host-not-allowed","method":"CONNECT","host":"a.example","port":443,"address":null,"nonce":null,"told":null,"count":1}}"#,
        r#"{"entry":"event","time":"2026-01-01T10:00:02Z","event":{"event":"decision","time":"2026-01-01T10:00:02.000Z","bottle":"b","daemon":"pipelock","stage":"request","verdict":"allow","rule":"allow","method":"GET","host":"b.example","port":443,"address":null,"nonce":null,"told":null,"count":12}}"#,
        r#"{"entry":"event","time":"2026-01-01T10:00:03.123456789Z","event":{"event":"daemon-exited","bottle":"b","daemon":"egress","status":"signal 9","restart_in_ms":100}}"#,
        r#"{"entry":"event","time":"2026-01-01T10:00:03Z","event":{"event":"daemon-restarted","bottle":"b","daemon":"egress"}}"#,
        r#"{"entry":"log","time":"2026-01-01T10:00:04Z","line":"words\u001b[2J"}"#,
        r#"{"entry":"full"}"#,
        r#"{"entry":"of another version"}"#,
    ];

    fn all(args: &LogsArgs) -> String {
        LINES.iter().filter_map(|line| shown(line.as_bytes(), args)).collect()
    }

    #[test]
    fn one_line_an_entry() {
        insta::assert_snapshot!(all(&LogsArgs::default()));
    }

    #[test]
    fn only_what_was_blocked() {
        let args = LogsArgs {
            blocked: true,
            ..LogsArgs::default()
        };
        assert_eq!(all(&args).lines().count(), 1);
        let args = LogsArgs { json: true, ..args };
        assert_eq!(all(&args), format!("{}\n", LINES[1]));
    }
}
