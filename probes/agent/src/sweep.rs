//! Action `Sweep`: every port of a range, quickly.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Resource;
use socket2::{Domain, Socket, Type};

use crate::notes::{Done, NotIssued, Run, errno};
use crate::resolve;
use crate::wire::CONNECT_TIME;

/// Connections at a time, if the descriptor limit bears them.
const BATCH: u64 = 512;
/// How long a batch is waited for; the shorter one after a batch in which the target itself answered nothing, since a black hole is
/// likely then.
const PATIENCE: Duration = Duration::from_millis(400);
const IMPATIENCE: Duration = Duration::from_millis(100);

/// Connects to `first..=last`, sends to each port that accepts. Of connections that a gateway completes (`handshakes`), only those
/// on which something comes back show an open port.
pub fn sweep(
    run: &Run,
    range: (&str, u16, u16),
    send: &str,
    declared: &[u16],
    open_is_finding: bool,
    handshakes: &str,
) -> Done {
    let (to, first, last) = range;
    let answered_only = match handshakes {
        "end-to-end" => false,
        "gateway" => open_is_finding,
        other => {
            return Err(NotIssued::Unfit(format!(
                "expected `end-to-end` or `gateway`, found `{other}`"
            )));
        }
    };
    let bytes = run.words.bytes(send)?;
    let to = run.words.text(to)?;
    let target = if to.contains(':') && !to.starts_with('[') {
        format!("[{to}]:0")
    } else {
        format!("{to}:0")
    };
    let Some(address) = resolve::addresses(run, &target)?.first().copied() else {
        return Ok(());
    };
    let spare = rustix::process::getrlimit(Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
        .saturating_sub(64);
    let batch = BATCH.min(spare).max(16) as usize;
    if !declared.is_empty() {
        run.notes.marker(false);
    }
    let mut ports: Vec<u16> = (first..=last).collect();
    let all = ports.len();
    // What was found counts even where the time is not enough for all; here daemons like to be.
    ports.sort_by_key(|port| !(8000..10_000).contains(port));
    let mut sweep = Sweep {
        run,
        bytes,
        tried: 0,
        open: Vec::new(),
        held: answered_only.then(Vec::new),
        failed: BTreeMap::new(),
        patience: PATIENCE,
    };
    // The declared ones by themselves, before a slow machine is busy with the others: that they are found is what shows that an
    // open port would be.
    let declared_ones: Vec<u16> = ports.extract_if(.., |port| declared.contains(port)).collect();
    sweep.patience = run.awaiting(CONNECT_TIME);
    for some in declared_ones.chunks(batch).chain(ports.chunks(batch)) {
        let known = sweep.open.len();
        let done = sweep.batch(address, some);
        // At once: what was found stays found, whatever cuts the rest off.
        for port in &sweep.open[known..] {
            if declared.contains(port) {
                run.notes.marker(true);
            } else if open_is_finding {
                run.notes.finding(format!("port {port} of {} is open", address.ip()));
            }
        }
        if done.is_err() {
            run.trace(format!("{} ports of {all} tried", sweep.tried));
        }
        done?;
    }
    run.trace(format!(
        "{} of {all} ports open: {:?}",
        sweep.open.len(),
        &sweep.open[..sweep.open.len().min(20)]
    ));
    run.trace(format!("the others: {:?}", sweep.failed));
    Ok(())
}

struct Sweep<'a> {
    run: &'a Run,
    bytes: Vec<u8>,
    tried: usize,
    open: Vec<u16>,
    /// Connections of the batch that may have been made by a gateway alone; `None` where there is none.
    held: Option<Vec<(u16, Socket)>>,
    /// How often connecting failed, by error.
    failed: BTreeMap<String, u32>,
    patience: Duration,
}

