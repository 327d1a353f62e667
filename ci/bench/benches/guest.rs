//! The guest's forwarder against a direct connection to the same UNIX socket: bulk throughput, added latency, memory.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bottle_bench::{Samples, milliseconds, print, resident};

const BULK: usize = 512 << 20;
const PINGS: usize = 20_000;
const ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let parts =
        std::env::var_os("BOTTLE_PARTS_DIR").context("run this by `cargo xtask bench`, which builds the parts")?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("service.sock");
    serve(&socket)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut guest = Guest::start(&PathBuf::from(parts).join("bottle-guest"), port, &socket)?;
    wait_for(port)?;
    let idle = resident(guest.0.id()).context("expected the guest to run")?;

    let (mut direct, mut forwarded) = (Samples::default(), Samples::default());
    let (mut direct_bulk, mut forwarded_bulk) = (Samples::default(), Samples::default());
    // Interleaved, so that a busy moment of the machine falls on both.
    for _ in 0..ROUNDS {
        direct.extend(pings(UnixStream::connect(&socket)?)?);
        forwarded.extend(pings(no_delay(port)?)?);
        direct_bulk.push(bulk(UnixStream::connect(&socket)?)?);
        forwarded_bulk.push(bulk(no_delay(port)?)?);
    }
    let loaded = resident(guest.0.id()).context("expected the guest to run")?;
    guest.stop();

    let rate = |took: Duration| BULK as f64 / took.as_secs_f64() / 1e9;
    let (a, b) = (rate(direct_bulk.median()), rate(forwarded_bulk.median()));
    let (p, q) = (direct.median(), forwarded.median());
    print(
        "bottle-guest: loopback forwarder against a direct UNIX socket",
        &["figure", "direct", "through bottle-guest", "ratio or difference"],
        &[
            vec![
                "bulk".into(),
                format!("{a:.2} GB/s"),
                format!("{b:.2} GB/s"),
                format!("{:.2} x", b / a),
            ],
            vec![
                "1-byte round trip, p50".into(),
                milliseconds(p),
                milliseconds(q),
                format!("+{}", milliseconds(q.saturating_sub(p))),
            ],
            vec![
                "1-byte round trip, p99".into(),
                milliseconds(direct.quantile(0.99)),
                milliseconds(forwarded.quantile(0.99)),
                String::new(),
            ],
            vec![
                "resident, idle".into(),
                String::new(),
                format!("{} KiB", idle / 1024),
                String::new(),
            ],
            vec![
                "resident, after load".into(),
                String::new(),
                format!("{} KiB", loaded / 1024),
                String::new(),
            ],
        ],
    );
    Ok(())
}

/// The guest's init with one forwarder.
struct Guest(Child);

impl Guest {
    fn start(program: &Path, port: u16, socket: &Path) -> anyhow::Result<Self> {
        let child = Command::new(program)
            .arg("--forward")
            .arg(format!("127.0.0.1:{port}={}", socket.display()))
            .args(["--", "/bin/sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        Ok(Self(child))
    }

    fn stop(&mut self) {
        // Its own child: killing it is enough, and a failure means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

/// First byte of a connection says what it wants: `p` echoes single bytes, `b` swallows [`BULK`] bytes and answers with one.
fn serve(socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn answer(mut stream: UnixStream) -> std::io::Result<()> {
    let mut first = [0u8; 1];
    stream.read_exact(&mut first)?;
    if first[0] == b'p' {
        let mut byte = [0u8; 1];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
    } else {
        let mut buffer = vec![0u8; 256 * 1024];
        let mut left = BULK;
        while left > 0 {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        stream.write_all(b"k")?;
    }
    Ok(())
}

fn no_delay(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn wait_for(port: u16) -> anyhow::Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "bottle-guest did not listen on port {port} within 5 s"
        );
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn pings(mut stream: impl Read + Write) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let mut byte = [b'p'];
    stream.write_all(&byte)?;
    for _ in 0..PINGS {
        let begun = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

fn bulk(mut stream: impl Read + Write) -> anyhow::Result<Duration> {
    let buffer = vec![b'x'; 256 * 1024];
    stream.write_all(b"b")?;
    let begun = Instant::now();
    for _ in 0..BULK / buffer.len() {
        stream.write_all(&buffer)?;
    }
    let mut done = [0u8; 1];
    stream.read_exact(&mut done)?;
    Ok(begun.elapsed())
}
