//! The list protocol, as the runner meets it: a process, its standard streams and its exit status.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use probe_spec::{Action, AgentCase, AgentList, AgentReady, Attempt, Nonce};

/// The agent under test: this build's, or the one that was built for shipping.
fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_bottle-probe").into();
    std::env::var_os("BOTTLE_TEST_PARTS").map_or(built, |parts| Path::new(&parts).join("bottle-probe"))
}

fn start() -> Child {
    Command::new(program())
        .args(["list", "--batch", Nonce::from_bytes([9; 16]).as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

fn case(at: usize, action: Action, limit_ms: u64) -> AgentCase {
    let nonce = |kind: u128| Nonce::from_bytes((kind << 64 | at as u128).to_be_bytes());
    AgentCase {
        case: format!("case-{at}"),
        nonce: nonce(1),
        ok: nonce(2),
        action,
        limit_ms,
        patience: 1,
    }
}

fn tcp(to: &str) -> Action {
    Action::Tcp {
        to: to.to_owned(),
        send: "{nonce}".to_owned(),
        from: None,
    }
}

fn give(agent: &mut Child, list: &[u8]) {
    agent
        .stdin
        .take()
        .expect("has a standard input")
        .write_all(list)
        .expect("takes the list");
}

#[test]
fn every_case_is_answered_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let to = listener.local_addr().expect("has an address").to_string();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut got = String::new();
            // What the agent sends is the matter of other tests.
            let _ = peer.and_then(|mut peer| peer.read_to_string(&mut got));
        }
    });
    let mut cases: Vec<AgentCase> = (0..40).map(|at| case(at, tcp(&to), 10_000)).collect();
    cases.push(case(40, tcp("unfit"), 1000));
    let endless = Action::Repeat {
        times: u32::MAX,
        pause_ms: 50,
        action: Box::new(tcp("127.0.0.1:1")),
    };
    cases.push(case(41, endless, 200));
    let list = AgentList { cases, parallel: 8 };
    let mut agent = start();
    give(&mut agent, &serde_json::to_vec(&list).expect("serialises"));
    let output = agent.wait_with_output().expect("ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("is text");
    let mut lines = text.lines();
    serde_json::from_str::<AgentReady>(lines.next().expect("is ready")).expect("says so");
    let mut answers: Vec<Attempt> = lines
        .map(|line| serde_json::from_str(line).expect("is an attempt"))
        .collect();
    answers.sort_by_key(|answer| answer.case["case-".len()..].parse::<usize>().expect("a number"));
    assert_eq!(answers.len(), 42);
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(
            (&answer.case, &answer.nonce),
            (&list.cases[at].case, &list.cases[at].nonce)
        );
        assert_eq!(answer.issued, at < 40, "{answer:?}");
    }
}

#[test]
fn malformed_lists_are_refused() {
    let twice = AgentList {
        cases: vec![case(1, tcp("127.0.0.1:1"), 1), case(1, tcp("127.0.0.1:1"), 1)],
        parallel: 1,
    };
    let twice = serde_json::to_vec(&twice).expect("serialises");
    let too_long = vec![b' '; (8 << 20) + 2];
    for list in [
        &b""[..],
        b"{",
        b"{\"cases\":[],\"parallel\":1,\"more\":2}",
        b"{\"cases\":[],\"parallel\":1} x",
        &twice,
        &too_long,
    ] {
        let mut agent = start();
        give(&mut agent, list);
        let output = agent.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(64));
        assert!(!output.stderr.is_empty());
        assert_eq!(
            output.stdout.iter().filter(|byte| **byte == b'\n').count(),
            1,
            "only that it is ready"
        );
    }
}

#[test]
fn a_killed_agent_leaves_only_what_it_had_answered() {
    let endless = Action::Repeat {
        times: u32::MAX,
        pause_ms: 50,
        action: Box::new(tcp("127.0.0.1:1")),
    };
    let list = AgentList {
        cases: vec![case(0, tcp("127.0.0.1:1"), 5000), case(1, endless, 60_000)],
        parallel: 1,
    };
    let mut agent = start();
    give(&mut agent, &serde_json::to_vec(&list).expect("serialises"));
    let mut lines = BufReader::new(agent.stdout.take().expect("has an output")).lines();
    lines.next().expect("is ready").expect("reads");
    let answer: Attempt = serde_json::from_str(&lines.next().expect("answers").expect("reads")).expect("parses");
    assert_eq!(answer.case, "case-0");
    agent.kill().expect("is killed");
    assert!(lines.next().is_none());
    assert!(!agent.wait().expect("ends").success());
}

#[test]
fn unknown_commands_are_refused() {
    for args in [&[][..], &["list", "--batch", "no-nonce"], &["list", "x"], &["unknown"]] {
        let status = Command::new(program()).args(args).stderr(Stdio::null()).status();
        assert_eq!(status.expect("runs").code(), Some(64));
    }
}

#[test]
fn a_leaked_directory_is_found_by_the_agent_it_is_leaked_to() {
    let action = Action::Descriptors {
        of: probe_spec::DescriptorsOf::Own,
    };
    let list = AgentList {
        cases: vec![case(0, action, 5000)],
        parallel: 1,
    };
    let mut leaky = Command::new(program())
        .args(["leak-fd", "/usr", "--"])
        .arg(program())
        .arg("list")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    give(&mut leaky, &serde_json::to_vec(&list).expect("serialises"));
    let output = leaky.wait_with_output().expect("ends");
    let text = String::from_utf8(output.stdout).expect("is text");
    let answer: Attempt = serde_json::from_str(text.lines().nth(1).expect("answers")).expect("parses");
    assert!(
        answer.findings.iter().any(|finding| finding.ends_with("open: /usr")),
        "{answer:?}"
    );
}

#[test]
fn a_hammer_repeats_its_cases_until_it_is_told_to_end() {
    use base64::Engine as _;
    let cases = serde_json::to_vec(&[case(0, tcp("127.0.0.1:1"), 1000)]).expect("serialises");
    let mut hammer = Command::new(program())
        .arg("hammer")
        .env("BOTTLE_HAMMER", base64::engine::general_purpose::STANDARD.encode(cases))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(hammer.stdout.take().expect("has an output")).lines();
    for line in lines.take(3) {
        let answer: Attempt = serde_json::from_str(&line.expect("reads")).expect("parses");
        assert!(answer.issued);
    }
    let pid = rustix::process::Pid::from_child(&hammer);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is told");
    // The reader is gone now too, so an end for want of output is as good.
    assert!(matches!(hammer.wait().expect("ends").code(), Some(0 | 74)));
}
