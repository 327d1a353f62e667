//! The forwarders of a real guest process: payload, half-close, refusals, many connections at once.

mod program;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

struct Guest {
    child: Child,
    address: SocketAddr,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Guest {
    /// A guest whose forwarder leads to `<dir>/proxy.sock`, which `serve` may bind before.
    fn start(serve: impl FnOnce(UnixListener)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("proxy.sock");
        serve(UnixListener::bind(&socket).unwrap());
        let address = free_address();
        let forward = format!("{address}={}", socket.display());
        let mut command = program::command();
        command
            .args(["--forward", &forward, "--", "sleep", "120"])
            .stdin(Stdio::null());
        let child = program::spawn(&mut command).unwrap();
        let guest = Self {
            child,
            address,
            socket,
            _dir: dir,
        };
        let until = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the forwarder does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        guest
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

/// An address to listen on that no other test has: one of this process, and a port below those that the kernel gives out. A port that
/// was merely found free is given out again before the guest has bound it, and then two tests have one guest.
fn free_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(10_000);
    let [_, a, b, c] = process::id().to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(127, a, b, c).into(), PORT.fetch_add(1, Ordering::Relaxed))
}

fn each(listener: UnixListener, serve: impl Fn(UnixStream) + Send + Sync + Clone + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
}

/// Bytes that repeat nowhere near a buffer's length, and their FNV-1a sum.
fn payload(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const TEN_MB: usize = 10_000_000;

#[test]
fn ten_megabytes_each_way_at_once() {
    let guest = Guest::start(|listener| {
        each(listener, |mut stream| {
            let mut writer = stream.try_clone().unwrap();
            let sender = thread::spawn(move || writer.write_all(&payload(TEN_MB, 2)));
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            let _ = sender.join().unwrap();
            // The sum follows the payload after the client's half-close.
            let _ = stream.write_all(&sum(&got).to_le_bytes());
        });
    });
    let mut stream = guest.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&payload(TEN_MB, 1)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert_eq!(got.len(), TEN_MB + 8);
    assert_eq!(sum(&got[..TEN_MB]), sum(&payload(TEN_MB, 2)));
    assert_eq!(got[TEN_MB..], sum(&payload(TEN_MB, 1)).to_le_bytes());
}

#[test]
fn a_slow_reader_holds_the_sender_and_loses_nothing() {
    let guest = Guest::start(|listener| {
        each(listener, |mut stream| {
            let _ = stream.write_all(&payload(TEN_MB, 3));
        });
    });
    let mut stream = guest.connect();
    thread::sleep(Duration::from_millis(300));
    assert!(
        guest.resident_kib() < 6 * 1024,
        "{} KiB resident while the reader waits",
        guest.resident_kib()
    );
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(sum(&got), sum(&payload(TEN_MB, 3)));
}

#[test]
fn half_close_goes_both_ways() {
    let guest = Guest::start(|listener| {
        each(listener, |mut stream| {
            // This side closes its direction first and goes on reading.
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"still here");
        });
    });
    let mut stream = guest.connect();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"hello");
    stream.write_all(b"still here").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn without_the_socket_a_connection_is_reset() {
    let guest = Guest::start(|listener| each(listener, drop));
    std::fs::remove_file(&guest.socket).unwrap();
    let mut stream = guest.connect();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_restarted_server_is_found_again_and_in_between_there_is_no_way() {
    let guest = Guest::start(|listener| {
        // Ends with the one connection that the start of this guest makes, and its socket stays behind like that of a
        // daemon that was killed.
        thread::spawn(move || listener.accept().unwrap());
    });
    let until = Instant::now() + Duration::from_secs(5);
    while UnixStream::connect(&guest.socket).is_ok() {
        assert!(Instant::now() < until, "the server does not end");
        thread::sleep(Duration::from_millis(5));
    }
    let error = guest.connect().read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    std::fs::remove_file(&guest.socket).unwrap();
    each(UnixListener::bind(&guest.socket).unwrap(), |mut stream| {
        stream.write_all(b"back").unwrap();
    });
    let mut got = String::new();
    guest.connect().read_to_string(&mut got).unwrap();
    assert_eq!(got, "back");
}

#[test]
fn a_full_queue_of_the_socket_is_waited_for() {
    // A listener with a queue of one that nobody accepts from for a while.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let slow = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&slow, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&slow, 1).unwrap();
    let slow = UnixListener::from(slow);
    let guest = Guest::start(|listener| each(listener, drop));
    std::fs::remove_file(&guest.socket).unwrap();
    std::fs::rename(&path, &guest.socket).unwrap();
    let mut streams: Vec<_> = (0..6).map(|_| guest.connect()).collect();
    thread::sleep(Duration::from_millis(100));
    each(slow, |mut stream| stream.write_all(b"served").unwrap());
    for stream in &mut streams {
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, "served");
    }
}

#[test]
fn connections_above_the_limit_wait_their_turn() {
    let guest = Guest::start(|listener| {
        each(listener, |mut stream| {
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    });
    let mut streams: Vec<_> = (0..512).map(|_| guest.connect()).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut byte = [index as u8];
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [index as u8]);
    }
    let mut late = guest.connect();
    late.write_all(b"x").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(
        late.read(&mut [0; 1]).is_err(),
        "a connection above the limit is not served yet"
    );
    streams.pop();
    late.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut byte = [0];
    late.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}
