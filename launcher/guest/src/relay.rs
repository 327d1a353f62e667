//! One forwarded connection: two non-blocking sockets and what could not be written yet.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::Shutdown;

/// Reads that one connection may do before others have their turn.
const READS_A_TURN: usize = 8;

/// An end of a [`Relay`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The TCP connection that was accepted.
    Client,
    /// The UNIX socket.
    Socket,
}

/// What a turn came to.
#[derive(PartialEq, Eq)]
pub enum Progress {
    /// Nothing more until an event.
    Idle,
    /// There is more to do, but others first.
    More,
    /// The connection is over.
    Ended,
}

/// A connection being forwarded in both directions.
pub struct Relay {
    client: End,
    socket: End,
}

struct End {
    fd: OwnedFd,
    // Edge-triggered state: true until the kernel says EAGAIN.
    readable: bool,
    writable: bool,
    /// The peer closed its direction: a short read is not the last one.
    hangup: bool,
    /// Bytes read from this end and not yet written to the other; empty and unallocated most of the time.
    pending: Vec<u8>,
    /// No more bytes come from this end.
    ended: bool,
    /// The other end was told so.
    passed_on: bool,
}

impl Relay {
    /// Forwards between two non-blocking stream sockets.
    pub fn new(client: OwnedFd, socket: OwnedFd) -> Self {
        Self {
            client: End::new(client),
            socket: End::new(socket),
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, side: Side, flags: EventFlags) {
        let end = if side == Side::Client {
            &mut self.client
        } else {
            &mut self.socket
        };
        let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        end.readable |= over || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        end.writable |= over || flags.intersects(EventFlags::OUT);
        end.hangup |= over || flags.intersects(EventFlags::RDHUP);
    }

    /// Moves bytes in both directions until neither can, or the turn is over.
    pub fn turn(&mut self, scratch: &mut [u8]) -> Progress {
        let moved = pump(&mut self.client, &mut self.socket, scratch)
            .and_then(|more| Ok(more | pump(&mut self.socket, &mut self.client, scratch)?));
        match moved {
            Err(_) => {
                // Whatever broke one end breaks the other: never a clean end after lost bytes.
                crate::forward::reset(&self.client.fd);
                Progress::Ended
            }
            Ok(_) if self.client.passed_on && self.socket.passed_on => Progress::Ended,
            Ok(true) => Progress::More,
            Ok(false) => Progress::Idle,
        }
    }
}

impl End {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
            hangup: false,
            pending: Vec::new(),
            ended: false,
            passed_on: false,
        }
    }
}

/// Moves bytes one way; whether there may be more at once.
fn pump(from: &mut End, to: &mut End, scratch: &mut [u8]) -> Result<bool, Errno> {
    let mut reads = 0;
    loop {
        if !from.pending.is_empty() {
            if !to.writable {
                return Ok(false);
            }
            let written = write(to, &from.pending)?;
            if written == from.pending.len() {
                from.pending = Vec::new();
            } else {
                from.pending.drain(..written);
                continue;
            }
        }
        if from.ended {
            if !from.passed_on {
                from.passed_on = true;
                // ENOTCONN: the other end is gone altogether, so it needs no telling.
                match rustix::net::shutdown(&to.fd, Shutdown::Write) {
                    Ok(()) | Err(Errno::NOTCONN) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(false);
        }
        if !from.readable || !to.writable {
            return Ok(false);
        }
        if reads == READS_A_TURN {
            return Ok(true);
        }
        reads += 1;
        match rustix::io::read(&from.fd, &mut *scratch) {
            Ok(0) => from.ended = true,
            Ok(count) => {
                // A short read from a stream socket has emptied it: the next bytes make a new edge.
                from.readable = count == scratch.len() || from.hangup;
                let written = write(to, &scratch[..count])?;
                if written < count {
                    from.pending = scratch[written..count].to_vec();
                }
            }
            Err(Errno::AGAIN) => from.readable = false,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes once; 0 when there is no room.
fn write(to: &mut End, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::io::write(&to.fd, bytes) {
        Ok(written) => Ok(written),
        Err(Errno::AGAIN) => {
            to.writable = false;
            Ok(0)
        }
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(error),
    }
}
