//! One daemon as a child process of init.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bottle_policy::Daemon;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use zeroize::Zeroizing;

use crate::events::Relayed;
use crate::handover::READY_LINE;

/// Longest line relayed from a daemon; of a longer one nothing is.
const MAX_LINE: usize = 64 * 1024;
/// Lines of a daemon's standard error kept for the report of its failure.
const LAST_LINES: usize = 12;

/// A running daemon.
pub struct Process {
    pid: Pid,
    /// Names this process in messages: ids of processes come again.
    pub generation: u64,
    /// When it was started.
    pub started: Instant,
    /// Dropped, the daemon's standard input ends, which is its order to stop.
    _open: oneshot::Sender<()>,
    last_lines: Rc<RefCell<VecDeque<String>>>,
    errors: JoinHandle<()>,
}

/// A daemon listens.
pub struct Listening {
    /// Which process.
    pub generation: u64,
}

impl Process {
    /// Starts a daemon and hands it `line`.
    pub fn start(
        daemon: Daemon,
        generation: u64,
        line: Zeroizing<Vec<u8>>,
        relayed: Relayed,
        listening: mpsc::UnboundedSender<Listening>,
    ) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg0("bottle-bundle")
            .args(["daemon", name_of(daemon)])
            .env_clear()
            // Each arena of the allocator is memory that a daemon never gives back.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = Pid::from_child(&child);
        let stdin = pipe::Sender::from_owned_fd(OwnedFd::from(child.stdin.take().expect("piped")))?;
        let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(child.stdout.take().expect("piped")))?;
        let stderr = pipe::Receiver::from_owned_fd(OwnedFd::from(child.stderr.take().expect("piped")))?;
        let (open, closed) = oneshot::channel();
        spawn_local(hand_over(stdin, line, closed));
        spawn_local(relay(stdout, generation, relayed, listening));
        let last_lines = Rc::new(RefCell::new(VecDeque::new()));
        let errors = spawn_local(keep_last(stderr, daemon, Rc::clone(&last_lines)));
        Ok(Self {
            pid,
            generation,
            started: Instant::now(),
            _open: open,
            last_lines,
            errors,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it at once. Once it has its own user this takes the capability KILL, without which the end of its standard
    /// input (when `self` is dropped) and of its init do the same.
    pub fn kill(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// The last lines that it wrote on standard error, when it has ended.
    pub async fn last_words(self) -> Vec<String> {
        let _ = tokio::time::timeout(Duration::from_millis(200), self.errors).await;
        self.last_lines.borrow_mut().drain(..).collect()
    }
}

/// Name of a daemon on the command line.
pub fn name_of(daemon: Daemon) -> &'static str {
    match daemon {
        Daemon::Pipelock => "pipelock",
        Daemon::Egress => "egress",
        Daemon::Relay => "relay",
    }
}

async fn hand_over(mut stdin: pipe::Sender, line: Zeroizing<Vec<u8>>, closed: oneshot::Receiver<()>) {
    // A daemon that ended meanwhile is seen by its exit.
    let _ = stdin.write_all(&line).await;
    drop(line);
    let _ = closed.await;
}

async fn relay(stdout: pipe::Receiver, generation: u64, relayed: Relayed, listening: mpsc::UnboundedSender<Listening>) {
    let mut lines = Lines::new(stdout);
    while let Some(line) = lines.next().await {
        if line.strip_suffix(b"\n") == Some(READY_LINE.as_bytes()) {
            let _ = listening.send(Listening { generation });
        } else {
            relayed.line(line).await;
        }
    }
}

async fn keep_last(stderr: pipe::Receiver, daemon: Daemon, last_lines: Rc<RefCell<VecDeque<String>>>) {
    let mut lines = Lines::new(stderr);
    while let Some(line) = lines.next().await {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        eprintln!("{}: {line}", name_of(daemon));
        let mut kept = last_lines.borrow_mut();
        if kept.len() == LAST_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

/// Whole lines of bounded length.
struct Lines(BufReader<pipe::Receiver>);

impl Lines {
    fn new(pipe: pipe::Receiver) -> Self {
        Self(BufReader::with_capacity(4096, pipe))
    }

    /// The next line with its line feed. What a daemon cut off or wrote without end is no line.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut whole = true;
        loop {
            let mut line = Vec::new();
            let read = (&mut self.0).take(MAX_LINE as u64).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
            let ends = line.last() == Some(&b'\n');
            if ends && whole {
                return Some(line);
            }
            whole = ends;
        }
    }
}
