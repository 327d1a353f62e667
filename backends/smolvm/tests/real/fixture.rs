//! A bottle of the real smolvm: the shipped bundle in an engine, a shell in a machine.

#[path = "../bundle_image.rs"]
mod bundle_image;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bottle_backend::{Backend, Exec, ExecSpec, Streams};
use bottle_docker::{BuiltImage, Docker, ImageFile, ImageSettings, build_image};
use bottle_launch::{Bottle, BundleImage, LaunchOptions, Secrets, launch};
use bottle_plan::{BackendKind, HostFacts, Limits, Plan, PrepareOptions, Topology};
use bottle_smolvm::{Settings, Smolvm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard};

/// Machines are started one after the other: two at once take longer than that.
static TURN: Mutex<()> = Mutex::const_new(());

pub struct Site {
    directory: tempfile::TempDir,
    pub settings: Settings,
    pub backend: Arc<Smolvm>,
    bundle: BuiltImage,
    shell: BuiltImage,
    _turn: MutexGuard<'static, ()>,
}

impl Site {
    /// `None`, and a line that says so, where there is no smolvm to test with.
    pub async fn new(leaves_out: &str) -> Option<Self> {
        Self::with(leaves_out, |_| {}).await
    }

    /// With other settings.
    pub async fn with(leaves_out: &str, change: impl FnOnce(&mut Settings)) -> Option<Self> {
        if std::env::var("BOTTLE_TEST_SMOLVM").as_deref() != Ok("1") {
            println!("left out, BOTTLE_TEST_SMOLVM is not 1: {leaves_out}");
            return None;
        }
        let turn = TURN.lock().await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut settings = Settings {
            state: directory.path().join("state"),
            cache: directory.path().join("cache"),
            ..Settings::from_env()
        };
        change(&mut settings);
        let docker = Arc::new(Docker::connect().await.unwrap());
        let backend = Smolvm::open(docker.clone(), docker.clone(), &settings).await.unwrap();
        let (bundle, shell) = (bundle_image::built(), shell());
        if docker.find_image(&shell.reference).await.unwrap().is_none() {
            docker
                .load_image(&shell.reference, shell.archive.clone())
                .await
                .unwrap();
        }
        Some(Self {
            directory,
            settings,
            backend: Arc::new(backend),
            bundle,
            shell,
            _turn: turn,
        })
    }

    pub async fn plan(&self, topology: Topology, tty: bool, script: &str) -> Plan {
        self.plan_of(&self.shell.reference, "", topology, tty, script).await
    }

    /// The shell's image as a file.
    pub fn archive(&self) -> String {
        let path = self.directory.path().join("image.tar");
        std::fs::write(&path, &self.shell.archive).unwrap();
        path.display().to_string()
    }

