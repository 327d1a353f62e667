//! A guest's connection that speaks HTTP/1: heads in, refusals out.

use std::io;

use bottle_policy::{Control, DenyReason};
use bytes::BytesMut;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::conn::{Io, Prefixed, Source, write_all};
use crate::gate::{Gate, Refusal};
use crate::head::{Head, Scan, raw_nonce, scan};

/// The connection.
pub struct Guest<S> {
    /// What it sends.
    pub source: Source<ReadHalf<S>>,
    /// What it is sent.
    pub sink: WriteHalf<S>,
    /// A buffer for what it is sent, kept for its memory.
    pub out: BytesMut,
    /// How many requests were read before the current one.
    pub served: u64,
}

/// What came instead of a head.
#[derive(Debug)]
pub enum Fault {
    /// The guest closed, or was silent for too long, between requests.
    Gone,
    /// Something that is refused, with the nonce found in it.
    Refused(DenyReason, Option<String>),
}

impl<S: Io> Guest<S> {
    /// A connection from which `prefix` was read already.
    pub fn new(io: S, prefix: BytesMut) -> Self {
        let (read, sink) = tokio::io::split(io);
        Self {
            source: Source::new(read, prefix),
            sink,
            out: BytesMut::new(),
            served: 0,
        }
    }

    /// Reads the next head.
    ///
    /// # Errors
    /// When there is none.
    pub async fn head(&mut self, gate: &Gate) -> Result<Head, Fault> {
        if self.source.buf.is_empty() {
            // Before its first request a client has nothing to wait for.
            let patience = if self.served == 0 { gate.head() } else { gate.idle() };
            match self.source.fill(patience).await {
                Ok(0) | Err(_) => return Err(Fault::Gone),
                Ok(_) => {}
            }
        }
        let deadline = Instant::now() + gate.head();
        let mut from = 0;
        loop {
            let refused = |reason, buf: &BytesMut| Err(Fault::Refused(reason, raw_nonce(buf)));
            match scan(&self.source.buf, &mut from) {
                Scan::Complete(length) if length <= gate.limits.head_bytes => {
                    let bytes = self.source.buf.split_to(length).freeze();
                    let nonce = bytes.clone();
                    return Head::parse(bytes, gate.limits.head_fields, !gate.has(Control::StrictName))
                        .map_err(|reason| Fault::Refused(reason, raw_nonce(&nonce)));
                }
                Scan::More if self.source.buf.len() < gate.limits.head_bytes => {}
                Scan::Bad => {
                    // The nonce may come behind the bad byte.
                    self.read_along(deadline, gate.limits.head_bytes).await;
                    return refused(DenyReason::Framing, &self.source.buf);
                }
                Scan::Complete(_) | Scan::More => return refused(DenyReason::HeadTooLarge, &self.source.buf),
            }
            match self
                .source
                .fill(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(0) => return refused(DenyReason::Framing, &self.source.buf),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return refused(DenyReason::HeadTimeout, &self.source.buf);
                }
                Err(_) => return refused(DenyReason::Framing, &self.source.buf),
            }
        }
    }

    /// Reads a little more of something bad, for the record.
    async fn read_along(&mut self, deadline: Instant, most: usize) {
        let moment = std::time::Duration::from_millis(50);
        while self.source.buf.len() < most && Instant::now() < deadline && raw_nonce(&self.source.buf).is_none() {
            if !matches!(self.source.fill(moment).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Sends a refusal.
    ///
    /// # Errors
    /// The connection's.
    pub async fn refuse(&mut self, gate: &Gate, refusal: &Refusal, is_head: bool, keeps: bool) -> io::Result<()> {
        self.out.clear();
        refusal.write(is_head, keeps, &mut self.out);
        write_all(&mut self.sink, &mut self.out, gate.idle()).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, gate: &Gate, bytes: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.out.extend_from_slice(bytes);
        write_all(&mut self.sink, &mut self.out, gate.idle()).await
    }

    /// The bare connection, with what was read but not used in front.
    pub fn into_io(self) -> Prefixed<S> {
        let (read, buf) = self.source.into_parts();
        Prefixed::new(buf, read.unsplit(self.sink))
    }
}
