//! A place to launch from, and ways to look at what was launched.

use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_docker::{BuiltImage, Docker, ImageFile, ImageSettings, build_image};
use bottle_plan::LABEL_OWNER_PID;
use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A launcher in the background, ended with the test that started it, also when the test fails.
pub struct Launched(Child);

impl Launched {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Deref for Launched {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Launched {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let start = Instant::now();
        // Asked first, so that it removes its bottle; a command that ignores signals is given 10 s.
        while matches!(self.0.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            if start.elapsed() < Duration::from_millis(50) {
                send(&self.0, Signal::TERM);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A directory with a manifest and a state directory.
pub struct Site {
    pub directory: tempfile::TempDir,
}

impl Site {
    /// `None` where the environment says that there is no engine.
    pub fn new() -> Option<Self> {
        if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() {
            println!("left out: no engine (BOTTLE_TEST_NO_ENGINE is set)");
            return None;
        }
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
        Some(site)
    }

    /// `bottle ARGS`, in the background.
    pub fn bottle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        self.prepare(&mut command).args(args);
        command
    }

    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .current_dir(self.directory.path())
            .env("BOTTLE_STATE_DIR", self.state())
            .env_remove("BOTTLE_BACKEND")
            .env_remove("BOTTLE_TEST_ABSENT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
    }

    /// `bottle run`, whose command is still to be given. Its input becomes its controlling terminal, so that the kernel itself tells it
    /// changes of size and a hang-up.
    pub fn run_on_terminal(&self) -> Command {
        let mut command = Command::new("setsid");
        let bottle = env!("CARGO_BIN_EXE_bottle");
        self.prepare(&mut command)
            .args(["--ctty", "--wait", bottle, "run", "-y", "-b", "dev", "--"]);
        command
    }

    /// The slug of its only bottle that is up. What a bottle is called is shared with those of other tests on the engine.
    pub fn slug(&self) -> String {
        let mut entries = std::fs::read_dir(self.state().join("bottles")).unwrap().flatten();
        let first = entries.next().expect("a bottle is up").file_name();
        first.into_string().unwrap()
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// `bottle run` of a shell script.
    pub fn run_shell(&self, topology: &str, script: &str) -> Command {
        self.bottle(&[
            "run",
            "-y",
            "-b",
            "dev",
            "--topology",
            topology,
            "--",
            "sh",
            "-c",
            script,
        ])
    }

    /// Runs a shell script in a bottle.
    pub fn shell(&self, topology: &str, script: &str, input: &[u8]) -> Output {
        let mut command = self.run_shell(topology, script);
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

    /// `bottle cleanup`, after which nothing of a launcher process is left. It looks after the whole engine: a network of somebody
    /// else's, of whose members the engine has lost count (20.10), may stay.
    pub fn clean_up(&self, pid: u32) {
        let cleaned = self.bottle(&["cleanup"]).output().unwrap();
        let said = text(&cleaned.stderr);
        assert!(code(&cleaned) == 0 || said.contains("it has lost count"), "{said}");
        self.nothing_is_left(pid);
    }

    pub fn nothing_is_left(&self, pid: u32) {
        assert_eq!(left_of(pid), Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.state().join("bottles"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Names of what a launcher process has in the engine.
pub fn left_of(pid: u32) -> Vec<String> {
    on_engine(async |docker| {
        let found = docker.inventory(LABEL_OWNER_PID, Some(&pid.to_string())).await.unwrap();
        found.into_iter().map(|resource| resource.name).collect()
    })
}

pub fn on_engine<T>(work: impl AsyncFnOnce(Docker) -> T) -> T {
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
pub fn shell_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        on_engine(async |docker| load_shell_image(&docker).await);
        built_shell_image().reference
    })
}

/// Makes sure that an engine has it.
pub async fn load_shell_image(docker: &Docker) {
    let image = built_shell_image();
    if docker.find_image(&image.reference).await.unwrap().is_none() {
        docker.load_image(&image.reference, image.archive).await.unwrap();
    }
}

fn built_shell_image() -> BuiltImage {
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
    build_image("bottle-test-cli", &[file("/bin/busybox"), file("/bin/sh")], &settings).unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("{:?}: {}", output.status, text(&output.stderr)))
}

pub fn wait_code(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("an exit code");
        }
        assert!(start.elapsed() < LIMIT, "still running");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Everything that comes out of a stream, as it comes.
pub struct Listener {
    bytes: Receiver<Vec<u8>>,
    pub heard: String,
}

impl Listener {
    pub fn new(mut stream: impl Read + Send + 'static) -> Self {
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

    /// What comes within a moment.
    pub fn wait_a_moment(&mut self) {
        if let Ok(bytes) = self.bytes.recv_timeout(Duration::from_millis(200)) {
            self.heard.push_str(&text(&bytes));
        }
    }

    /// Everything up to the end.
    pub fn wait_for_the_end(&mut self) {
        while let Ok(bytes) = self.bytes.recv_timeout(LIMIT) {
            self.heard.push_str(&text(&bytes));
        }
    }

    pub fn wait_for(&mut self, what: &str) {
        let start = Instant::now();
        while !self.heard.contains(what) {
            match self.bytes.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
                Ok(bytes) => self.heard.push_str(&text(&bytes)),
                Err(error) => panic!("{error}, waiting for {what:?} in {:?}", self.heard),
            }
        }
    }
}
