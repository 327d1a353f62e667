//! Connections: buffered, bounded reading and writing, each step with its time-out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, timeout};

use crate::framing::{Body, Piece, Written};

/// How much is read at a time, and held for writing at most before it is written.
const STEP: usize = 16 * 1024;

/// Anything a guest can be connected by.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// The reading side of a connection, with what was read but not used.
#[derive(Debug)]
pub struct Source<R> {
    io: R,
    /// Read, not yet used.
    pub buf: BytesMut,
}

impl<R: AsyncRead + Unpin> Source<R> {
    /// Wraps a reader; `buf` was read from it already.
    pub fn new(io: R, buf: BytesMut) -> Self {
        Self { io, buf }
    }

    /// The reader and what was read but not used.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buf)
    }

    /// The reader.
    pub fn get_ref(&self) -> &R {
        &self.io
    }

    /// Reads once; 0 means that the other side has closed.
    ///
    /// # Errors
    /// The reader's, and `TimedOut`.
    pub async fn fill(&mut self, within: Duration) -> io::Result<usize> {
        // A buffer serves several small messages before it is replaced, and bulk is still read in large steps.
        if self.buf.capacity() - self.buf.len() < STEP / 4 {
            self.buf.reserve(STEP);
        }
        let mut limited = (&mut self.io).take(STEP as u64);
        timeout(within, limited.read_buf(&mut self.buf))
            .await
            .map_err(|_| timed_out())?
    }
}

/// Writes everything.
///
/// # Errors
/// The writer's, and `TimedOut` when the other side takes nothing for so long.
pub async fn write_all<W: AsyncWrite + Unpin>(io: &mut W, out: &mut BytesMut, within: Duration) -> io::Result<()> {
    while out.has_remaining() {
        if timeout(within, io.write_buf(out)).await.map_err(|_| timed_out())?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    timeout(within, io.flush()).await.map_err(|_| timed_out())?
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

/// Which side broke a transfer.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The sender went away, was silent for too long, or sent something malformed (`InvalidData`).
    #[error("reading: {0}")]
    Read(io::Error),
    /// The receiver went away or took nothing for too long.
    #[error("writing: {0}")]
    Write(io::Error),
}

/// Carries one body from a source to a sink. `out` may hold bytes (a head) that go first; it is empty afterwards.
/// Trailers are dropped.
///
/// # Errors
/// Says which side broke it.
pub async fn pump<R, W>(
    source: &mut Source<R>,
    body: &mut Body,
    sink: &mut W,
    written: Written,
    out: &mut BytesMut,
    idle: Duration,
) -> Result<(), PumpError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let malformed = |error| PumpError::Read(io::Error::new(io::ErrorKind::InvalidData, error));
        match body.next(&mut source.buf).map_err(malformed)? {
            Piece::Data(length) => {
                written.data(&source.buf[..length], out);
                source.buf.advance(length);
                if out.len() >= STEP {
                    write_all(sink, out, idle).await.map_err(PumpError::Write)?;
                }
            }
            Piece::End(_) => {
                written.end(b"", out);
                return write_all(sink, out, idle).await.map_err(PumpError::Write);
            }
            Piece::More => {
                if !out.is_empty() {
                    write_all(sink, out, idle).await.map_err(PumpError::Write)?;
                }
                let read = source.fill(idle).await.map_err(PumpError::Read)?;
                if read == 0 {
                    if *body == Body::UntilClose {
                        written.end(b"", out);
                        return write_all(sink, out, idle).await.map_err(PumpError::Write);
                    }
                    return Err(PumpError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
}

/// Copies bytes both ways until both sides have closed, or neither has sent anything for `idle`.
///
/// # Errors
/// The first of either side.
pub async fn tunnel<A: Io, B: Io>(mut a: A, mut b: B, idle: Duration) -> io::Result<()> {
    let mut a = Idle::new(&mut a, idle);
    tokio::io::copy_bidirectional(&mut a, &mut b).await.map(|_| ())
}

/// A connection whose first bytes were read before.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    io: S,
}

impl<S> Prefixed<S> {
    /// `prefix` is read first.
    pub fn new(prefix: BytesMut, io: S) -> Self {
        Self { prefix, io }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection that fails with `TimedOut` when no byte moves either way for some time.
#[derive(Debug)]
pub struct Idle<S> {
    io: S,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    /// Starts the clock.
    pub fn new(io: S, limit: Duration) -> Self {
        Self {
            io,
            limit,
            sleep: Box::pin(tokio::time::sleep(limit)),
        }
    }

    fn settle<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(result) => {
                self.sleep.as_mut().reset(Instant::now() + self.limit);
                Poll::Ready(result)
            }
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| Err(timed_out())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        self.settle(cx, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.settle(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
