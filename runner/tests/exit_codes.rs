//! Every exit status of `bottle-conform` on the real engine: proofs that come, go and are waived, an engine that dies in the
//! middle, an operator who loses patience.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_docker::Docker;
use bottle_launch::{SweepScope, sweep};
use bottle_plan::LABEL_RUN;
use rustix::process::{Pid, Signal, kill_process};

/// A case that costs one bottle and little time.
const CHEAP: &str = "LB-01::tcp::docker::sealed";
/// A batch that is judged early, and scenarios that take longer, on one bottle.
const EARLY_AND_LATE: &[&str] = &["LB-01", "LC-*", "--topology", "sealed"];
/// Longest time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// An output directory and a self-test cache of its own.
struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    /// `None`, with a word about it, where tests must do without an engine.
    fn new() -> Option<Self> {
        if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() {
            println!("left out: no engine (BOTTLE_TEST_NO_ENGINE is set)");
            return None;
        }
        Some(Self {
            directory: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle-conform"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end; the output when it ended as expected.
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    fn start(&self, command: &mut Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running {
            child: Some(child),
            evidence: self.path("out/evidence.jsonl"),
        }
    }

    fn report(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("out/report.json")).unwrap()).unwrap()
    }

    /// Verdicts of the report.
    fn verdicts(&self) -> Vec<String> {
        let report = self.report();
        let cells = report["cells"].as_array().unwrap();
        let verdict = |cell: &serde_json::Value| cell["judgement"]["verdict"].as_str().unwrap().to_owned();
        cells.iter().map(verdict).collect()
    }

    fn run_id(&self) -> String {
        self.report()["started"]["run"].as_str().unwrap().to_owned()
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

/// A run under way; ended with the test.
struct Running {
    child: Option<Child>,
    evidence: PathBuf,
}

impl Running {
    /// Waits until the file with evidence has at least this many lines.
    fn wait_for_evidence(&mut self, lines: usize) {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.evidence).unwrap_or_default();
            if self.evidence.exists() && text.lines().count() >= lines {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ended ({ended:?}) before there was evidence: {text}");
            assert!(Instant::now() < until, "no evidence in time");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn interrupt(&self) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Standard error up to where it says this.
    fn read_until(&mut self, text: &str) -> String {
        let stderr = self.child.as_mut().unwrap().stderr.as_mut().unwrap();
        let (mut read, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_eq!(
                stderr.read(&mut byte).unwrap(),
                1,
                "ended without it: {}",
                String::from_utf8_lossy(&read)
            );
            read.extend(byte);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    fn end(mut self) -> Output {
        let mut child = self.child.take().unwrap();
        // The pipes hold what little is said; waiting first lets the test give up in time.
        let until = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            thread::sleep(Duration::from_millis(50));
        }
        let late = child.try_wait().unwrap().is_none();
        if late {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert!(!late, "did not end in time: {}", said(&output));
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the engine still has of a run.
fn inventory(run: &str) -> Vec<String> {
    in_runtime(async {
        let docker = Docker::connect().await.unwrap();
        let found = docker.inventory(LABEL_RUN, Some(run)).await.unwrap();
        found.into_iter().map(|resource| format!("{resource:?}")).collect()
    })
}

/// Removes what a run left; how much it was.
fn clean_up(run: &str) -> usize {
    in_runtime(async {
        let docker = Docker::connect().await.unwrap();
        let scope = SweepScope {
            state_dir: None,
            run: Some(run.to_owned()),
        };
        sweep(&docker, &scope).await.unwrap().removed.len()
    })
}

/// What the engine has of a run after sweeps: it completes calls that were under way when their caller died.
fn left_after_sweeps(run: &str) -> Vec<String> {
    for _ in 0..3 {
        clean_up(run);
        if inventory(run).is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(700));
    }
    inventory(run)
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

fn waivers(directory: &Path, expires: &str) -> PathBuf {
    let path = directory.join("given.yaml");
    let text = format!("- probe: LB-01\n  owner: net-team\n  reason: until the move\n  expires: {expires}\n");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_proof_is_missing_waived_made_and_outlived_by_its_waiver() {
    let Some(ground) = Ground::new() else { return };
    let run = |code: i32, more: &[&str]| {
        let mut arguments = vec!["run", CHEAP, "--out", "out"];
        arguments.extend(more);
        ground.expect(code, &arguments)
    };
    // 2: nothing was seen, but nothing proves that it would have been.
    let text = run(2, &[]);
    assert!(text.contains("there is no self-test"), "{text}");

    // 0: somebody answers for it. The default file is found in the working directory.
    fs::copy(
        waivers(ground.directory.path(), "9999-12-31"),
        ground.path("waivers.yaml"),
    )
    .unwrap();
    let text = run(0, &[]);
    assert!(
        text.contains("waived by net-team until 9999-12-31: until the move"),
        "{text}"
    );
    assert_eq!(ground.verdicts(), ["waived"]);
    let junit = fs::read_to_string(ground.path("out/junit.xml")).unwrap();
    assert!(junit.contains("<skipped message=\"waived by net-team"), "{junit}");
    fs::remove_file(ground.path("waivers.yaml")).unwrap();

    // 0: the self-test turns the case red, and only once.
    let self_test = ["self-test", "--if-stale", CHEAP, "--out", "out"];
    let text = ground.expect(0, &self_test);
    assert!(text.contains("1 of 1 cases turned red"), "{text}");
    let begun = Instant::now();
    let text = ground.expect(0, &self_test);
    assert!(text.contains("nothing to do, all 1 cases turned red before"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing is launched");

    // 1: its evidence is that of a breach.
    let text = ground.expect(1, &["judge", "out/self-test/evidence.jsonl"]);
    assert!(
        text.contains("BREACHED LB-01::tcp::docker::sealed::K-HOSTNET"),
        "{text}"
    );

    // 5: it holds now, so the waiver has to go.
    let expired = waivers(ground.directory.path(), "2020-01-01");
    let text = run(5, &["--waivers", expired.to_str().unwrap(), "--verbose"]);
    assert!(text.contains("HELD LB-01::tcp::docker::sealed"), "{text}");
    assert!(text.contains("expired 2020-01-01: net-team has to renew it"), "{text}");
    assert!(
        text.contains("bottle_docker") && text.contains("call="),
        "--verbose logs calls of the engine: {text}"
    );
    assert_eq!(ground.verdicts(), ["held"]);

    // 0: held.
    let text = run(0, &[]);
    assert!(text.contains("HELD: 1 cells judged (1 held)"), "{text}");
    assert_eq!(inventory(&ground.run_id()), Vec::<String>::new());
}

#[test]
fn an_engine_that_dies_in_the_middle_is_3_and_keeps_what_was_seen() {
    let Some(ground) = Ground::new() else { return };
    let engine = Forwarder::start(&ground.path("engine.sock"));
    let arguments = [&["run", "--out", "out"], EARLY_AND_LATE].concat();
    let mut command = ground.command(&arguments);
    command.env("DOCKER_HOST", format!("unix://{}", engine.path.display()));
    let mut run = ground.start(&mut command);
    run.wait_for_evidence(1);
    engine.cut();
    let output = run.end();
    let left = clean_up(&ground.run_id());
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(left > 0, "the engine still had the bottle");
    let verdicts = ground.verdicts();
    let evidence = fs::read_to_string(ground.path("out/evidence.jsonl")).unwrap();
    let errors = verdicts.iter().filter(|verdict| *verdict == "error").count();
    assert!(errors > 0 && errors < verdicts.len(), "{verdicts:?}");
    assert!(evidence.lines().count() >= verdicts.iter().filter(|verdict| *verdict == "inconclusive").count());
    let expected = ground.report()["started"]["expected"].as_array().unwrap().len();
    assert_eq!(verdicts.len(), expected, "every cell has its verdict");
    assert!(ground.path("out/junit.xml").metadata().unwrap().len() > 0);
}

#[test]
fn one_interrupt_takes_everything_down_and_reports() {
    let Some(ground) = Ground::new() else { return };
    let arguments = [&["run", "--out", "out"], EARLY_AND_LATE].concat();
    let mut run = ground.start(&mut ground.command(&arguments));
    run.wait_for_evidence(1);
    run.interrupt();
    let output = run.end();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(said(&output).contains("INTERRUPTED"), "{}", said(&output));
    let junit = fs::read_to_string(ground.path("out/junit.xml")).unwrap();
    assert!(junit.contains("never judged"), "{junit}");
    assert!(!ground.verdicts().is_empty(), "what was judged is reported");
    let left = inventory(&ground.run_id());
    clean_up(&ground.run_id());
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn two_interrupts_leave_at_once_and_say_what_removes_the_rest() {
    let Some(ground) = Ground::new() else { return };
    let arguments = [&["run", "--out", "out"], EARLY_AND_LATE].concat();
    let mut run = ground.start(&mut ground.command(&arguments));
    run.wait_for_evidence(1);
    run.interrupt();
    // Two that come before the first was taken note of count as one.
    let mut text = run.read_until("stopping: ");
    run.interrupt();
    let output = run.end();
    text += &said(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(
        text.contains("left at once: ") && text.contains("`bottle cleanup`"),
        "{text}"
    );
    assert!(!ground.path("out/junit.xml").exists(), "nothing is reported: {text}");
    let id = text.split("bottle.run=").nth(1).and_then(|rest| rest.split(' ').next());
    let id = id.expect("the label of what stays");
    assert!(!inventory(id).is_empty(), "something is left this way");
    assert_eq!(
        left_after_sweeps(id),
        Vec::<String>::new(),
        "and `bottle cleanup` removes it"
    );
}

/// Launchers that the suite started, one of them stopped in the middle, would hold their bottles for ever.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_suite_takes_its_launchers_along() {
    let Some(ground) = Ground::new() else { return };
    let arguments = ["run", "LC-03", "--topology", "sealed", "--out", "out"];
    let mut run = ground.start(&mut ground.command(&arguments));
    let suite = Pid::from_child(run.child.as_ref().unwrap());
    let pid = run.child.as_ref().unwrap().id();
    let until = Instant::now() + PATIENCE;
    let is_stopped = |pid: &u32| state(*pid) == Some('T');
    let (stopped, launchers) = loop {
        let launchers = children(pid);
        if launchers.iter().any(is_stopped) {
            // Halted, it does not end the launcher while that is looked at.
            kill_process(suite, Signal::STOP).unwrap();
            while !is_stopped(&pid) {
                thread::sleep(Duration::from_millis(1));
            }
            let launchers = children(pid);
            if let Some(stopped) = launchers.iter().copied().find(is_stopped) {
                break (stopped, launchers);
            }
            kill_process(suite, Signal::CONT).unwrap();
        }
        assert!(Instant::now() < until, "no launcher stopped: {launchers:?}");
        thread::sleep(Duration::from_millis(5));
    };
    let words = fs::read_to_string(format!("/proc/{stopped}/cmdline")).unwrap();
    let words: Vec<&str> = words.split('\0').collect();
    let id = words[words.iter().position(|word| *word == "--run").unwrap() + 1];
    run.child.as_mut().unwrap().kill().unwrap();
    let output = run.end();
    while launchers
        .iter()
        .any(|launcher| state(*launcher).is_some_and(|state| state != 'Z'))
    {
        assert!(Instant::now() < until, "{launchers:?} live on: {}", said(&output));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(left_after_sweeps(id), Vec::<String>::new());
}

/// proc_pid_stat(5): the state and the parent come after the name in brackets.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn state(pid: u32) -> Option<char> {
    stat(pid).map(|(state, _)| state)
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

#[test]
fn nothing_chosen_is_4() {
    let Some(ground) = Ground::new() else { return };
    let text = ground.expect(4, &["run", "--tag", "no-such-tag", "--out", "out"]);
    assert!(text.contains("NOTHING RAN"), "{text}");
}

/// Stands between a program and the engine, until it is cut.
struct Forwarder {
    path: PathBuf,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Forwarder {
    fn start(path: &Path) -> Self {
        let engine = std::env::var("DOCKER_HOST").unwrap_or_default();
        let engine = engine
            .strip_prefix("unix://")
            .unwrap_or("/var/run/docker.sock")
            .to_owned();
        let listener = UnixListener::bind(path).unwrap();
        let forwarder = Self {
            path: path.to_owned(),
            is_cut: Arc::default(),
            streams: Arc::default(),
        };
        let (is_cut, streams) = (forwarder.is_cut.clone(), forwarder.streams.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                // Dropping the listener makes every later connection fail.
                if is_cut.load(Ordering::SeqCst) {
                    return;
                }
                let (client, engine) = (client.unwrap(), UnixStream::connect(&engine).unwrap());
                let mut streams = streams.lock().unwrap();
                for stream in [&client, &engine] {
                    streams.push(stream.try_clone().unwrap());
                }
                forward(client.try_clone().unwrap(), engine.try_clone().unwrap());
                forward(engine, client);
            }
        });
        forwarder
    }

    /// Ends every connection and takes no more.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it goes.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
        for stream in self.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Copies one way until the end, which is passed on.
fn forward(mut from: UnixStream, mut to: UnixStream) {
    thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