impl Sweep<'_> {
    fn batch(&mut self, mut address: SocketAddr, ports: &[u16]) -> Done {
        let mut pending = Vec::with_capacity(ports.len());
        let answered = self.answered();
        for port in ports {
            // smolvm's open network makes each of these wait for the host.
            if self.run.is_over() {
                return Err(NotIssued::CutOff("the last port"));
            }
            self.tried += 1;
            address.set_port(*port);
            match start(address) {
                Ok((socket, true)) => self.accepted(*port, socket),
                Ok((socket, false)) => pending.push((*port, socket)),
                // Out of descriptors is the agent's own trouble: the port was not tried.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
                {
                    return Err(NotIssued::Agent(format!(
                        "no socket for port {port}: {}",
                        errno(&error)
                    )));
                }
                Err(error) => self.failed(&error),
            }
        }
        let end = Instant::now() + self.run.within(self.patience);
        while !pending.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let ready = wait(&pending, PollFlags::OUT, left)
                .map_err(|error| NotIssued::Agent(format!("poll: {}", errno(&error))))?;
            if ready.is_empty() {
                break;
            }
            // From behind: removing must not move those that are still to be removed.
            for at in ready.into_iter().rev() {
                let (port, socket) = pending.swap_remove(at);
                match socket.take_error() {
                    Ok(None) => self.accepted(port, socket),
                    Ok(Some(error)) | Err(error) => self.failed(&error),
                }
            }
        }
        self.hear()
            .map_err(|error| NotIssued::Agent(format!("poll: {}", errno(&error))))?;
        self.patience = if self.answered() == answered {
            IMPATIENCE
        } else {
            PATIENCE
        };
        if !pending.is_empty() {
            *self.failed.entry("no answer".to_owned()).or_default() += pending.len() as u32;
        }
        Ok(())
    }

    /// Ports of which the target itself has said whether they are open. Of an unreachable one a router or the own kernel tells.
    fn answered(&self) -> usize {
        let refused = self.failed.get("ECONNREFUSED").copied().unwrap_or_default();
        self.open.len() + refused as usize
    }

    fn accepted(&mut self, port: u16, mut socket: Socket) {
        let ends = (socket.local_addr().ok(), socket.peer_addr().ok());
        let ends = (
            ends.0.and_then(|end| end.as_socket()),
            ends.1.and_then(|end| end.as_socket()),
        );
        // On the agent's own address a socket can meet itself: the port that it was given is the one it asks for.
        if ends.1.is_none() || ends.0 == ends.1 {
            *self.failed.entry("met itself".to_owned()).or_default() += 1;
            return;
        }
        // Whether it arrives is for the witness to say.
        let _ = socket.write_all(&self.bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        match &mut self.held {
            Some(held) => held.push((port, socket)),
            None => self.open.push(port),
        }
    }

    /// Waits for answers on the connections of this batch. The others are reset: a gateway would go on trying for them.
    fn hear(&mut self) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let mut held = std::mem::take(held);
        let end = Instant::now() + self.run.awaiting(CONNECT_TIME / 4);
        while !held.is_empty() {
            let ready = wait(&held, PollFlags::IN, end.saturating_duration_since(Instant::now()))?;
            if ready.is_empty() {
                break;
            }
            for at in ready.into_iter().rev() {
                let (port, mut socket) = held.swap_remove(at);
                if matches!(socket.read(&mut [0]), Ok(1)) {
                    self.open.push(port);
                } else {
                    *self.failed.entry("ended without an answer".to_owned()).or_default() += 1;
                }
            }
        }
        if !held.is_empty() {
            *self.failed.entry("accepted without an answer".to_owned()).or_default() += held.len() as u32;
        }
        held.iter()
            .for_each(|(_, socket)| drop(socket.set_linger(Some(Duration::ZERO))));
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        *self.failed.entry(errno(error)).or_default() += 1;
    }
}