    /// A pack of a shell, made by smolvm: its path. smolvm 1.32.2 packs directories; archives it may not read itself.
    pub async fn pack(&self) -> String {
        let at = |name: &str| self.directory.path().join(name);
        let (image, pack) = (at("image"), at("shell"));
        std::fs::create_dir_all(image.join("bin")).unwrap();
        std::fs::write(image.join("packed"), "packed\n").unwrap();
        for program in ["sh", "cat", "id"] {
            let program = image.join("bin").join(program);
            std::fs::write(&program, busybox()).unwrap();
            std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let program = self.settings.program.clone().unwrap_or_else(|| "smolvm".into());
        let mut packing = tokio::process::Command::new(program)
            .args(["pack", "create", "--cpus", "1", "--mem", "512", "--image"])
            .arg(&image)
            .arg("--state-dir")
            .arg(at("packing"))
            .arg("--output")
            .arg(&pack)
            // The machine that it makes for that has four processors.
            .env("SMOLVM_AGENT_READY_TIMEOUT_SECS", "240")
            .spawn()
            .unwrap();
        let id = i32::try_from(packing.id().unwrap()).unwrap();
        let behind = tokio::spawn(bottle_smolvm::step_back(id));
        let status = packing.wait().await.unwrap();
        behind.abort();
        assert!(status.success(), "packing: {status}");
        pack.with_extension("smolmachine").display().to_string()
    }

    /// A directory of this machine that a bottle may have a copy of.
    pub fn project(&self) -> PathBuf {
        let path = self.directory.path().join("project");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// With an image and more keys of the manifest.
    pub async fn plan_of(&self, image: &str, more: &str, topology: Topology, tty: bool, script: &str) -> Plan {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let manifest = format!("version: 1\nbottles: {{ dev: {{ image: \"{image}\"{more} }} }}\n");
        let mut facts = HostFacts {
            default_limits: Limits {
                memory: Some(256 << 20),
                milli_cpus: Some(1000),
                pids: Some(64),
                open_files: Some(256),
            },
            workspace: Some(self.project().display().to_string()),
            ..HostFacts::default()
        };
        self.backend.facts().await.unwrap().add_to(&mut facts);
        let options = PrepareOptions {
            backend: Some(BackendKind::Smolmachines),
            topology: Some(topology),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: true,
            tty,
            slug: Some(format!("real-{}-{count}", std::process::id())),
            bundle_image: self.bundle.reference.clone(),
            ..PrepareOptions::default()
        };
        bottle_plan::prepare(
            &bottle_plan::parse("bottle.yaml", &manifest).unwrap(),
            "dev",
            &facts,
            &options,
        )
        .unwrap()
    }

    pub async fn launch(&self, topology: Topology, script: &str) -> Bottle {
        let plan = self.plan(topology, false, script).await;
        self.launch_plan(plan).await
    }

    pub async fn launch_plan(&self, plan: Plan) -> Bottle {
        let mut options = LaunchOptions::new("real-test", self.directory.path().join("launcher"));
        options.bundle_image = Some(BundleImage::ready(
            self.bundle.reference.clone(),
            self.bundle.archive.clone(),
        ));
        options.guest_stdio = true;
        match launch(plan, Secrets::none(), self.backend.clone(), options).await {
            Ok(bottle) => bottle,
            Err(error) => panic!("{error}"),
        }
    }

    /// The backend as another process has it.
    pub async fn another(&self) -> Smolvm {
        let docker = Arc::new(Docker::connect().await.unwrap());
        Smolvm::open(docker.clone(), docker, &self.settings).await.unwrap()
    }

    /// What is left of bottles on this host.
    pub async fn left(&self, slug: &str) -> Vec<String> {
        let found = self
            .backend
            .inventory(bottle_plan::LABEL_SLUG, Some(slug))
            .await
            .unwrap();
        let mut left: Vec<String> = found.into_iter().map(|resource| resource.name).collect();
        left.extend(boot_processes(&self.settings.state.display().to_string()));
        let shared = std::fs::read_dir(self.settings.state.join("shared"))
            .into_iter()
            .flatten()
            .flatten();
        left.extend(shared.map(|entry| entry.path().display().to_string()));
        left
    }
}

/// Command lines of machines' processes that have this in them.
pub fn boot_processes(with: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        (command.contains("_boot-vm") && command.contains(with)).then_some(command)
    });
    found.collect()
}

fn busybox() -> Vec<u8> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find_map(|directory| std::fs::read(directory.join("busybox")).ok())
        .expect("a static busybox on the path (Debian: busybox-static)")
}

fn shell() -> BuiltImage {
    let busybox = busybox();
    let programs = [
        "busybox", "sh", "cat", "id", "ls", "wget", "nc", "mount", "sleep", "nslookup", "hostname", "stty",
    ];
    let paths = programs.map(|name| format!("bin/{name}"));
    let mut files: Vec<ImageFile<'_>> = paths
        .iter()
        .map(|path| ImageFile {
            path,
            mode: 0o755,
            bytes: &busybox,
        })
        .collect();
    files.push(ImageFile {
        path: "etc/passwd",
        mode: 0o644,
        bytes: b"root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n",
    });
    let settings = ImageSettings {
        env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        ..ImageSettings::default()
    };
    build_image("bottle-test-machine", &files, &settings).unwrap()
}

pub fn shell_spec(script: &str) -> ExecSpec {
    ExecSpec {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    }
}

/// What comes out of a program when its input is this and then ends.
pub async fn talk(streams: Streams, input: &[u8]) -> (Vec<u8>, String) {
    let (mut stdin, mut stdout, mut stderr) = (streams.stdin, streams.stdout, streams.stderr);
    let feed = async {
        stdin.write_all(input).await.unwrap();
        drop(stdin);
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (_, out_read, err_read) = tokio::join!(feed, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    out_read.unwrap();
    err_read.unwrap();
    (out, String::from_utf8(err).unwrap())
}

/// Exit code, output and errors of a script in the guest.
pub async fn run(bottle: &Bottle, script: &str) -> (i64, String, String) {
    let Exec { streams, exit, .. } = bottle.exec(&shell_spec(script)).await.unwrap();
    let (out, err) = talk(streams, b"").await;
    (exit.await.unwrap(), String::from_utf8(out).unwrap(), err)
}
