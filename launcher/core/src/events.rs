//! What the bundle says: its events, its last lines of standard error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bottle_backend::Output;
use bottle_policy::{BundleEvent, MAX_CONFIG_LINE};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::{broadcast, watch};

/// Most events kept; older ones are dropped (and counted) first.
pub const EVENT_LOG_LIMIT: usize = 100_000;
/// Most lines of standard error kept.
const STDERR_LINES: usize = 200;
/// Longest line kept of what is not an event, in bytes.
const RAW_LINE: usize = 4096;
/// Most lines kept that are not events.
const RAW_LINES: usize = 1000;

/// Told everything that a bundle says, as it comes. The calls must not take long: they hold up the reading.
pub trait Observer: Send + Sync {
    /// An event.
    fn event(&self, event: &BundleEvent);
    /// A line of its standard error, without control characters.
    fn log_line(&self, line: &str);
    /// A line of its standard output as it came, without its end, before it is told as an event.
    fn line(&self, _line: &[u8]) {}
}

/// Where the bundle is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Ready {
        ca_pem: String,
        after_ms: u64,
    },
    Failed {
        reason: String,
    },
    /// Its standard output ended.
    Ended,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<BundleEvent>,
    dropped: u64,
    unparsed: VecDeque<String>,
    unparsed_count: u64,
    stderr: VecDeque<String>,
}

/// What the bundle has said so far.
pub(crate) struct Heard {
    observer: Option<Arc<dyn Observer>>,
    kept: Mutex<Kept>,
    sender: broadcast::Sender<BundleEvent>,
    phase: watch::Sender<Phase>,
    /// How many of the two streams have ended.
    ended: watch::Sender<u8>,
}

impl Heard {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Self {
            observer,
            kept: Mutex::default(),
            sender: broadcast::Sender::new(4096),
            phase: watch::Sender::new(Phase::Starting),
            ended: watch::Sender::new(0),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<BundleEvent> {
        self.sender.subscribe()
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits until both streams have been read to their end.
    pub(crate) async fn finished(&self) {
        // The sender is in `self`, so the wait cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended == 2).await;
    }

    pub(crate) fn events(&self) -> Vec<BundleEvent> {
        self.kept().events.iter().cloned().collect()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.kept().dropped
    }

    pub(crate) fn unparsed(&self) -> (u64, Vec<String>) {
        let kept = self.kept();
        (kept.unparsed_count, kept.unparsed.iter().cloned().collect())
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.kept().stderr.iter().cloned().collect()
    }

    fn line(&self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        if let Some(observer) = &self.observer {
            observer.line(line);
        }
        match serde_json::from_slice::<BundleEvent>(line) {
            Ok(event) => self.event(event),
            Err(error) => {
                let text = printable(line);
                tracing::warn!(%error, line = %text, "the bundle said something that is no event");
                let mut kept = self.kept();
                kept.unparsed_count += 1;
                push_bounded(&mut kept.unparsed, text, RAW_LINES);
            }
        }
    }

    fn event(&self, event: BundleEvent) {
        if let Some(observer) = &self.observer {
            observer.event(&event);
        }
        let phase = match &event {
            BundleEvent::Ready { ca_pem, after_ms, .. } => Some(Phase::Ready {
                ca_pem: ca_pem.clone(),
                after_ms: *after_ms,
            }),
            BundleEvent::Failed { reason, .. } => Some(Phase::Failed { reason: reason.clone() }),
            _ => None,
        };
        {
            let mut kept = self.kept();
            if push_bounded(&mut kept.events, event.clone(), EVENT_LOG_LIMIT) {
                kept.dropped += 1;
            }
        }
        if let Some(phase) = phase {
            self.phase.send_replace(phase);
        }
        // No receiver is no error: the log has it.
        let _ = self.sender.send(event);
    }

    /// Reads standard output to its end.
    pub(crate) async fn read_stdout(self: Arc<Self>, stdout: Output) {
        let mut lines = Lines::new(stdout);
        while let Some(line) = lines.next().await {
            self.line(&line);
        }
        self.phase.send_if_modified(|phase| {
            // The reason of a failure is worth more than that it ended.
            let change = !matches!(phase, Phase::Failed { .. });
            if change {
                *phase = Phase::Ended;
            }
            change
        });
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// Reads standard error to its end.
    pub(crate) async fn read_stderr(self: Arc<Self>, stderr: Output) {
        let mut lines = Lines::new(stderr);
        while let Some(line) = lines.next().await {
            let text = printable(&line);
            tracing::debug!(target: "bottle_launch::bundle", "{text}");
            if let Some(observer) = &self.observer {
                observer.log_line(&text);
            }
            push_bounded(&mut self.kept().stderr, text, STDERR_LINES);
        }
        self.ended.send_modify(|ended| *ended += 1);
    }
}

/// Whether something old had to go.
fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) -> bool {
    let full = queue.len() >= limit;
    if full {
        queue.pop_front();
    }
    queue.push_back(item);
    full
}

fn printable(line: &[u8]) -> String {
    let cut = &line[..line.len().min(RAW_LINE)];
    String::from_utf8_lossy(cut)
        .chars()
        .map(|one| {
            if one.is_control() && one != '\t' {
                '\u{fffd}'
            } else {
                one
            }
        })
        .collect()
}

/// Lines of bounded length: what is over the bound is left out, the line goes on.
struct Lines {
    reader: BufReader<Output>,
}

impl Lines {
    fn new(output: Output) -> Self {
        Self {
            reader: BufReader::new(output),
        }
    }

    /// The next line without its end; `None` at the end or on an error of the stream.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let limit = 4 * MAX_CONFIG_LINE as u64;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut line).await.ok()?;
        if read == 0 {
            return None;
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        Some(line)
    }
}
