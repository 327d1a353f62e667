//! `bottle-guest --check`: what a guest can see of its own walls, for `bottle doctor`.
//!
//! One line a check: its name, `held` or `open`, and what was met, with tabs between them. It proves less than the
//! conformance suite, whose witnesses are outside; the doctor adds a listener on the host and the proxy's decisions.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Time limit of one attempt: the host is near.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs the checks; the arguments are `tcp=ADDRESS:PORT`, `proxied=HOST:PORT`, `secret=NAME` and `lonely` (a guest that is
/// to have no network).
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let mut out = io::stdout().lock();
    let mut tell = |name: &str, outcome: Result<String, String>| {
        let (word, met) = match outcome {
            Ok(met) => ("held", met),
            Err(met) => ("open", met),
        };
        // Nobody listens any more: there is nobody to tell that either.
        let _ = writeln!(out, "{name}\t{word}\t{}", met.replace(['\t', '\n'], " "));
    };
    tell("capabilities", capabilities());
    tell("no-new-privileges", status("NoNewPrivs", "1"));
    tell("system-calls", status("Seccomp", "2"));
    tell("read-only-root", cannot_write(Path::new("/.bottle-check")));
    tell("read-only-shared", cannot_write(Path::new("/run/bottle/.bottle-check")));
    tell("engine-socket", engine_socket());
    tell("processes", processes());
    tell("devices", devices());
    for arg in args {
        match arg.split_once('=') {
            Some(("tcp", address)) => tell(&format!("host {address}"), no_connection(address)),
            Some(("proxied", target)) => tell(&format!("proxy {target}"), refused_by_proxy(target)),
            Some(("secret", name)) => tell(&format!("token {name}"), placeholder(name)),
            _ if arg == "lonely" => tell("interfaces", only_loopback()),
            _ => {
                eprintln!("bottle-guest: --check does not know {arg:?}");
                return ExitCode::from(64);
            }
        }
    }
    ExitCode::SUCCESS
}

fn field(name: &str) -> Result<String, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let found = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found
        .map(|value| value.trim().to_owned())
        .ok_or_else(|| format!("no {name}"))
}

fn status(name: &str, expected: &str) -> Result<String, String> {
    let found = field(name)?;
    if found == expected {
        Ok(format!("{name} {found}"))
    } else {
        Err(format!("{name} {found}, expected {expected}"))
    }
}

fn capabilities() -> Result<String, String> {
    let sets = ["CapEff", "CapPrm", "CapBnd", "CapAmb"];
    for name in sets {
        let found = field(name)?;
        if found.bytes().any(|digit| digit != b'0') {
            return Err(format!("{name} {found}"));
        }
    }
    Ok("none".to_owned())
}

fn cannot_write(path: &Path) -> Result<String, String> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => {
            // It should not be there at all.
            let _ = fs::remove_file(path);
            Err(format!("{} could be made", path.display()))
        }
        Err(error) => Ok(error.to_string()),
    }
}

fn engine_socket() -> Result<String, String> {
    let sockets = [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
    ];
    match sockets.iter().find(|path| Path::new(path).exists()) {
        Some(path) => Err(format!("{path} is there")),
        None => Ok("none".to_owned()),
    }
}

/// The guest's own first process is ours; a shared namespace would show the host's.
fn processes() -> Result<String, String> {
    let first = fs::read_to_string("/proc/1/comm").map_err(|error| error.to_string())?;
    let count = fs::read_dir("/proc")
        .map_err(|error| error.to_string())?
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .count();
    if first.trim() == "bottle-guest" && count <= 4 {
        Ok(format!("{count}"))
    } else {
        Err(format!("{count}, the first is {}", first.trim()))
    }
}

fn devices() -> Result<String, String> {
    const DANGEROUS: [&str; 8] = ["mem", "kmem", "port", "kvm", "sda", "vda", "nvme0", "fuse"];
    let found: Vec<&str> = DANGEROUS
        .into_iter()
        .filter(|name| Path::new("/dev").join(name).exists())
        .collect();
    if found.is_empty() {
        Ok("none".to_owned())
    } else {
        Err(found.join(", "))
    }
}

fn only_loopback() -> Result<String, String> {
    let table = fs::read_to_string("/proc/net/dev").map_err(|error| error.to_string())?;
    let names: Vec<&str> = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
        .collect();
    if names.iter().all(|name| *name == "lo") {
        Ok(names.join(", "))
    } else {
        Err(names.join(", "))
    }
}

fn no_connection(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => Err("connected".to_owned()),
        Err(error) => Ok(error.to_string()),
    }
}

/// The proxy answers, and the answer is its own refusal.
fn refused_by_proxy(target: &str) -> Result<String, String> {
    let proxy = std::env::var("HTTPS_PROXY").map_err(|_| "HTTPS_PROXY is not set".to_owned())?;
    let address: SocketAddr = proxy
        .trim_start_matches("http://")
        .parse()
        .map_err(|_| format!("HTTPS_PROXY is {proxy}"))?;
    let answer = ask(address, target).map_err(|error| format!("the proxy did not answer: {error}"))?;
    let head = answer.lines().next().unwrap_or_default().to_owned();
    if head.contains(" 403 ") && answer.to_ascii_lowercase().contains("\nx-bottle-refusal:") {
        Ok(head)
    } else {
        Err(head)
    }
}

fn ask(proxy: SocketAddr, target: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE * 4))?;
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") && answer.len() < 16 * 1024 {
        match stream.read(&mut buffer)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn placeholder(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if value.starts_with("bottle-placeholder-") => Ok("a placeholder".to_owned()),
        Ok(_) => Err("something else than a placeholder".to_owned()),
        Err(_) => Err("nothing in its place".to_owned()),
    }
}
