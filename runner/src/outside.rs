//! The witness container: it stands in for the whole internet, and tells what it saw over streams that no guest has a part in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_backend::{Input, Output, Streams, patient};
use probe_spec::{WitnessConfig, WitnessEvent, WitnessOrder};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::sightings::{Sightings, fresh_nonce};

/// How long the witness may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How long it may take to acknowledge a mark. It answers at once when it lives.
const MARK_WITHIN: Duration = Duration::from_secs(3);

/// The witness did not come up.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// It said why.
    #[error("the witness cannot do its work: {0}")]
    Failed(String),
    /// It ended or kept silent.
    #[error("the witness was not ready within {limit} s; its last words: {0}", limit = patient(READY_WITHIN).as_secs())]
    Silent(String),
    /// Its standard input is closed.
    #[error("telling the witness its configuration: {0}")]
    Input(#[from] std::io::Error),
    /// The configuration could not be written down.
    #[error("the witness's configuration: {0}")]
    Config(#[from] serde_json::Error),
}

/// The running witness.
pub struct Outside {
    input: tokio::sync::Mutex<Input>,
    state: Arc<State>,
    reader: JoinHandle<()>,
    errors: JoinHandle<()>,
    addresses: Vec<IpAddr>,
}

#[derive(Default)]
struct State {
    marks: Mutex<HashMap<String, oneshot::Sender<()>>>,
    dropped: AtomicU64,
    stderr: Mutex<String>,
}

enum Phase {
    Starting,
    Ready(Vec<String>),
    Ended(String),
}

impl Outside {
    /// Tells a started witness its configuration and waits until it serves.
    pub async fn begin(
        streams: Streams,
        config: &WitnessConfig,
        sightings: Arc<Sightings>,
    ) -> Result<Self, OutsideError> {
        let Streams {
            stdin: mut input,
            stdout,
            stderr,
        } = streams;
        let state = Arc::new(State::default());
        let errors = tokio::spawn(keep_words(stderr, state.clone()));
        let (phase, mut phases) = watch::channel(Phase::Starting);
        let reader = tokio::spawn(listen(stdout, state.clone(), sightings, phase));
        let mut line = serde_json::to_vec(config)?;
        line.push(b'\n');
        input.write_all(&line).await?;
        input.flush().await?;
        let ready = tokio::time::timeout(
            patient(READY_WITHIN),
            phases.wait_for(|phase| !matches!(phase, Phase::Starting)),
        )
        .await;
        let addresses = match ready {
            Ok(Ok(phase)) => match &*phase {
                Phase::Ready(addresses) => addresses.iter().filter_map(|text| text.parse().ok()).collect(),
                Phase::Ended(reason) => return Err(OutsideError::Failed(reason.clone())),
                Phase::Starting => Vec::new(),
            },
            _ => {
                let words = state.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(OutsideError::Silent(words));
            }
        };
        Ok(Self {
            input: tokio::sync::Mutex::new(input),
            state,
            reader,
            errors,
            addresses,
        })
    }

    /// Its addresses on its network.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Waits until everything that had arrived by now has been reported. `false` when it does not answer, or lost packets:
    /// its silence then proves nothing.
    pub async fn mark(&self) -> bool {
        let dropped = self.state.dropped.load(Ordering::SeqCst);
        let id = fresh_nonce().to_string();
        let (done, wait) = oneshot::channel();
        self.locked().insert(id.clone(), done);
        let marked = self.order(&WitnessOrder::Mark { id: id.clone() }).await
            && matches!(tokio::time::timeout(patient(MARK_WITHIN), wait).await, Ok(Ok(())));
        self.locked().remove(&id);
        marked && self.state.dropped.load(Ordering::SeqCst) == dropped
    }

    /// How many packets it missed so far.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::SeqCst)
    }

    /// Makes it forget how often rebinding names were asked for.
    pub async fn reset_names(&self) -> bool {
        self.order(&WitnessOrder::ResetNames).await
    }

    /// Has its origins answer requests like this; see [`probe_spec::WitnessOrder::Answer`].
    #[cfg(test)]
    pub async fn answer(&self, answer: probe_spec::Answer) -> bool {
        self.order(&WitnessOrder::Answer(answer)).await
    }

    async fn order(&self, order: &WitnessOrder) -> bool {
        let Ok(mut line) = serde_json::to_vec(order) else {
            return false;
        };
        line.push(b'\n');
        let mut input = self.input.lock().await;
        let written = async {
            input.write_all(&line).await?;
            input.flush().await
        };
        matches!(tokio::time::timeout(patient(MARK_WITHIN), written).await, Ok(Ok(())))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.state.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.reader.abort();
        self.errors.abort();
    }
}

