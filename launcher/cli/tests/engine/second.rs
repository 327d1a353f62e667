//! An engine of the test's own: it can be filled up, restarted and searched without touching anybody else's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bottle_docker::Docker;
use rustix::process::Signal;

use crate::site::{LIMIT, send};

/// An engine with its own data, processes, socket and network namespace.
pub struct SecondEngine {
    directory: tempfile::TempDir,
    /// Holds the network namespace over restarts.
    holder: Child,
    /// The loop file system that its data is on.
    is_mounted: bool,
    daemon: Option<Child>,
}

impl SecondEngine {
    /// Starts one, on a file system of its own of so many MiB when told. `None`, with the reason on standard error, where that
    /// needs more than the test has: an engine is root's.
    pub fn start(mebibytes: Option<u64>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: an engine of the test's own needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        let mut engine = Self {
            directory,
            holder: namespace(),
            is_mounted: false,
            daemon: None,
        };
        if let Some(mebibytes) = mebibytes {
            engine.mount(mebibytes);
        }
        engine.up();
        Some(engine)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where it has everything that it keeps.
    pub fn data(&self) -> PathBuf {
        self.at("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.at("sock")
    }

    /// What leads `bottle` to it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn mount(&mut self, mebibytes: u64) {
        let image = self.at("disk");
        std::fs::File::create_new(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        succeed(Command::new("mkfs.ext4").arg("-q").arg(&image));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(self.data()));
        self.is_mounted = true;
    }

    /// Starts the daemon and waits until it answers.
    pub fn up(&mut self) {
        let log = std::fs::File::create(self.at("log")).unwrap();
        let daemon = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.holder.id()))
            .args(["dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"])
            .arg("--data-root")
            .arg(self.data())
            .arg("--exec-root")
            .arg(self.at("exec"))
            .arg("--pidfile")
            .arg(self.at("pid"))
            .arg("--host")
            .arg(self.host())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        let start = Instant::now();
        while !self.answers() {
            let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
            let has_ended = self
                .daemon
                .as_mut()
                .is_none_or(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            assert!(
                !has_ended && start.elapsed() < LIMIT,
                "the second engine does not answer: {log}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        self.socket().exists() && self.try_on(async |_| ()).is_some()
    }

    /// Ends the daemon by this signal.
    pub fn down(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else { return };
        send(&daemon, signal);
        let start = Instant::now();
        while matches!(daemon.try_wait(), Ok(None)) {
            if start.elapsed() > LIMIT {
                let _ = daemon.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.forget_containerd();
    }

    /// Its containerd ends with it. The next daemon would take what is noted here for one that serves, for as long as the kernel
    /// knows the process, be it as a zombie.
    fn forget_containerd(&self) {
        let note = self.at("exec").join("containerd/containerd.pid");
        let Some(pid) = std::fs::read_to_string(&note).ok().map(|text| text.trim().to_owned()) else {
            return;
        };
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        let start = Instant::now();
        while lives() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = std::fs::remove_file(note);
    }

    fn try_on<T>(&self, work: impl AsyncFnOnce(Docker) -> T) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let docker = Docker::connect_to(&self.socket()).await.ok()?;
            Some(work(docker).await)
        })
    }

    pub fn on<T>(&self, work: impl AsyncFnOnce(Docker) -> T) -> T {
        self.try_on(work).expect("the second engine answers")
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!("the second engine's log ends: {}", log.get(from..).unwrap_or_default());
        }
        self.down(Signal::TERM);
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // What the engine mounted and left, and its file system.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|place| Path::new(place).starts_with(self.directory.path()));
        for place in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["--lazy", place]).status();
        }
    }
}

/// A process in a network namespace of its own. An engine that were started in the host's would take the other engine's bridge away.
fn namespace() -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "echo entered; exec sleep infinity"]);
    let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut stdout = BufReader::new(holder.stdout.take().unwrap());
    stdout.read_line(&mut said).unwrap();
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(of(&holder.id().to_string()), of("self"), "{said:?}");
    holder
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
