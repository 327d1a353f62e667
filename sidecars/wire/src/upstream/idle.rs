//! An end for connections on which nothing happens.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection that ends with [`io::ErrorKind::TimedOut`] when no byte goes either way for a time.
pub struct IdleIo<T> {
    io: T,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> IdleIo<T> {
    /// Ends `io` after `idle` without a byte.
    pub fn new(io: T, idle: Duration) -> Self {
        Self {
            io,
            idle,
            last: Instant::now(),
            timer: None,
        }
    }

    /// `Ready` when the time is over. The timer is moved only when it fires: activity costs one reading of the clock.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let (last, idle) = (self.last, self.idle);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(last + idle)));
        loop {
            ready!(timer.as_mut().poll(context));
            let due = last + idle;
            if due <= Instant::now() {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no byte for too long"));
            }
            timer.as_mut().reset(due);
        }
    }

    fn noted<R>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.last = Instant::now();
            return poll;
        }
        self.poll_idle(context).map(Err)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for IdleIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(context, buf);
        self.noted(context, poll)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IdleIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, buf);
        self.noted(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, bufs);
        self.noted(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A flush moves no byte of its own, so it is waited for but does not count as activity.
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Pending => self.poll_idle(context).map(Err),
            done => done,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(context) {
            Poll::Pending => self.poll_idle(context).map(Err),
            done => done,
        }
    }
}
