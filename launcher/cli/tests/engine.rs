//! `bottle run` on a real engine. The parts must have been built (`cargo xtask build`), and a static busybox be there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_docker::{Docker, ImageFile, ImageSettings, build_image};
use bottle_plan::LABEL_OWNER_PID;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a manifest and a state directory.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manifest = format!(
            "version: 1\nbottles:\n  dev:\n    image: {}\n    user: \"1000:1000\"\n  \
             keyed:\n    image: x\n    egress:\n      routes:\n        \
             - {{ host: a.test, auth: {{ scheme: bearer, token_env: BOTTLE_TEST_ABSENT }} }}\n",
            shell_image()
        );
        std::fs::write(directory.path().join("bottle.yaml"), manifest).unwrap();
        let site = Self { directory };
        let plan = site.bottle(&["plan", "-b", "dev"]).output().unwrap();
        let is_built = !text(&plan.stdout).contains("bottle-bundle:not-built");
        assert!(
            is_built,
            "`bottle` was built without the bundle: run `cargo xtask build`, then these tests"
        );
        site
    }

    /// `bottle ARGS`, in the background.
    fn bottle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        self.prepare(&mut command).args(args);
        command
    }

    fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .current_dir(self.directory.path())
            .env("BOTTLE_STATE_DIR", self.state())
            .env_remove("BOTTLE_BACKEND")
            .env_remove("BOTTLE_TEST_ABSENT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Runs a shell script in a bottle.
    fn shell(&self, topology: &str, script: &str, input: &[u8]) -> Output {
        let mut command = self.bottle(&["run", "-b", "dev", "--topology", topology, "--", "sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // A command that does not read its input closes it.
        let _ = feeder.join().unwrap();
        self.nothing_is_left(pid);
        output
    }

    fn nothing_is_left(&self, pid: u32) {
        assert_eq!(left_of(pid), Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.state().join("bottles"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Names of what a launcher process has in the engine.
fn left_of(pid: u32) -> Vec<String> {
    on_engine(async |docker| {
        let found = docker.inventory(LABEL_OWNER_PID, Some(&pid.to_string())).await.unwrap();
        found.into_iter().map(|resource| resource.name).collect()
    })
}

fn on_engine<T>(work: impl AsyncFnOnce(Docker) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let docker = Docker::connect()
            .await
            .expect("these tests need an engine; `cargo xtask test` sets one up");
        work(docker).await
    })
}

/// An image with nothing but busybox. Its name has its digest, so it is loaded once for all times.
fn shell_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let busybox = std::fs::read("/bin/busybox").expect("a static /bin/busybox is needed (Debian: busybox-static)");
        let file = |path| ImageFile {
            path,
            mode: 0o755,
            bytes: &busybox,
        };
        let settings = ImageSettings {
            env: [("PATH".to_owned(), "/bin".to_owned())].into(),
            labels: [("bottle.test".to_owned(), "cli".to_owned())].into(),
            ..ImageSettings::default()
        };
        let image = build_image("bottle-test-cli", &[file("/bin/busybox"), file("/bin/sh")], &settings).unwrap();
        on_engine(async |docker| {
            if docker.find_image(&image.reference).await.unwrap().is_none() {
                docker
                    .load_image(&image.reference, image.archive.clone())
                    .await
                    .unwrap();
            }
        });
        image.reference
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("{:?}: {}", output.status, text(&output.stderr)))
}

fn wait_code(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("an exit code");
        }
        assert!(start.elapsed() < LIMIT, "still running");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Everything that comes out of a stream, as it comes.
struct Listener {
    bytes: Receiver<Vec<u8>>,
    heard: String,
}

impl Listener {
    fn new(mut stream: impl Read + Send + 'static) -> Self {
        let (sender, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = stream.read(&mut buffer)
                && count > 0
                && sender.send(buffer[..count].to_vec()).is_ok()
            {}
        });
        Self {
            bytes,
            heard: String::new(),
        }
    }

    fn wait_for(&mut self, what: &str) {
        let start = Instant::now();
        while !self.heard.contains(what) {
            match self.bytes.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
                Ok(bytes) => self.heard.push_str(&text(&bytes)),
                Err(error) => panic!("{error}, waiting for {what:?} in {:?}", self.heard),
            }
        }
    }
}

#[test]
fn exit_codes_and_both_outputs() {
    let output = Site::new().shell("sealed", "echo out; echo err >&2; exit 7", b"");
    assert_eq!(
        (code(&output), text(&output.stdout), text(&output.stderr)),
        (7, "out\n".into(), "err\n".into())
    );
}