/// Begins to connect; whether it is connected already.
fn start(address: SocketAddr) -> io::Result<(Socket, bool)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// Indices of sockets that are decided, in order: connected or refused (`OUT`), or with something to read or ended (`IN`).
pub fn wait<Port>(pending: &[(Port, Socket)], flag: PollFlags, time: Duration) -> io::Result<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> = pending.iter().map(|(_, socket)| PollFd::new(socket, flag)).collect();
    let time = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut polled, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled
        .iter()
        .enumerate()
        .filter(|(_, fd)| !fd.revents().is_empty())
        .map(|(at, _)| at)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;
    use std::net::TcpListener;

    #[test]
    fn all_ports_are_tried_in_time_and_open_ones_are_told() {
        let declared = TcpListener::bind("127.0.0.77:0").expect("binds");
        let other = TcpListener::bind("127.0.0.77:0").expect("binds");
        let port = |listener: &TcpListener| listener.local_addr().expect("has an address").port();
        let (declared_port, other_port) = (port(&declared), port(&other));
        let run = run(30_000);
        let begun = Instant::now();
        sweep(
            &run,
            ("127.0.0.77", 1, 65535),
            "{nonce}",
            &[declared_port],
            true,
            "end-to-end",
        )
        .expect("is issued");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let content = run.notes.content();
        assert_eq!(content.marker_found, Some(true));
        let expected = format!("port {other_port} of 127.0.0.77 is open");
        assert!(
            content.findings.contains(&expected),
            "{:?} {:?}",
            content.findings,
            content.trace
        );
        let mut got = String::new();
        other
            .accept()
            .expect("accepts")
            .0
            .read_to_string(&mut got)
            .expect("reads");
        assert_eq!(got, run.words.nonce.as_str());
    }

    #[test]
    fn undeclared_ports_are_fine_where_a_witness_decides() {
        let listener = TcpListener::bind("127.0.0.78:0").expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let run = run(5000);
        sweep(&run, ("127.0.0.78", port, port), "x", &[], false, "gateway").expect("is issued");
        let content = run.notes.content();
        assert!(content.findings.is_empty() && content.marker_found.is_none());
    }

    /// The kernel completes connections to a listener that nobody serves, as a gateway does.
    #[test]
    fn behind_a_gateway_only_an_answer_shows_an_open_port() {
        let [silent, ending, declared, other] = [(); 4].map(|()| TcpListener::bind("127.0.0.80:0").expect("binds"));
        let port = |listener: &TcpListener| listener.local_addr().expect("has an address").port();
        let (ports, quiet) = ([&declared, &other].map(port), [&silent, &ending].map(port));
        let serve = |listener: TcpListener, answer: &'static [u8]| {
            std::thread::spawn(move || {
                let mut stream = listener.accept().expect("accepts").0;
                // The request is read: an end with something unread would be a reset.
                let _ = stream.read_to_end(&mut Vec::new());
                let _ = stream.write_all(answer);
            })
        };
        let served = [
            serve(ending, b""),
            serve(declared, b"x"),
            serve(other, b"HTTP/1.0 404\r\n"),
        ];
        let mut run = run(30_000);
        // A busy machine may be late to serve.
        run.patience = 20;
        sweep(&run, ("127.0.0.80", 1, 65535), "x", &[ports[0]], true, "gateway").expect("is issued");
        let content = run.notes.content();
        assert_eq!(content.marker_found, Some(true));
        let of = |port: u16| format!("port {port} of 127.0.0.80 is open");
        assert!(content.findings.contains(&of(ports[1])), "{:?}", content.findings);
        assert!(
            !quiet.iter().any(|port| content.findings.contains(&of(*port))),
            "{:?}",
            content.findings
        );
        assert!(
            content.trace[1].contains("\"accepted without an answer\": "),
            "{:?}",
            content.trace
        );
        // Beside whatever else of this machine listens on all addresses.
        assert!(
            content.trace[1].contains("\"ended without an answer\": "),
            "{:?}",
            content.trace
        );
        served.into_iter().for_each(|one| one.join().expect("serves"));
        drop(silent);
    }

    #[test]
    fn a_sweep_that_is_cut_off_tells_how_far_it_came() {
        let run = run(0);
        let done = sweep(&run, ("127.0.0.79", 1, 65535), "x", &[], false, "end-to-end");
        assert!(matches!(done, Err(NotIssued::CutOff(_))), "{done:?}");
        let content = run.notes.content();
        assert_eq!(content.trace, ["0 ports of 65535 tried"]);
    }
}
