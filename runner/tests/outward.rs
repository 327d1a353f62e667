//! Nothing of a run leaves the machine: a packet socket watches the interfaces that lead outwards while bottles are attacked.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use probe_spec::Nonce;

/// Destinations that cases aim at and runs are made of (the first bytes of an IPv4 address). None of them is the machine's
/// own, whose traffic is nobody's business here.
const OF_A_RUN: &[&[u8]] = &[
    &[10, 213],
    &[10, 214],
    &[198, 51, 100],
    &[203, 0, 113],
    &[169, 254, 169, 254],
    &[100, 100, 100, 200],
];

/// Attempts that would leave at once if they could.
const PROBES: &[&str] = &["EG-01", "EG-04", "EG-06", "EG-08", "EG-09", "EG-12", "PX-01"];

/// Names of the interfaces over which a default route goes.
fn outward() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in std::fs::read_to_string("/proc/net/route")
        .unwrap_or_default()
        .lines()
        .skip(1)
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(1) == Some(&"00000000") {
            names.extend(fields.first().map(|name| (*name).to_owned()));
        }
    }
    for line in std::fs::read_to_string("/proc/net/ipv6_route")
        .unwrap_or_default()
        .lines()
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.first().is_some_and(|to| to.bytes().all(|b| b == b'0')) && fields.get(1) == Some(&"00");
        if let (true, Some(name)) = (default, fields.last())
            && *name != "lo"
        {
            names.insert((*name).to_owned());
        }
    }
    names
}

/// What was seen of a run on some interfaces.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Watch {
    fn start(names: &BTreeSet<String>) -> Self {
        let indices: BTreeSet<usize> = nix::net::if_::if_nameindex()
            .expect("a list of interfaces")
            .iter()
            .filter(|interface| interface.name().to_str().is_ok_and(|name| names.contains(name)))
            .map(|interface| interface.index() as usize)
            .collect();
        assert_eq!(indices.len(), names.len(), "every watched interface has an index");
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("a packet socket (needs root)");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 100_000)).expect("a receive time-out");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || watch(&socket, &indices, &flag));
        Self { stop, thread }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread")
    }
}

fn watch(socket: &OwnedFd, indices: &BTreeSet<usize>, stop: &AtomicBool) -> Vec<String> {
    let mut frame = vec![0u8; 65_536];
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) else {
            continue;
        };
        if from.is_some_and(|from| indices.contains(&from.ifindex()))
            && let Some(why) = of_a_run(&frame[..length])
        {
            seen.push(why);
        }
    }
    seen
}

/// Whether a frame belongs to a run: a nonce in it, or one of the run's addresses.
fn of_a_run(frame: &[u8]) -> Option<String> {
    if let Some(nonce) = Nonce::find_all(frame).first() {
        return Some(format!("nonce {nonce}"));
    }
    // Ethernet, then IPv4 (RFC 791): source at 12, destination at 16.
    if frame.get(12..14) == Some(&[8, 0]) {
        let addresses = frame.get(26..34)?;
        for prefix in OF_A_RUN {
            if addresses[..4].starts_with(prefix) || addresses[4..].starts_with(prefix) {
                return Some(format!("a packet of {addresses:?}"));
            }
        }
    }
    // IPv6 (RFC 8200): documentation prefix 2001:db8::/32 at 8 or 24.
    if frame.get(12..14) == Some(&[0x86, 0xdd]) {
        let addresses = frame.get(22..54)?;
        if addresses.starts_with(&[0x20, 1, 0xd, 0xb8]) || addresses[16..].starts_with(&[0x20, 1, 0xd, 0xb8]) {
            return Some("a packet of 2001:db8::/32".to_owned());
        }
    }
    None
}

/// The watch itself sees what it must see: a nonce on the loopback interface.
fn prove_the_watch() {
    let watch = Watch::start(&BTreeSet::from(["lo".to_owned()]));
    let nonce = Nonce::from_bytes([7; 16]);
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(600) {
        sender
            .send_to(nonce.as_str().as_bytes(), receiver.local_addr().expect("an address"))
            .expect("a datagram");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!watch.end().is_empty(), "the watch sees a nonce on lo");
}

#[test]
fn nothing_of_a_run_leaves_the_machine() {
    if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() {
        println!("left out: no engine (BOTTLE_TEST_NO_ENGINE is set)");
        return;
    }
    prove_the_watch();
    let names = outward();
    if names.is_empty() {
        println!("no interface leads outwards: nothing can leave");
    }
    let watch = Watch::start(&names);
    let out = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_bottle-conform"))
        .arg("run")
        .args(PROBES)
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("bottle-conform starts");
    let seen = watch.end();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 0 when the self-test of this suite is fresh, 2 when there is none: both mean that everything was attempted.
    assert!(
        matches!(output.status.code(), Some(0 | 2)),
        "bottle-conform run ended with {}: {said}",
        output.status
    );
    assert!(
        Path::new(&out.path().join("evidence.jsonl"))
            .metadata()
            .is_ok_and(|file| file.len() > 0),
        "evidence: {said}"
    );
    assert!(
        seen.is_empty(),
        "{} frames left over {names:?}, the first: {:?}",
        seen.len(),
        seen.first()
    );
}
