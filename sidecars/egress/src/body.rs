//! Bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::pool::Lease;

/// The body of an answer: our own sentence, or the upstream's bytes as they come.
pub(crate) enum AnswerBody {
    Sentence(Option<Bytes>),
    Relayed {
        body: Incoming,
        /// The connection that the body comes from: kept for the next request once the body has ended, closed when the
        /// body is given up before.
        lease: Option<Lease>,
    },
}

impl AnswerBody {
    pub(crate) fn relayed(body: Incoming, lease: Option<Lease>) -> Self {
        let ended = body.is_end_stream();
        let mut lease = lease;
        if ended && let Some(lease) = lease.take() {
            lease.give_back();
        }
        Self::Relayed { body, lease }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Sentence(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Relayed { body, lease } => {
                let poll = Pin::new(&mut *body).poll_frame(context);
                let over = matches!(poll, Poll::Ready(None))
                    || matches!(poll, Poll::Ready(Some(Ok(_))) if body.is_end_stream());
                if over && let Some(lease) = lease.take() {
                    lease.give_back();
                }
                poll
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Sentence(text) => text.is_none(),
            Self::Relayed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Sentence(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relayed { body, .. } => body.size_hint(),
        }
    }
}
