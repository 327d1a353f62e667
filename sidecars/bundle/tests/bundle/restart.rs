//! Daemons that die under a guest: nothing goes out past them, and the guest goes on when they are back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Bundle, config};

/// Places among the children of init, in the order of the configuration.
const PIPELOCK: usize = 0;
const EGRESS: usize = 1;

/// An origin inside the bundle's namespace; how many requests it has answered.
fn origin(bundle: &Bundle) -> Arc<AtomicUsize> {
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    let listener = bundle.inside(|| {
        let added = Command::new("ip")
            .args(["addr", "add", "198.51.100.7/32", "dev", "lo"])
            .status();
        assert!(added.unwrap().success());
        TcpListener::bind("198.51.100.7:80").unwrap()
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = count.clone();
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\norigin");
                    }
                }
            });
        }
    });
    answered
}

/// A bundle with both daemons, and its socket in this directory.
fn bundle(directory: &Path) -> (Bundle, Arc<AtomicUsize>, std::path::PathBuf) {
    let socket = directory.join("proxy.sock");
    let more = json!({
        "listen": [{ "unix": socket }],
        "policy": { "allow": [{ "host": "198.51.100.7", "ports": [80] }] },
    });
    let mut bundle = Bundle::start(&config(&["pipelock", "egress"], more));
    bundle.expect("ready");
    let answered = origin(&bundle);
    (bundle, answered, socket)
}

fn guest(socket: &Path) -> UnixStream {
    let guest = UnixStream::connect(socket).unwrap();
    guest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    guest
}

/// One request on a connection that stays; the answer's head and body.
fn ask(guest: &mut UnixStream) -> std::io::Result<String> {
    guest.write_all(b"GET http://198.51.100.7/ HTTP/1.1\r\nhost: 198.51.100.7\r\n\r\n")?;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        guest.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    guest.read_exact(&mut body)?;
    Ok(head + &String::from_utf8_lossy(&body))
}

impl Bundle {
    /// The next event that is no decision.
    fn supervision(&mut self) -> Value {
        loop {
            let event = self.event();
            if event["event"] != "decision" {
                return event;
            }
        }
    }

    /// Kills a daemon. After the third time in a row init waits 400 ms before it starts it again: time to look at the gap.
    fn kill(&mut self, daemon: usize) {
        let mut id = self.daemons()[daemon];
        for restart in [100, 200, 400] {
            kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
            assert_eq!(self.supervision()["restart_in_ms"], restart);
            if restart < 400 {
                assert_eq!(self.supervision()["event"], "daemon-restarted");
                // The youngest child.
                id = *self.daemons().last().unwrap();
            }
        }
    }
}

#[test]
fn without_egress_requests_are_refused_and_then_served_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bundle, answered, socket) = bundle(directory.path());
    let mut guest = guest(&socket);
    assert!(ask(&mut guest).unwrap().ends_with("origin"));
    bundle.kill(EGRESS);
    let before = answered.load(Ordering::SeqCst);
    for _ in 0..3 {
        let answer = ask(&mut guest).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("egress-unavailable"),
            "{answer}"
        );
    }
    assert_eq!(answered.load(Ordering::SeqCst), before, "nothing went out");
    assert_eq!(bundle.supervision()["event"], "daemon-restarted");
    // The guest's connection has outlived egress.
    assert!(ask(&mut guest).unwrap().ends_with("origin"));
    assert_eq!(answered.load(Ordering::SeqCst), before + 1);
    assert_eq!(bundle.terminate().0, 0);
}

#[test]
fn without_pipelock_there_is_no_way_and_then_the_same_one_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bundle, answered, socket) = bundle(directory.path());
    let mut cut = guest(&socket);
    assert!(ask(&mut cut).unwrap().ends_with("origin"));
    bundle.kill(PIPELOCK);
    let before = answered.load(Ordering::SeqCst);
    assert!(ask(&mut cut).is_err(), "a guest's connection ends with pipelock");
    let refused = UnixStream::connect(&socket).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // What only pipelock may use is no way for anybody else.
    let answer = bundle.inside(|| {
        let mut egress = std::net::TcpStream::connect(("127.0.0.1", bottle_policy::EGRESS_PORT)).unwrap();
        let request = "GET http://198.51.100.7/ HTTP/1.1\r\nhost: 198.51.100.7\r\nx-bottle-address: 198.51.100.7\r\n\
                       connection: close\r\n\r\n";
        egress.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        egress.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(answered.load(Ordering::SeqCst), before, "nothing went out");
    assert_eq!(bundle.supervision()["event"], "daemon-restarted");
    assert!(ask(&mut guest(&socket)).unwrap().ends_with("origin"));
    assert_eq!(bundle.terminate().0, 0);
}
