//! A bottle whose engine is in memory and whose smolvm is a script.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bottle_backend::fake::Fake;
use bottle_backend::{Backend, BackendError, BoxFuture, EngineFacts, Labels, Streams};
use bottle_launch::{Bottle, LaunchError, LaunchOptions, Secrets, launch};
use bottle_plan::{BackendKind, HostFacts, LABEL_OWNER_PID, Limits as GuestLimits, Plan, PrepareOptions, Topology};
use bottle_smolvm::{ImageSettings, Limits, Pieces, Settings, Smolvm, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Long enough for a shell on a busy machine.
pub const PATIENT: Duration = Duration::from_secs(30);
/// For a call that never ends.
pub const SHORT: Duration = Duration::from_millis(1500);

pub struct Site {
    directory: tempfile::TempDir,
    pub settings: Settings,
    pub engine: Fake,
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // Root's machines run as other users, which must get through.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["smolvm", "smolvm/vm", "image", "project"] {
            std::fs::create_dir(path.join(part)).unwrap();
        }
        let program = path.join("smolvm/smolvm");
        std::fs::write(&program, include_str!("smolvm.sh")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("smolvm/boot.sh"), "read -r line <\"$2/forever\"\n").unwrap();
        std::fs::write(path.join("smolvm/drift.sed"), "").unwrap();
        let limits = Limits {
            look: PATIENT,
            create: PATIENT,
            start: PATIENT,
            delete: Duration::from_secs(20),
        };
        let settings = Settings {
            program: Some(program),
            state: path.join("state/smolvm"),
            cache: path.join("cache"),
            limits,
            firewall: false,
            always_relay: false,
            starts_at_once: 1,
            start_tries: 1,
        };
        Self {
            directory,
            settings,
            engine: Fake::new(BackendKind::Docker),
        }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Makes the stand-in go wrong.
    pub fn tell(&self, file: &str, content: &str) {
        std::fs::write(self.path("smolvm").join(file), content).unwrap();
    }

    pub fn untell(&self, file: &str) {
        std::fs::remove_file(self.path("smolvm").join(file)).unwrap();
    }

    pub async fn open(&self) -> Result<Arc<Smolvm>, BackendError> {
        let engine: Arc<dyn Backend> = Arc::new(self.engine.clone());
        Smolvm::open(engine, Arc::new(NoImages), &self.settings)
            .await
            .map(Arc::new)
    }

    /// With bundles in another engine than the one in memory.
    pub async fn open_in(&self, engine: Arc<dyn Backend>) -> Arc<Smolvm> {
        Arc::new(Smolvm::open(engine, Arc::new(NoImages), &self.settings).await.unwrap())
    }

    pub fn plan(&self, script: &str) -> Plan {
        self.plan_of(script, Topology::Sealed)
    }

    pub fn plan_of(&self, script: &str, topology: Topology) -> Plan {
        self.plan_with(script, topology, "")
    }

    /// A plan for an engine that is like this.
    pub fn plan_on(&self, engine: EngineFacts, script: &str, topology: Topology) -> Plan {
        let mut facts = self.facts();
        engine.add_to(&mut facts);
        self.plan_from(&facts, script, topology, "")
    }

    /// A plan with more keys of the manifest.
    pub fn plan_with(&self, script: &str, topology: Topology, more: &str) -> Plan {
        self.plan_from(&self.facts(), script, topology, more)
    }

    fn facts(&self) -> HostFacts {
        HostFacts {
            default_limits: GuestLimits {
                memory: Some(256 << 20),
                milli_cpus: Some(1000),
                ..GuestLimits::default()
            },
            workspace: Some(self.path("project").display().to_string()),
            ..HostFacts::default()
        }
    }

    fn plan_from(&self, facts: &HostFacts, script: &str, topology: Topology, more: &str) -> Plan {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let manifest = format!(
            "version: 1\nbottles: {{ dev: {{ image: {}{more} }} }}\n",
            self.path("image").display()
        );
        let options = PrepareOptions {
            backend: Some(BackendKind::Smolmachines),
            topology: Some(topology),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: true,
            slug: Some(format!("standin-{}-{count}", std::process::id())),
            bundle_image: "bundle:1".to_owned(),
            ..PrepareOptions::default()
        };
        bottle_plan::prepare(
            &bottle_plan::parse("bottle.yaml", &manifest).unwrap(),
            "dev",
            facts,
            &options,
        )
        .unwrap()
    }

    pub async fn launch(&self, script: &str) -> Result<Bottle, LaunchError> {
        let backend = self.open().await.unwrap();
        self.launch_on(backend, self.plan(script)).await
    }

    pub async fn launch_on(&self, backend: Arc<Smolvm>, plan: Plan) -> Result<Bottle, LaunchError> {
        let mut options = LaunchOptions::new("test-run", self.path("launcher"));
        options.guest_stdio = true;
        launch(plan, Secrets::none(), backend, options).await
    }

    /// Where smolvm was told to ask about connections, and what it is to prove itself with.
    pub fn interceptor(&self) -> (SocketAddr, Vec<u8>) {
        let calls = self.calls();
        let start = calls.lines().find(|call| call.contains("machine start")).unwrap();
        assert!(start.contains(" --mediated-egress"), "{start}");
        let mut words = start.split(' ').skip_while(|word| *word != "--egress-interceptor");
        let listener: SocketAddr = words.nth(1).unwrap().parse().unwrap();
        assert!(listener.ip().is_loopback(), "{start}");
        let token = std::fs::read_to_string(self.path("smolvm/token")).unwrap();
        assert_eq!(token.len(), 64);
        assert!(!calls.contains(&token), "{calls}");
        let byte = |index: usize| u8::from_str_radix(&token[2 * index..][..2], 16).unwrap();
        (listener, (0..32).map(byte).collect())
    }

    /// What smolvm asks when the guest wants to connect there and has sent this.
    pub fn question(token: &[u8], to: SocketAddrV4, first: &[u8]) -> Vec<u8> {
        let length = u16::try_from(first.len()).unwrap().to_be_bytes();
        let (port, address) = (to.port().to_be_bytes(), to.ip().octets());
        [
            &b"SMOLMEG2"[..],
            token,
            &[1; 16],
            &[0; 16],
            &[4],
            &port,
            &address,
            &length,
            first,
        ]
        .concat()
    }

    /// Everything that is still there, in the engine, on disk and as processes.
    pub async fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let engine = self.engine.inventory(LABEL_OWNER_PID, None).await.unwrap();
        left.extend(engine.into_iter().map(|resource| resource.name));
        for directory in [
            "state/smolvm/journal",
            "state/smolvm/shared",
            "launcher/bottles",
            "smolvm/vm",
        ] {
            let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("{directory}/{}", entry.file_name().display())));
        }
        left.extend(self.boot_processes());
        left
    }

    pub fn boot_processes(&self) -> Vec<String> {
        let own = self.path("smolvm/vm").display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let found = entries.filter_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (command.contains("_boot-vm") && command.contains(&own)).then_some(command)
        });
        found.collect()
    }

    pub fn calls(&self) -> String {
        std::fs::read_to_string(self.path("smolvm/calls")).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path("smolvm/delete.leaves"));
        for entry in std::fs::read_dir(self.path("smolvm/vm"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // Waiting for a line that never comes; this lets it end.
            let forever = entry.path().join("forever");
            let _ = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(forever)
                .map(|mut fifo| {
                    use std::io::Write;
                    fifo.write_all(b"\n")
                });
        }
    }
}

struct NoImages;

impl Source for NoImages {
    fn settings<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ImageSettings, BackendError>> {
        unreachable!("the tests' image is a directory")
    }

    fn export<'a>(&'a self, _: &'a str, _: &'a Labels, _: Pieces) -> BoxFuture<'a, Result<(), BackendError>> {
        unreachable!("the tests' image is a directory")
    }
}

/// What comes out of a program when its input is this and then ends.
pub async fn talk(streams: Streams, input: &[u8]) -> (String, String) {
    let (mut stdin, mut stdout, mut stderr) = (streams.stdin, streams.stdout, streams.stderr);
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (out_read, err_read) = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    out_read.unwrap();
    err_read.unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
