//! The bundle as real processes. Daemons change their user, so these run as root; each bundle has a network namespace of its
//! own, so that the fixed port of egress is free.

mod intercept;
#[cfg(feature = "leaky")]
mod leaks;
mod relayed;
mod restart;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

const TOKEN: &str = "SENTINEL-7f3a-token-value";

struct Bundle {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<String>,
    errors: thread::JoinHandle<String>,
    seen: Vec<String>,
}

fn config(daemons: &[&str], more: Value) -> Value {
    let mut config = json!({
        "version": 1,
        "bottle": "t-1",
        "daemons": daemons,
        "listen": [],
        "publish": null,
        "policy": { "allow": [] },
        "routes": [{ "host": "api.test", "port": 443, "auth": "bearer", "token": "T" }],
        "resolver": { "servers": [] },
        "upstream_roots": [],
        "public_roots": true,
        "lease": false,
        "limits": {},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn tokens() -> Value {
    json!({ "tokens": { "T": TOKEN } })
}

/// The bundle under test: this build's, or the one that was built for shipping.
fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_bottle-bundle").into();
    std::env::var_os("BOTTLE_TEST_PARTS").map_or(built, |parts| Path::new(&parts).join("bottle-bundle"))
}

impl Bundle {
    /// A bundle that was told nothing yet.
    fn silent() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .arg(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let (sender, events) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut error = child.stderr.take().unwrap();
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = error.read_to_string(&mut text);
            text
        });
        Self {
            input: child.stdin.take(),
            child,
            events,
            errors,
            seen: Vec::new(),
        }
    }

    fn told(lines: &[&str]) -> Self {
        let mut bundle = Self::silent();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // A bundle that refuses may be gone before all is written.
        let _ = bundle.input.as_mut().unwrap().write_all(text.as_bytes());
        bundle
    }

    fn start(config: &Value) -> Self {
        Self::told(&[&config.to_string(), &tokens().to_string()])
    }

    /// The next event; panics when none comes.
    fn event(&mut self) -> Value {
        match self.events.recv_timeout(Duration::from_secs(10)) {
            Ok(line) => {
                self.seen.push(line.clone());
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("an event is JSON, found {line:?}"))
            }
            Err(RecvTimeoutError::Timeout) => panic!("no event in time"),
            Err(RecvTimeoutError::Disconnected) => panic!("the bundle closed its output"),
        }
    }

    /// The next event, which is to be of this kind.
    fn expect(&mut self, kind: &str) -> Value {
        let event = self.event();
        assert_eq!(event["event"], kind, "{event}");
        event
    }

    /// Waits for the end: exit status, all of standard error, all events.
    fn end(mut self) -> (i32, String, String) {
        let status = self.child.wait().unwrap().code().expect("it exits by itself");
        while let Ok(line) = self.events.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        (status, self.errors.join().unwrap(), self.seen.join("\n"))
    }

    fn terminate(self) -> (i32, String, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let start = Instant::now();
        let ended = self.end();
        assert!(start.elapsed() < Duration::from_secs(2));
        ended
    }

    /// Runs something on a thread of its own inside the bundle's network namespace; what it opens stays there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = fs::File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Ids of the daemons' processes.
    fn daemons(&self) -> Vec<i32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }
}

#[rstest::rstest]
#[case::not_json("{", "the line with the configuration is not understood")]
#[case::unknown_key(&config(&[], json!({ "surprise": 1 })).to_string(), "unknown field `surprise`")]
#[case::version(&config(&[], json!({ "version": 9 })).to_string(), "expected configuration version 1, found 9")]
#[case::no_slug(&config(&[], json!({ "bottle": "" })).to_string(), "slug")]
#[case::twice(&config(&["egress", "egress"], json!({})).to_string(), "listed once")]
#[case::deaf(&config(&["pipelock"], json!({})).to_string(), "`listen` is empty")]
#[case::rule(&config(&[], json!({ "policy": { "allow": [{ "host": "UPPER.test", "ports": [443] }] } })).to_string(), "UPPER.test")]
#[case::relative(&config(&[], json!({ "publish": "here" })).to_string(), "absolute path")]
fn a_bad_configuration_is_refused(#[case] line: &str, #[case] reason: &str) {
    let mut bundle = Bundle::told(&[line, &tokens().to_string()]);
    let event = bundle.expect("failed");
    assert!(event["reason"].as_str().unwrap().contains(reason), "{event}");
    assert_eq!(bundle.end().0, 64);
}

#[cfg(not(feature = "leaky"))]
#[test]
fn no_control_can_be_removed() {
    let mut bundle = Bundle::start(&config(&["egress"], json!({ "removed": [] })));
    let event = bundle.expect("failed");
    assert!(
        event["reason"].as_str().unwrap().contains("unknown field `removed`"),
        "{event}"
    );
    assert_eq!(bundle.end().0, 64);
}

