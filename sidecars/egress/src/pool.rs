//! Connections kept for further requests to the same target at the same address.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use crate::hop::Target;

/// Connections kept for one target.
const FOR_A_TARGET: usize = 64;
/// Targets with kept connections.
const TARGETS: usize = 128;
/// A connection unused for this long is closed; origins close theirs after a similar time.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Time in which a connection must be ready again after its answer has ended: the request's body may still be going out.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Kept connections by target. The checked address is part of it, so that a new check is never undone by an old dial.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    kept: Arc<Mutex<HashMap<Target, Kept>>>,
}

#[derive(Default)]
struct Kept {
    http1: Vec<(http1::SendRequest<Incoming>, Instant)>,
    http2: Option<(http2::SendRequest<Incoming>, Instant)>,
}

/// A connection to send one request on.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Incoming>),
    Http2(http2::SendRequest<Incoming>),
}

/// An HTTP/1.1 connection whose answer is still coming.
pub(crate) struct Lease {
    pool: Pool,
    target: Target,
    sender: http1::SendRequest<Incoming>,
}

impl Pool {
    /// A kept connection that is still good.
    pub(crate) fn take(&self, target: &Target) -> Option<Sender> {
        let mut kept = self.lock();
        let found = kept.get_mut(target)?;
        if let Some((sender, used)) = &mut found.http2 {
            if !sender.is_closed() {
                *used = Instant::now();
                return Some(Sender::Http2(sender.clone()));
            }
            found.http2 = None;
        }
        // The last one used is the one least likely to be closed by the other side.
        while let Some((sender, used)) = found.http1.pop() {
            if sender.is_ready() && used.elapsed() < KEPT_FOR {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// Keeps an HTTP/2 connection: all requests to its target share it.
    pub(crate) fn share(&self, target: &Target, sender: &http2::SendRequest<Incoming>) {
        let mut kept = self.lock();
        make_room(&mut kept, target);
        kept.entry(target.clone()).or_default().http2 = Some((sender.clone(), Instant::now()));
    }

    /// For giving an HTTP/1.1 connection back later.
    pub(crate) fn lease(&self, target: &Target, sender: http1::SendRequest<Incoming>) -> Lease {
        Lease {
            pool: self.clone(),
            target: target.clone(),
            sender,
        }
    }

    fn keep(&self, target: Target, sender: http1::SendRequest<Incoming>) {
        let mut kept = self.lock();
        make_room(&mut kept, &target);
        let connections = &mut kept.entry(target).or_default().http1;
        if connections.len() < FOR_A_TARGET {
            connections.push((sender, Instant::now()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Target, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is too old when a new target comes, and everything when that is not enough.
fn make_room(kept: &mut HashMap<Target, Kept>, target: &Target) {
    if kept.contains_key(target) {
        return;
    }
    for found in kept.values_mut() {
        found
            .http1
            .retain(|(sender, used)| !sender.is_closed() && used.elapsed() < KEPT_FOR);
        found
            .http2
            .take_if(|(sender, used)| sender.is_closed() || used.elapsed() >= KEPT_FOR);
    }
    kept.retain(|_, found| !found.http1.is_empty() || found.http2.is_some());
    if kept.len() >= TARGETS {
        kept.clear();
    }
}

impl Lease {
    /// Keeps the connection, now or as soon as its request has gone out.
    pub(crate) fn give_back(self) {
        let Self {
            pool,
            target,
            mut sender,
        } = self;
        if sender.is_ready() {
            return pool.keep(target, sender);
        }
        if sender.is_closed() {
            return;
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(READY_WITHIN, sender.ready()).await {
                pool.keep(target, sender);
            }
        });
    }
}