async fn listen(stdout: Output, state: Arc<State>, sightings: Arc<Sightings>, phase: watch::Sender<Phase>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(WitnessEvent::Ready { addresses }) => {
                phase.send_replace(Phase::Ready(addresses));
            }
            Ok(WitnessEvent::Sighting(sighting)) => sightings.record(sighting),
            Ok(WitnessEvent::Mark { id }) => {
                let waiting = state.marks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(done) = waiting {
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
            }
            Ok(WitnessEvent::Dropped { packets }) => {
                state.dropped.fetch_add(packets.max(1), Ordering::SeqCst);
            }
            Ok(WitnessEvent::Failed { reason }) => {
                phase.send_replace(Phase::Ended(reason));
            }
            // A line that is not understood may have been a sighting.
            Err(error) => {
                tracing::warn!(%error, line, "the witness says something that is not understood");
                state.dropped.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    // Nobody will answer these marks any more.
    state.marks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let words = state.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone();
    phase.send_if_modified(|phase| {
        let starting = matches!(phase, Phase::Starting);
        if starting {
            *phase = Phase::Ended(format!("it ended before it was ready: {words}"));
        }
        starting
    });
}

/// Keeps the last words of standard error.
async fn keep_words(stderr: Output, state: Arc<State>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut words = state.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() < 4096 {
            words.push_str(&line);
            words.push_str(" | ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_spec::{Sighting, Vantage};
    use tokio::io::AsyncReadExt;

    fn streams() -> (Streams, tokio::io::DuplexStream, tokio::io::DuplexStream) {
        let (stdin, orders) = tokio::io::duplex(1 << 16);
        let (events, stdout) = tokio::io::duplex(1 << 16);
        let streams = Streams {
            stdin: Box::pin(stdin),
            stdout: Box::pin(stdout),
            stderr: Box::pin(tokio::io::empty()),
        };
        (streams, orders, events)
    }

    fn config() -> WitnessConfig {
        WitnessConfig {
            ca_pem: "ca".to_owned(),
            ca_key_pem: "key".to_owned(),
        }
    }

    async fn say(events: &mut tokio::io::DuplexStream, event: &WitnessEvent) {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        events.write_all(&line).await.unwrap();
    }

    async fn answer_mark(orders: &mut tokio::io::DuplexStream) -> String {
        let mut text = String::new();
        let mut byte = [0];
        loop {
            orders.read_exact(&mut byte).await.unwrap();
            if byte[0] == b'\n' {
                if let Ok(WitnessOrder::Mark { id }) = serde_json::from_str(&text) {
                    return id;
                }
                text.clear();
            } else {
                text.push(char::from(byte[0]));
            }
        }
    }

    async fn begun() -> (
        Outside,
        Arc<Sightings>,
        tokio::io::DuplexStream,
        tokio::io::DuplexStream,
    ) {
        let (streams, orders, mut events) = streams();
        let sightings = Arc::new(Sightings::default());
        say(
            &mut events,
            &WitnessEvent::Ready {
                addresses: vec!["10.0.0.2".to_owned()],
            },
        )
        .await;
        let outside = Outside::begin(streams, &config(), sightings.clone()).await.unwrap();
        (outside, sightings, orders, events)
    }

    #[tokio::test]
    async fn sightings_arrive_and_marks_are_acknowledged() {
        let (outside, sightings, mut orders, mut events) = begun().await;
        let nonce = fresh_nonce();
        let witness = async {
            let id = answer_mark(&mut orders).await;
            let seen = Sighting {
                at: Vantage::InternetTcp,
                nonces: vec![nonce.clone()],
                from: String::new(),
                to: String::new(),
                what: "tcp".to_owned(),
                at_ms: 0,
            };
            say(&mut events, &WitnessEvent::Sighting(seen)).await;
            say(&mut events, &WitnessEvent::Mark { id }).await;
        };
        let (marked, ()) = tokio::join!(outside.mark(), witness);
        assert!(marked);
        assert!(sightings.has(&nonce, Vantage::InternetTcp));
    }

    #[tokio::test]
    async fn a_witness_that_lost_packets_or_ended_acknowledges_nothing() {
        let (outside, _, mut orders, mut events) = begun().await;
        let witness = async {
            let id = answer_mark(&mut orders).await;
            say(&mut events, &WitnessEvent::Dropped { packets: 3 }).await;
            say(&mut events, &WitnessEvent::Mark { id }).await;
        };
        let (marked, ()) = tokio::join!(outside.mark(), witness);
        assert!(!marked, "lost packets");
        drop((orders, events));
        assert!(!outside.mark().await, "ended");
    }

    #[tokio::test]
    async fn a_witness_that_fails_says_why() {
        let (streams, _orders, mut events) = streams();
        say(
            &mut events,
            &WitnessEvent::Failed {
                reason: "no raw socket".to_owned(),
            },
        )
        .await;
        let error = Outside::begin(streams, &config(), Arc::default()).await.err().unwrap();
        assert!(error.to_string().contains("no raw socket"), "{error}");
    }
}