#[rstest::rstest]
#[case::not_json(format!("{{\"tokens\": {{\"T\": \"{TOKEN}\", }}"), "the line with the tokens is not understood")]
#[case::wrong_type(format!("{{\"tokens\": \"{TOKEN}\"}}"), "the line with the tokens is not understood")]
#[case::unknown_key(format!("{{\"tokens\": {{}}, \"{TOKEN}\": 1}}"), "the line with the tokens is not understood")]
#[case::missing(r#"{"tokens": {}}"#.to_owned(), "needs the token T, which was not handed over")]
fn bad_tokens_are_refused_and_not_repeated(#[case] line: String, #[case] reason: &str) {
    let mut bundle = Bundle::told(&[&config(&["egress"], json!({})).to_string(), &line]);
    let event = bundle.expect("failed");
    assert_eq!(event["bottle"], "t-1");
    assert!(event["reason"].as_str().unwrap().contains(reason), "{event}");
    let (status, errors, events) = bundle.end();
    assert_eq!(status, 64);
    assert!(!format!("{errors}{events}").contains(TOKEN));
}

#[test]
fn an_input_that_ends_early_is_refused() {
    for lines in [&[][..], &[config(&[], json!({})).to_string()][..]] {
        let mut bundle = Bundle::told(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        drop(bundle.input.take());
        assert!(
            bundle.expect("failed")["reason"]
                .as_str()
                .unwrap()
                .contains("found the end of the input")
        );
        assert_eq!(bundle.end().0, 64);
    }
}

#[test]
fn a_line_without_end_is_refused() {
    let mut bundle = Bundle::silent();
    let _ = bundle
        .input
        .as_mut()
        .unwrap()
        .write_all(&vec![b' '; bottle_policy::MAX_CONFIG_LINE + 2]);
    assert!(
        bundle.expect("failed")["reason"]
            .as_str()
            .unwrap()
            .contains("found a longer line")
    );
    assert_eq!(bundle.end().0, 64);
}

#[test]
fn silence_is_not_waited_for_for_ever() {
    let start = Instant::now();
    let mut bundle = Bundle::silent();
    thread::sleep(Duration::from_secs(9));
    assert!(
        bundle.expect("failed")["reason"]
            .as_str()
            .unwrap()
            .contains("within 10 s")
    );
    assert!(start.elapsed() < Duration::from_secs(12));
    assert_eq!(bundle.end().0, 64);
}

#[test]
fn a_bundle_without_daemons_idles() {
    let mut bundle = Bundle::start(&config(&[], json!({})));
    let ready = bundle.expect("ready");
    assert!(
        ready["ca_pem"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    assert!(!ready["ca_pem"].as_str().unwrap().contains("KEY"));
    // Without a lease the end of the input means nothing.
    drop(bundle.input.take());
    thread::sleep(Duration::from_millis(100));
    assert!(bundle.child.try_wait().unwrap().is_none());
    assert_eq!(bundle.terminate().0, 0);
}

#[test]
fn egress_runs_as_its_own_user_and_shows_no_token() {
    let mut bundle = Bundle::start(&config(&["egress"], json!({})));
    bundle.expect("ready");
    let daemons = bundle.daemons();
    let [daemon] = daemons.as_slice() else {
        panic!("one daemon, found {daemons:?}")
    };
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name} in {status}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "10002 10002 10002 10002");
    assert_eq!(field("Gid:"), "10002 10002 10002 10002");
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("NoNewPrivs:"), "1");
    for sets in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(sets), "0000000000000000", "{sets}");
    }
    for process in [*daemon, bundle.child.id() as i32] {
        for file in ["environ", "cmdline"] {
            let shown = fs::read(format!("/proc/{process}/{file}")).unwrap();
            assert!(!String::from_utf8_lossy(&shown).contains(TOKEN), "{file}");
        }
    }
    let (status, errors, events) = bundle.terminate();
    assert_eq!(status, 0);
    assert!(!format!("{errors}{events}").contains(TOKEN));
    assert!(!Path::new(&format!("/proc/{daemon}")).exists());
}

