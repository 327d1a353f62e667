//! The bundle's standard output: one line an event, whole lines only, whoever they come from.

use std::io::Write;
use std::time::Duration;

use bottle_policy::BundleEvent;
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
                while let Some(line) = queue.blocking_recv() {
                    // Nobody reads any more: go on, the bottle does not depend on being watched.
                    let _ = output.write_all(&line).and_then(|()| output.flush());
                }
                let _ = done.send(());
            })?;
        Ok(Self { lines, written })
    }

    /// Says `event`.
    pub async fn say(&self, event: &BundleEvent) {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        let _ = self.lines.send(line).await;
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

impl Relayed {
    /// Passes a line on; it ends with a line feed.
    pub async fn line(&self, line: Vec<u8>) {
        let _ = self.0.send(line).await;
    }
}
