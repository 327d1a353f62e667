//! Loopback listeners that lead to UNIX sockets, and the lease: one thread, one epoll instance, no runtime.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::Signal;

use crate::args::Forward;
use crate::init;
use crate::relay::{Progress, Relay, Side};

/// Most connections at a time. Further ones wait in the kernel's queue of the listener.
const MAX_CONNECTIONS: usize = 512;
/// Bytes read from one side at once. One buffer serves all connections: an idle one holds none.
const CHUNK: usize = 128 * 1024;
/// How often and how long a connection waits for room in the queue of its UNIX socket.
const RETRY: Duration = Duration::from_millis(5);
const RETRY_FOR: Duration = Duration::from_secs(2);
/// Time between SIGTERM and SIGKILL when the lease ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
const STACK: usize = 64 * 1024;

const LEASE: u64 = u64::MAX;
const FIRST_LISTENER: u64 = 1 << 32;

/// Bound listeners and the held lease, not yet served.
pub struct Forwarder {
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    lease: Option<UnixStream>,
    relays: Vec<Option<Relay>>,
    live: usize,
    /// Accepted, but the UNIX socket had no room.
    waiting: Vec<Waiting>,
}

struct Listener {
    socket: TcpListener,
    leads_to: SocketAddrUnix,
    /// Edge-triggered: set by an event, cleared when there is nothing left to accept.
    ready: bool,
}

struct Waiting {
    accepted: OwnedFd,
    listener: usize,
    until: Instant,
}

/// Why the forwarders could not be prepared.
#[derive(Debug)]
pub enum BindError {
    /// A listener.
    Listen(std::net::SocketAddr, io::Error),
    /// A socket path that no socket can have.
    Path(PathBuf, Errno),
    /// The lease.
    Lease(PathBuf, io::Error),
    /// The epoll instance.
    Epoll(Errno),
}

