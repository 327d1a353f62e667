//! The event stream: one JSON line a [`BundleEvent`] on standard output.
//!
//! Several daemons write to the same pipe. POSIX writes of at most 4096 bytes to a pipe are not interleaved, so each line
//! is kept below that and written in one call. Writing waits when the reader does: evidence is never dropped, the
//! requests it is about wait instead, and memory stays bounded.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::{BundleEvent, Daemon, DecisionRecord, DecisionVerdict, Stage};
use tokio::sync::mpsc;

use crate::timestamp;

/// Longest line, its newline included (`PIPE_BUF` on Linux).
pub const MAX_LINE: usize = 4096;

/// Events that wait for the writer.
const QUEUE: usize = 1024;

/// Kinds of allowed requests counted at a time; a wildcard rule lets a guest make many.
const COUNTED: usize = 1024;

/// How often counts are written.
const COUNT_PERIOD: Duration = Duration::from_secs(1);

/// Where a daemon records its decisions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bottle: String,
    daemon: Daemon,
    events: mpsc::Sender<BundleEvent>,
    counts: Mutex<HashMap<Counted, u64>>,
}

/// What allowed requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    /// The request's method.
    pub method: http::Method,
    /// The host in normal form.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// The address dialled.
    pub address: Option<IpAddr>,
    /// The rule that allowed it.
    pub rule: &'static str,
    /// Where the decision fell.
    pub stage: Stage,
}

impl Recorder {
    /// A recorder on standard output, written by a thread of its own (a full pipe must not stop the runtime).
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn stdout(bottle: &str, daemon: Daemon) -> io::Result<Self> {
        let (recorder, mut events) = Self::channel(bottle, daemon);
        std::thread::Builder::new().name("events".into()).spawn(move || {
            while let Some(event) = events.blocking_recv() {
                if write_line(&mut io::stdout().lock(), &event).is_err() {
                    // Nobody reads evidence any more. Closing the queue makes every further record fail, and with it
                    // every further request.
                    return;
                }
            }
        })?;
        Ok(recorder)
    }

    /// A recorder whose events somebody else takes.
    pub fn channel(bottle: &str, daemon: Daemon) -> (Self, mpsc::Receiver<BundleEvent>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let inner = Inner {
            bottle: bottle.to_owned(),
            daemon,
            events,
            counts: Mutex::default(),
        };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// A record of this daemon, to be completed and given to [`Recorder::decision`].
    pub fn blank(&self, stage: Stage, verdict: DecisionVerdict, rule: &str) -> DecisionRecord {
        DecisionRecord {
            time: timestamp(),
            bottle: self.inner.bottle.clone(),
            daemon: self.inner.daemon,
            stage,
            verdict,
            rule: rule.to_owned(),
            method: None,
            host: None,
            port: None,
            address: None,
            nonce: None,
            told: None,
            count: 1,
        }
    }

    /// Writes one decision, waiting for room. Gives `false` when nobody takes events any more: then the request it is
    /// about must not go on.
    pub async fn decision(&self, record: DecisionRecord) -> bool {
        self.inner.events.send(BundleEvent::Decision(record)).await.is_ok()
    }

    /// Writes one decision from a place that cannot wait; when the queue is full a task waits in its stead.
    pub fn decision_later(&self, record: DecisionRecord) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.inner.events.try_send(BundleEvent::Decision(record)) {
            let events = self.inner.events.clone();
            tokio::spawn(async move { events.send(event).await });
        }
    }

    /// Counts one allowed request; [`Recorder::run`] writes the counts.
    pub fn count(&self, counted: Counted) {
        let full = {
            let mut counts = self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(counted).or_insert(0) += 1;
            counts.len() >= COUNTED
        };
        if full {
            for record in self.drain() {
                self.decision_later(record);
            }
        }
    }

    fn drain(&self) -> Vec<DecisionRecord> {
        let counts = std::mem::take(&mut *self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner));
        let record = |(counted, count): (Counted, u64)| DecisionRecord {
            method: Some(counted.method.as_str().to_owned()),
            host: Some(counted.host.to_string()),
            port: Some(counted.port),
            address: counted.address,
            count,
            ..self.blank(counted.stage, DecisionVerdict::Allow, counted.rule)
        };
        counts.into_iter().map(record).collect()
    }

    /// Writes what was counted, once a second, until nobody takes events any more.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(COUNT_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for record in self.drain() {
                if !self.decision(record).await {
                    return;
                }
            }
        }
    }

    /// Writes what was counted so far (before an orderly end).
    pub async fn flush(&self) {
        for record in self.drain() {
            self.decision(record).await;
        }
    }
}

/// Writes one event as one line in one call. A decision that would be longer than [`MAX_LINE`] loses what it told the
/// guest, then its host.
///
/// # Errors
/// The writer's.
pub fn write_line(out: &mut impl Write, event: &BundleEvent) -> io::Result<()> {
    let mut line = to_line(event)?;
    if let BundleEvent::Decision(record) = event
        && line.len() > MAX_LINE
    {
        let shorter = DecisionRecord {
            told: None,
            host: None,
            ..record.clone()
        };
        line = to_line(&BundleEvent::Decision(shorter))?;
    }
    out.write_all(&line)?;
    out.flush()
}

fn to_line(event: &BundleEvent) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(host: &str) -> Counted {
        let method = http::Method::GET;
        Counted {
            method,
            host: host.into(),
            port: 443,
            address: None,
            rule: "allow-name",
            stage: Stage::Request,
        }
    }

    #[tokio::test]
    async fn allowed_requests_are_counted() {
        let (recorder, mut events) = Recorder::channel("dev-1", Daemon::Pipelock);
        for _ in 0..5 {
            recorder.count(counted("a.test"));
        }
        recorder.count(counted("b.test"));
        recorder.flush().await;
        let mut counts = Vec::new();
        while let Ok(BundleEvent::Decision(record)) = events.try_recv() {
            counts.push((record.host.unwrap(), record.count));
        }
        counts.sort();
        assert_eq!(counts, [("a.test".to_owned(), 5), ("b.test".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn many_kinds_are_written_early() {
        let (recorder, mut events) = Recorder::channel("dev-1", Daemon::Pipelock);
        for i in 0..COUNTED {
            recorder.count(counted(&format!("h{i}.test")));
        }
        let mut total = 0;
        while events.try_recv().is_ok() {
            total += 1;
        }
        assert_eq!(total, COUNTED);
    }

    #[test]
    fn lines_fit_a_pipe_write() {
        let (recorder, _events) = Recorder::channel("dev-1", Daemon::Pipelock);
        let mut record = recorder.blank(Stage::Head, DecisionVerdict::Deny, "framing");
        record.told = Some("\u{1}".repeat(3000));
        let mut out = Vec::new();
        write_line(&mut out, &BundleEvent::Decision(record)).unwrap();
        assert!(out.len() <= MAX_LINE && out.ends_with(b"\n"));
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
    }

    #[tokio::test]
    async fn no_reader_means_no_record() {
        let (recorder, events) = Recorder::channel("dev-1", Daemon::Pipelock);
        drop(events);
        assert!(
            !recorder
                .decision(recorder.blank(Stage::Head, DecisionVerdict::Deny, "framing"))
                .await
        );
    }
}
