//! Answers on HTTP/2 streams: bodies as they come, and what is left to do when the head has gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::conn::Source;
use crate::framing::{Body, Piece, trailer_fields};
use crate::gate::Gate;
use crate::hop::Hop;

type Frames = mpsc::Receiver<io::Result<Frame<Bytes>>>;

/// Whether the request's body is through.
pub enum Upload {
    /// It is.
    Done(OwnedWriteHalf),
    /// A task carries it, and gives the sink back when all went well.
    Running(oneshot::Receiver<Option<OwnedWriteHalf>>),
}

/// Carries the answer's body back, then keeps the hop.
pub struct Back {
    /// The bottle's.
    pub gate: Arc<Gate>,
    /// Where the answer comes from.
    pub source: Source<OwnedReadHalf>,
    /// How much of it is left.
    pub body: Body,
    /// Where it goes.
    pub frames: mpsc::Sender<io::Result<Frame<Bytes>>>,
    /// The request's body.
    pub upload: Upload,
    /// Whether egress keeps the connection.
    pub keeps: bool,
}

impl Back {
    /// Until both bodies are through.
    pub async fn run(mut self) {
        match self.pass().await {
            Ok(()) => self.finish().await,
            Err(error) => drop(self.frames.send(Err(error)).await),
        }
    }

    async fn pass(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        loop {
            match self.body.next(&mut self.source.buf).map_err(io::Error::other)? {
                Piece::Data(length) => {
                    let data = self.source.buf.split_to(length).freeze();
                    self.frames.send(Ok(Frame::data(data))).await.map_err(gone)?;
                }
                Piece::End(trailers) => {
                    let mut fields = HeaderMap::new();
                    append_fields(&trailers, &mut fields);
                    if !fields.is_empty() {
                        self.frames.send(Ok(Frame::trailers(fields))).await.map_err(gone)?;
                    }
                    return Ok(());
                }
                Piece::More => {
                    if self.source.fill(self.gate.idle()).await? == 0 {
                        self.keeps = false;
                        let is_over = self.body == Body::UntilClose;
                        return if is_over {
                            Ok(())
                        } else {
                            Err(io::ErrorKind::UnexpectedEof.into())
                        };
                    }
                }
            }
        }
    }

    /// Keeps the hop once the request's body is through too.
    pub async fn finish(self) {
        drop(self.frames);
        let sink = match self.upload {
            Upload::Done(sink) => Some(sink),
            Upload::Running(receiver) => receiver.await.ok().flatten(),
        };
        if let Some(sink) = sink.filter(|_| self.keeps) {
            self.gate.hop.give(Hop {
                source: self.source,
                sink,
                is_used: true,
            });
        }
    }
}

/// A response body.
pub enum Reply {
    /// Empty.
    Nothing,
    /// One piece.
    Once(Option<Bytes>),
    /// As it comes, with its length where that is known.
    Frames(Frames, Option<u64>),
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Once(bytes) => Poll::Ready(bytes.take().filter(|b| b.has_remaining()).map(|b| Ok(Frame::data(b)))),
            Self::Frames(frames, _) => frames.poll_recv(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Nothing | Self::Once(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Nothing | Self::Once(None) => http_body::SizeHint::with_exact(0),
            Self::Once(Some(bytes)) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Self::Frames(_, Some(length)) => http_body::SizeHint::with_exact(*length),
            Self::Frames(_, None) => http_body::SizeHint::default(),
        }
    }
}

/// Adds field lines to a map.
pub fn append_fields(lines: &[u8], headers: &mut HeaderMap) {
    for (name, value) in trailer_fields(lines).flatten() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}