impl Forwarder {
    /// Binds every listener and connects the lease.
    pub fn bind(forwards: &[Forward], lease: Option<&Path>) -> Result<Self, BindError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(BindError::Epoll)?;
        let watch = |fd: &dyn AsFdObject, data: u64| {
            let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&epoll, fd.descriptor(), epoll::EventData::new_u64(data), events).map_err(BindError::Epoll)
        };
        let mut listeners = Vec::new();
        for forward in forwards {
            let socket = TcpListener::bind(forward.listen)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|error| BindError::Listen(forward.listen, error))?;
            let leads_to =
                SocketAddrUnix::new(&forward.socket).map_err(|error| BindError::Path(forward.socket.clone(), error))?;
            watch(&socket, FIRST_LISTENER + listeners.len() as u64)?;
            listeners.push(Listener {
                socket,
                leads_to,
                ready: false,
            });
        }
        let lease = match lease {
            None => None,
            Some(path) => {
                let lease = UnixStream::connect(path)
                    .and_then(|lease| lease.set_nonblocking(true).map(|()| lease))
                    .map_err(|error| BindError::Lease(path.to_owned(), error))?;
                watch(&lease, LEASE)?;
                Some(lease)
            }
        };
        Ok(Self {
            epoll,
            listeners,
            lease,
            relays: Vec::new(),
            live: 0,
            waiting: Vec::new(),
        })
    }

    /// Serves on a thread of its own; without listeners and lease there is nothing to serve.
    pub fn start(self) -> io::Result<()> {
        if self.listeners.is_empty() && self.lease.is_none() {
            return Ok(());
        }
        let serve = move || {
            let error = self.serve();
            // Fail closed: a guest without its forwarders, or whose lease nobody watches, does not go on.
            eprintln!("bottle-guest: the forwarder failed: {error}");
            crate::descent::end_all(Signal::KILL);
            std::process::exit(i32::from(crate::CANNOT_PREPARE));
        };
        std::thread::Builder::new()
            .name("forward".into())
            .stack_size(STACK)
            .spawn(serve)
            .map(drop)
    }

    fn serve(mut self) -> Errno {
        let mut scratch = vec![0; CHUNK];
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        // Connections that used up their turn while there was more to do.
        let mut unfinished: Vec<usize> = Vec::new();
        loop {
            // A listener still ready below the limit is one that the process had no descriptor for.
            let retry = !self.waiting.is_empty() || (self.has_room() && self.listeners.iter().any(|l| l.ready));
            let timeout = match (unfinished.is_empty(), retry) {
                (false, _) => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
                (true, true) => Some(Timespec {
                    tv_sec: 0,
                    tv_nsec: RETRY.as_nanos() as _,
                }),
                (true, false) => None,
            };
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return error,
            }
            let mut turns = std::mem::take(&mut unfinished);
            for event in &events {
                turns.extend(self.note(event));
            }
            turns.sort_unstable();
            turns.dedup();
            for index in turns {
                self.turn(index, &mut scratch, &mut unfinished);
            }
            self.retry_waiting(&mut scratch, &mut unfinished);
            for listener in 0..self.listeners.len() {
                self.accept(listener, &mut scratch, &mut unfinished);
            }
        }
    }

    /// Takes note of an event; the connection that is to have a turn, if it is about one.
    fn note(&mut self, event: &epoll::Event) -> Option<usize> {
        let (flags, data) = (event.flags, event.data.u64());
        if data == LEASE {
            self.lease_event();
            return None;
        }
        if data >= FIRST_LISTENER {
            self.listeners[(data - FIRST_LISTENER) as usize].ready = true;
            return None;
        }
        let index = (data >> 1) as usize;
        let side = if data & 1 == 0 { Side::Client } else { Side::Socket };
        self.relays[index].as_mut()?.note(side, flags);
        Some(index)
    }

    fn has_room(&self) -> bool {
        self.live + self.waiting.len() < MAX_CONNECTIONS
    }

    fn turn(&mut self, index: usize, scratch: &mut [u8], unfinished: &mut Vec<usize>) {
        let Some(relay) = self.relays[index].as_mut() else {
            return;
        };
        match relay.turn(scratch) {
            Progress::Idle => {}
            Progress::More => unfinished.push(index),
            Progress::Ended => {
                // Closing the descriptors takes them out of the epoll set.
                self.relays[index] = None;
                self.live -= 1;
            }
        }
    }

    fn accept(&mut self, listener: usize, scratch: &mut [u8], unfinished: &mut Vec<usize>) {
        while self.listeners[listener].ready && self.has_room() {
            match self.listeners[listener].socket.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                        continue;
                    }
                    let waiting = Waiting {
                        accepted: stream.into(),
                        listener,
                        until: Instant::now() + RETRY_FOR,
                    };
                    self.connect(waiting, scratch, unfinished);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.listeners[listener].ready = false,
                Err(error) if is_shortage(&error) => {
                    // The connection stays queued, to be tried again after a moment.
                    return;
                }
                // That one connection went away before it was accepted.
                Err(_) => {}
            }
        }
    }

    fn retry_waiting(&mut self, scratch: &mut [u8], unfinished: &mut Vec<usize>) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.connect(waiting, scratch, unfinished);
        }
    }

    /// Connects an accepted connection to its UNIX socket; one that cannot be connected is reset.
    fn connect(&mut self, waiting: Waiting, scratch: &mut [u8], unfinished: &mut Vec<usize>) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let connected =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).and_then(|socket| {
                rustix::net::connect(&socket, &self.listeners[waiting.listener].leads_to).map(|()| socket)
            });
        match connected {
            Ok(socket) => {
                let index = self
                    .relays
                    .iter()
                    .position(Option::is_none)
                    .unwrap_or(self.relays.len());
                if self
                    .watch(&waiting.accepted, index, Side::Client)
                    .and(self.watch(&socket, index, Side::Socket))
                    .is_err()
                {
                    return reset(&waiting.accepted);
                }
                let relay = Relay::new(waiting.accepted, socket);
                if index == self.relays.len() {
                    self.relays.push(Some(relay));
                } else {
                    self.relays[index] = Some(relay);
                }
                self.live += 1;
                self.turn(index, scratch, unfinished);
            }
            Err(Errno::AGAIN) if Instant::now() < waiting.until => self.waiting.push(waiting),
            Err(_) => reset(&waiting.accepted),
        }
    }

    fn watch(&self, fd: &OwnedFd, index: usize, side: Side) -> Result<(), Errno> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = (index as u64) << 1 | u64::from(side == Side::Socket);
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(data), events)
    }

    /// The bundle says nothing over the lease: what comes is read away, and its end ends the guest.
    fn lease_event(&self) {
        let Some(lease) = &self.lease else { return };
        let mut ignored = [0u8; 256];
        loop {
            match rustix::io::read(lease, &mut ignored) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => break,
            }
        }
        init::LEASE_ENDED.store(true, Ordering::Release);
        eprintln!("bottle-guest: the bundle of this bottle ended, and so does the guest");
        crate::descent::end_all(Signal::TERM);
        std::thread::sleep(LAST_WORDS);
        crate::descent::end_all(Signal::KILL);
        std::process::exit(i32::from(init::LEASE_LOST));
    }
}

/// Ends a TCP connection with RST instead of FIN when it is dropped.
pub fn reset(connection: &OwnedFd) {
    let _ = sockopt::set_socket_linger(connection, Some(Duration::ZERO));
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// `AsFd` for a closure's argument.
trait AsFdObject {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdObject for T {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Path(path, error) => {
                write!(f, "{} is no path for a socket: {error}", path.display())
            }
            Self::Lease(path, error) => {
                write!(
                    f,
                    "cannot take the lease at {}: {error}; the bundle is to be ready before the guest",
                    path.display()
                )
            }
            Self::Epoll(error) => write!(f, "cannot watch sockets: {error}"),
        }
    }
}

impl std::error::Error for BindError {}