#[test]
fn bytes_go_through_unchanged_and_end() {
    // Every byte value in every place of a line.
    let input: Vec<u8> = (0..1_000_003u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let output = Site::new().shell("sealed", "cat", &input);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(
        output.stdout == input,
        "{} bytes of {}",
        output.stdout.len(),
        input.len()
    );
}

#[test]
fn the_guest_is_prepared_in_both_topologies() {
    for topology in ["sealed", "routed"] {
        let script = "echo $1; wget -qO- http://denied.test/ 2>&1; id -u; echo $HOME; \
                      touch $HOME/x /tmp/x && echo writable; touch /x 2>/dev/null || echo read-only";
        let output = Site::new().shell(topology, script, b"");
        let said = text(&output.stdout);
        for expected in [
            "403 Forbidden",
            "\n1000\n",
            "/home/bottle\n",
            "writable\n",
            "read-only\n",
        ] {
            assert!(
                said.contains(expected),
                "{topology}: {expected:?} in {said:?}, {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn a_command_that_is_not_there() {
    let site = Site::new();
    let output = site
        .bottle(&["run", "-b", "dev", "--", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 127, "{}", text(&output.stderr));
}

#[test]
fn a_token_without_a_value_is_refused() {
    let site = Site::new();
    let output = site.bottle(&["run", "-b", "keyed", "--", "true"]).output().unwrap();
    assert_eq!(code(&output), 64, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("BOTTLE_TEST_ABSENT"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_reader_that_leaves_ends_the_command() {
    let site = Site::new();
    let mut child = site
        .bottle(&["run", "-b", "dev", "--", "busybox", "yes"])
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    assert_eq!(wait_code(&mut child), 128 + 15);
    site.nothing_is_left(child.id());
}

#[test]
fn a_signal_is_passed_on() {
    let site = Site::new();
    let script = "trap 'echo got it; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = site
        .bottle(&["run", "-b", "dev", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    send(&child, Signal::INT);
    stdout.wait_for("got it");
    assert_eq!(wait_code(&mut child), 9);
    site.nothing_is_left(child.id());
}

#[test]
fn a_signal_during_the_launch_undoes_it() {
    let site = Site::new();
    let mut command = site.bottle(&["--verbose", "run", "-b", "dev", "--", "sleep", "60"]);
    let mut child = command.spawn().unwrap();
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stderr.wait_for("creating the bundle");
    send(&child, Signal::TERM);
    assert_eq!(wait_code(&mut child), 130);
    site.nothing_is_left(child.id());
}

#[test]
fn a_command_that_ignores_signals_is_removed_in_the_end() {
    let site = Site::new();
    let script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = site
        .bottle(&["run", "-b", "dev", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    let start = Instant::now();
    send(&child, Signal::TERM);
    assert_eq!(wait_code(&mut child), 130);
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "it had time to end by itself"
    );
    site.nothing_is_left(child.id());
}

#[test]
fn a_bundle_that_dies_ends_the_command() {
    let site = Site::new();
    let script = "echo ready; while :; do sleep 0.1; done";
    let mut child = site
        .bottle(&["run", "-b", "dev", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stdout.wait_for("ready");
    on_engine(async |docker| {
        let found = docker
            .inventory(LABEL_OWNER_PID, Some(&child.id().to_string()))
            .await
            .unwrap();
        let bundle = found
            .iter()
            .find(|resource| resource.name.ends_with("-bundle"))
            .unwrap();
        docker.remove(bundle).await.unwrap();
    });
    assert_eq!(wait_code(&mut child), 70);
    stderr.wait_for("the bundle ended while the command ran");
    site.nothing_is_left(child.id());
}

#[test]
fn a_second_signal_leaves_at_once_and_cleanup_removes_the_rest() {
    let site = Site::new();
    let script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = site
        .bottle(&["run", "-b", "dev", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stdout.wait_for("ready");
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the first signal waits for the command"
    );
    send(&child, Signal::INT);
    assert_eq!(wait_code(&mut child), 130);
    stderr.wait_for("`bottle cleanup` removes: guest bottle-dev-");
    let output = site.bottle(&["cleanup"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    site.nothing_is_left(child.id());
}

/// A pseudo-terminal: our end, and the operator's.
fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let path = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(path.to_str().unwrap())
        .unwrap();
    (ours, theirs)
}

fn resize(terminal: &OwnedFd, ws_row: u16, ws_col: u16) {
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_real_terminal_is_followed_and_restored() {
    let site = Site::new();
    let (ours, theirs) = terminal();
    resize(&ours, 33, 101);
    let before = tcgetattr(&theirs).unwrap();
    // setsid makes it the controlling terminal, so that the kernel itself tells changes of size.
    let mut command = Command::new("setsid");
    site.prepare(&mut command).args([
        "--ctty",
        "--wait",
        env!("CARGO_BIN_EXE_bottle"),
        "run",
        "-b",
        "dev",
        "--",
    ]);
    command.args([
        "sh",
        "-c",
        "test -t 0 && test -t 1 && echo is-terminal; while sleep 0.1; do stty size; done",
    ]);
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let mut screen = Listener::new(File::from(ours.try_clone().unwrap()));
    screen.wait_for("is-terminal\r\n");
    screen.wait_for("33 101");
    resize(&ours, 44, 120);
    screen.wait_for("44 120");
    assert_ne!(
        format!("{:?}", tcgetattr(&theirs).unwrap()),
        format!("{before:?}"),
        "it is raw while the guest has it"
    );
    // Ctrl-C is a key for the guest, whose own terminal makes a signal of it.
    File::from(ours.try_clone().unwrap()).write_all(b"\x03").unwrap();
    assert_eq!(wait_code(&mut child), 130);
    assert_eq!(format!("{:?}", tcgetattr(&theirs).unwrap()), format!("{before:?}"));
    let left: Vec<_> = std::fs::read_dir(site.state().join("bottles"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
