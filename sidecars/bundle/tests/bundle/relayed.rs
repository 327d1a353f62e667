//! The relay as a daemon of a real bundle.

use std::net::TcpStream;

use bottle_policy::relay::{PREFACE, RELAY_SECRET, preface};

use super::*;

const SECRET: [u8; RELAY_SECRET] = *b"SENTINEL-relay-secret-of-a-test-";

fn digits() -> String {
    SECRET.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn more(directory: &Path) -> Value {
    json!({
        "listen": [{ "unix": directory.join("proxy.sock") }],
        "relay": { "port": 9470, "directory": directory, "services": ["proxy.sock"] },
    })
}

fn line(relay: &str) -> String {
    json!({ "tokens": { "T": TOKEN }, "relay": relay }).to_string()
}

#[test]
fn the_relay_runs_as_its_own_user_and_shows_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    // Others must get through, as in the bundle's own directory.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = config(&["pipelock", "egress", "relay"], more(directory.path()));
    let mut bundle = Bundle::told(&[&config.to_string(), &line(&digits())]);
    bundle.expect("ready");
    let ask = |preface: &[u8]| {
        bundle.inside(|| {
            let mut stream = TcpStream::connect("127.0.0.1:9470").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let head = b"GET http://denied.test/ HTTP/1.1\r\nhost: denied.test\r\nconnection: close\r\n\r\n";
            stream.write_all(&[preface, head].concat()).unwrap();
            let mut back = Vec::new();
            // Who is refused may be reset.
            let _ = stream.read_to_end(&mut back);
            String::from_utf8(back).unwrap()
        })
    };
    let right = preface("proxy.sock", &SECRET).unwrap();
    assert!(ask(&right).starts_with("HTTP/1.1 403 "));
    assert_eq!(ask(&preface("proxy.sock", &[1; RELAY_SECRET]).unwrap()), "");
    assert_eq!(ask(&[0; PREFACE]), "");
    for (daemon, rule) in [
        ("pipelock", "host-not-allowed"),
        ("relay", "relay-secret"),
        ("relay", "relay-version"),
    ] {
        let record = bundle.expect("decision");
        assert_eq!(
            (&record["daemon"], &record["rule"]),
            (&json!(daemon), &json!(rule)),
            "{record}"
        );
    }
    let daemons = bundle.daemons();
    let status = fs::read_to_string(format!("/proc/{}/status", daemons[2])).unwrap();
    for words in [
        "Uid:\t10003\t10003\t10003\t10003",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(words), "{words} is not in {status}");
    }
    let is_shown = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains("SENTINEL-relay") || text.contains(&digits())
    };
    for process in daemons.iter().copied().chain([bundle.child.id() as i32]) {
        for file in ["environ", "cmdline"] {
            let shown = fs::read(format!("/proc/{process}/{file}")).unwrap();
            assert!(!is_shown(&shown), "{file} of {process}");
        }
    }
    // A restarted relay asks for the same.
    kill_process(Pid::from_raw(daemons[2]).unwrap(), Signal::KILL).unwrap();
    bundle.expect("daemon-exited");
    assert_eq!(bundle.expect("daemon-restarted")["daemon"], "relay");
    let again = bundle.inside(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9470").unwrap();
        stream.write_all(&[&right[..], b"x y\r\n\r\n"].concat()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        back
    });
    assert_eq!(&again, b"HTTP/");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the socket alone");
    let (status, errors, events) = bundle.terminate();
    assert_eq!(status, 0);
    assert!(!is_shown(format!("{errors}{events}").as_bytes()));
}

#[rstest::rstest]
#[case::no_daemon(&["egress"], json!({ "relay": { "port": 9470, "directory": "/x", "services": [] } }), "go together")]
#[case::no_key(&["egress", "relay"], json!({}), "go together")]
#[case::no_secret(&["egress", "relay"], json!({ "relay": { "port": 9470, "directory": "/x", "services": [] } }), "the relay's secret")]
#[case::relative(&["egress", "relay"], json!({ "relay": { "port": 9470, "directory": "x", "services": [] } }), "`relay.directory`")]
fn half_a_relay_is_refused(#[case] daemons: &[&str], #[case] more: Value, #[case] expected: &str) {
    let mut bundle = Bundle::start(&config(daemons, more));
    let reason = bundle.expect("failed")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(expected), "{reason}");
    assert_eq!(bundle.end().0, 64);
}

#[test]
fn a_secret_that_is_none_is_refused_and_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&["pipelock", "egress", "relay"], more(directory.path()));
    let mut bundle = Bundle::told(&[&config.to_string(), &line("SENTINEL-relay-no-digits")]);
    while bundle.event()["event"] != "failed" {}
    let (status, errors, events) = bundle.end();
    assert_eq!(status, 70);
    assert!(events.contains("expected a relay secret of 32 bytes"), "{events}");
    assert!(!format!("{errors}{events}").contains("SENTINEL-relay"));
}
