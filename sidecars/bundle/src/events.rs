//! The bundle's standard output: one line an event, whole lines only, whoever they come from.

use std::io::Write;
use std::time::Duration;

use bottle_policy::BundleEvent;
use bottle_policy::chain::Chain;
use tokio::sync::mpsc;

const QUEUE: usize = 256;
const STACK: usize = 64 * 1024;

/// Where events go. One thread writes them, so that a reader who is slow holds up daemons (through their pipes) but never
/// the supervision of them.
pub struct Events {
    lines: mpsc::Sender<Vec<u8>>,
    written: std::sync::mpsc::Receiver<()>,
}

/// For relaying lines of daemons.
#[derive(Clone)]
pub struct Relayed(mpsc::Sender<Vec<u8>>);

impl Events {
    /// Starts the writer.
    pub fn open() -> std::io::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (done, written) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("events".into())
            .stack_size(STACK)
            .spawn(move || {
                let mut output = std::io::stdout().lock();
                let mut chain = Chain::default();
                let mut write = |line: &[u8]| {
                    let line = [&chain.link(line), b"\n".as_slice()].concat();
                    // Nobody reads any more: go on, the bottle does not depend on being watched.
                    let _ = output.write_all(&line).and_then(|()| output.flush());
                    chain.lines()
                };
                let mut lines = 0;
                while let Some(line) = queue.blocking_recv() {
                    lines = write(line.trim_ascii_end());
                }
                write(&line_of(&BundleEvent::Ended { lines }));
                let _ = done.send(());
            })?;
        Ok(Self { lines, written })
    }

    /// Says `event`.
    pub async fn say(&self, event: &BundleEvent) {
        let _ = self.lines.send(line_of(event)).await;
    }

    /// For the relays of daemons.
    pub fn relayed(&self) -> Relayed {
        Relayed(self.lines.clone())
    }

    /// Waits (a second at most) until everything is written. Relays that still run are cut off.
    pub fn close(self) {
        drop(self.lines);
        let _ = self.written.recv_timeout(Duration::from_secs(1));
    }
}

fn line_of(event: &BundleEvent) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event is plain data")
}

impl Relayed {
    /// Passes a line on, with or without the white space at its end.
    pub async fn line(&self, line: Vec<u8>) {
        let _ = self.0.send(line).await;
    }
}