/// Both daemons, and through them one request: refused by pipelock, and one that egress cannot connect.
#[test]
fn requests_go_through_both_daemons() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("proxy.sock");
    let more = json!({
        "listen": [{ "unix": socket }],
        "policy": { "allow": [{ "host": "198.51.100.7", "ports": [80] }] },
        "limits": { "connect_ms": 500 },
    });
    let mut bundle = Bundle::start(&config(&["pipelock", "egress"], more));
    bundle.expect("ready");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    let users: Vec<_> = bundle
        .daemons()
        .iter()
        .map(|daemon| fs::read_to_string(format!("/proc/{daemon}/status")).unwrap())
        .map(|status| status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap()[..5].to_owned())
        .collect();
    assert_eq!(users, ["10001", "10002"]);
    let ask = |host: &str| {
        let mut guest = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let head =
            format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\nx-bottle-nonce: n-7\r\nconnection: close\r\n\r\n");
        guest.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        guest.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("203.0.113.9");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let record = bundle.expect("decision");
    assert_eq!(
        (&record["daemon"], &record["verdict"]),
        (&json!("pipelock"), &json!("deny")),
        "{record}"
    );
    // The namespace has no route to anywhere.
    let answer = ask("198.51.100.7");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let mut records = vec![bundle.expect("decision"), bundle.expect("decision")];
    records.sort_by_key(|record| record["daemon"].to_string());
    assert_eq!(
        (&records[0]["daemon"], &records[0]["rule"]),
        (&json!("egress"), &json!("connect-failed")),
        "{records:?}"
    );
    assert_eq!(records[0]["nonce"], "n-7");
    // A restarted pipelock has the same socket and the same authority.
    kill_process(Pid::from_raw(bundle.daemons()[0]).unwrap(), Signal::KILL).unwrap();
    bundle.expect("daemon-exited");
    bundle.expect("daemon-restarted");
    assert!(ask("203.0.113.9").starts_with("HTTP/1.1 403 "));
    let (status, errors, events) = bundle.terminate();
    assert_eq!(status, 0);
    assert!(!format!("{errors}{events}").contains("PRIVATE KEY"));
}

#[test]
fn a_killed_daemon_is_started_again() {
    let mut bundle = Bundle::start(&config(&["egress"], json!({})));
    bundle.expect("ready");
    let mut before = bundle.daemons();
    for expected in [100, 200] {
        kill_process(Pid::from_raw(before[0]).unwrap(), Signal::KILL).unwrap();
        let event = bundle.expect("daemon-exited");
        assert_eq!(
            (&event["daemon"], &event["restart_in_ms"]),
            (&json!("egress"), &json!(expected)),
            "{event}"
        );
        assert_eq!(bundle.expect("daemon-restarted")["daemon"], "egress");
        let after = bundle.daemons();
        assert_ne!(before, after);
        before = after;
    }
    assert_eq!(bundle.terminate().0, 0);
}

#[test]
fn a_daemon_that_cannot_start_fails_the_bundle() {
    // Its own certificate authority cannot be read.
    let mut bundle = Bundle::start(&config(&["egress"], json!({ "upstream_roots": ["no PEM"] })));
    for restart in [json!(100), json!(200), Value::Null] {
        assert_eq!(bundle.expect("daemon-exited")["restart_in_ms"], restart);
    }
    let failed = bundle.expect("failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(
        reason.contains("egress did not start in 3 attempts") && reason.contains("is not a PEM certificate"),
        "{reason}"
    );
    assert_eq!(bundle.end().0, 70);
}

#[test]
fn the_lease_of_the_launcher_ends_the_bundle() {
    let mut bundle = Bundle::start(&config(&["egress"], json!({ "lease": true })));
    bundle.expect("ready");
    let daemons = bundle.daemons();
    drop(bundle.input.take());
    assert_eq!(bundle.end().0, 0);
    assert!(
        daemons
            .iter()
            .all(|daemon| !Path::new(&format!("/proc/{daemon}")).exists())
    );
}

#[test]
fn publishing_is_whole_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let publish = dir.path().join("shared");
    let more = json!({ "publish": publish, "lease": true });
    let mut bundle = Bundle::start(&config(&[], more));
    let event = bundle.event();
    if event["event"] == "failed" {
        // Built alone, without the guest's init.
        assert!(
            event["reason"].as_str().unwrap().contains("cargo xtask build"),
            "{event}"
        );
        assert_eq!(bundle.end().0, 70);
        return;
    }
    assert_eq!(event["event"], "ready");
    let mode = |name: &str| fs::metadata(publish.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("bottle-guest"), mode("ca.pem"), mode("lease.sock")),
        (0o755, 0o644, 0o666)
    );
    assert_eq!(
        fs::read_to_string(publish.join("ca.pem")).unwrap(),
        event["ca_pem"].as_str().unwrap()
    );
    assert_eq!(
        fs::read_dir(&publish).unwrap().count(),
        3,
        "nothing unfinished, and no key"
    );
    // Whoever holds the lease sees the end of the bundle.
    let mut lease = std::os::unix::net::UnixStream::connect(publish.join("lease.sock")).unwrap();
    lease.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(lease.read(&mut [0]).is_err(), "held");
    bundle.terminate();
    lease.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert_eq!(lease.read(&mut [0]).unwrap(), 0, "ended");
}

#[test]
fn starting_is_fast_and_small() {
    let mut bundle = Bundle::start(&config(&["egress"], json!({})));
    let ready = bundle.expect("ready");
    // 200 ms is the aim for a release build; this one is neither that nor alone on its machine.
    assert!(ready["after_ms"].as_u64().unwrap() < 2000, "{ready}");
    let resident = |id: i32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let all: u64 = bundle
        .daemons()
        .into_iter()
        .chain([bundle.child.id() as i32])
        .map(resident)
        .sum();
    assert!(all < 40 * 1024, "{all} KiB resident");
    bundle.terminate();
}
