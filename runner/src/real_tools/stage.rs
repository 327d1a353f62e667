//! The surroundings of a tool: the lab, a bottle of the tools' image, and the shelf.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle_backend::{Backend, ExecSpec};
use bottle_docker::Docker;
use bottle_launch::{Bottle, LaunchOptions, Provided, Secrets, launch};
use bottle_plan::{HostFacts, Plan, PrepareOptions, Topology, prepare};
use bottle_policy::{BundleEvent, DecisionRecord};
use probe_spec::{Answer, Leak, Nonce, world};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, MutexGuard};

use crate::lab::{Lab, LabOptions};
use crate::leaks;
use crate::sightings::{fresh_nonce, random};

/// Which image has the tools; set by `cargo xtask test`.
const IMAGE: &str = "BOTTLE_TEST_TOOLS_IMAGE";

/// The variable whose value is the token of the agent's route.
pub const TOKEN_ENV: &str = "ANTHROPIC_API_KEY";

pub const MANIFEST: &str = include_str!("../../../fixtures/manifests/tools.yaml");
const SHELF: &str = include_str!("../../../fixtures/tools/shelf.sh");

/// Longest time for a tool.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One stage at a time: a witness that waits for a turn on the processor seems deaf.
static TURN: Mutex<()> = Mutex::const_new(());

/// A lab in which bottles of the tools' image are launched.
pub struct Stage {
    pub lab: Lab,
    image: String,
    _stop: tokio::sync::watch::Sender<bool>,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// Opens it; `None` when the operator asked for tests without an engine.
    pub async fn open() -> Option<Self> {
        if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() {
            eprintln!("left out: BOTTLE_TEST_NO_ENGINE is set");
            return None;
        }
        let image = std::env::var(IMAGE).unwrap_or_else(|_| {
            panic!("{IMAGE} is not set: `cargo xtask test` makes the image with the tools and sets it")
        });
        let turn = TURN.lock().await;
        let backend: Arc<dyn Backend> = Arc::new(Docker::connect().await.unwrap());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let platform = backend.facts().await.unwrap().platform;
        let options = LabOptions {
            run: fresh_nonce().as_str()[2..10].to_owned(),
            engine: backend.clone(),
            backend,
            parts: crate::parts::parts(&platform).unwrap(),
            program: None,
            images_of_machines: None,
            stop: stopped,
        };
        let lab = Lab::open(options).await.unwrap();
        Some(Self {
            lab,
            image,
            _stop: stop,
            _turn: turn,
        })
    }

    /// Takes everything down; nothing may stay.
    pub async fn close(self) {
        assert_eq!(self.lab.close().await, Vec::<String>::new());
    }

    /// Launches a bottle that waits; a leaky one has another way out.
    pub async fn launch(&self, topology: Topology, is_leaky: bool) -> Staged {
        let mut plan = self.plan(MANIFEST, topology, None, &["sleep", "infinity"]).await;
        if is_leaky {
            leaks::take_away(&self.lab, Leak::Bridge, &mut plan).await.unwrap();
        }
        self.launch_plan(plan, fresh_nonce(), Vec::new(), false).await
    }

    /// The plan that `bottle run` would make, with the stand-in internet around it.
    pub async fn plan(&self, manifest: &str, topology: Topology, agent: Option<&str>, command: &[&str]) -> Plan {
        let manifest = bottle_plan::parse("fixtures/manifests/tools.yaml", manifest).unwrap();
        let mut facts = HostFacts {
            home: "/nonexistent".to_owned(),
            slug_entropy: random(),
            ..HostFacts::default()
        };
        self.lab.backend.facts().await.unwrap().add_to(&mut facts);
        let options = PrepareOptions {
            topology: Some(topology),
            agent: agent.map(str::to_owned),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            system_trust: true,
            stdin: true,
            outer_network: Some(self.lab.network.clone()),
            resolver: Some(vec![format!("{}:53", self.lab.outside_address)]),
            extra_upstream_roots: vec![self.lab.outside_ca.clone()],
            public_roots: false,
            bundle_image: self.lab.images.bundle.reference.clone(),
            image: Some(self.image.clone()),
            ..PrepareOptions::default()
        };
        prepare(&manifest, "tools", &facts, &options).unwrap()
    }

    /// Launches a plan whose route has this token.
    pub async fn launch_plan(&self, plan: Plan, token: Nonce, provided: Vec<Provided>, stdio: bool) -> Staged {
        let mut secrets = Secrets::none();
        secrets.insert(TOKEN_ENV, token.to_string());
        let mut options = LaunchOptions::new(self.lab.run.clone(), self.lab.state_dir());
        options.provided = provided;
        options.guest_stdio = stdio;
        let bottle = launch(plan, secrets, self.lab.backend.clone(), options).await.unwrap();
        let bottle = Arc::new(bottle);
        self.lab.adopt(bottle.clone());
        Staged { bottle }
    }

    /// What the tools of the image make for their own kind: paths and contents.
    pub async fn shelf(&self, bottle: &Staged) -> Vec<(String, Vec<u8>)> {
        let (code, archive, errors) = bottle.exec(SHELF, "").await;
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&errors));
        let mut archive = tar::Archive::new(&*archive);
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if entry.header().entry_type().is_file() {
                files.push((path.trim_start_matches("./").to_owned(), content));
            }
        }
        assert!(files.len() > 10, "{}", files.len());
        files
    }

    /// Has origins serve the shelf below a nonce of its own.
    pub async fn put_on_shelf(&self, nonce: &str, base: &str, shelf: &[(String, Vec<u8>)]) {
        for (path, content) in shelf {
            let content = match std::str::from_utf8(content) {
                Ok(text) => text.replace("@BASE@", base).into_bytes(),
                Err(_) => content.clone(),
            };
            let path = path.strip_suffix("index.html").unwrap_or(path);
            let answer = Answer {
                path: format!("{}{nonce}/{path}", world::SHELF),
                given: Vec::new(),
                kind: kind(path).to_owned(),
                body: STANDARD.encode(content),
            };
            assert!(self.lab.outside.answer(answer).await);
        }
        // Orders are followed one after another: when the mark comes, all are.
        assert!(self.lab.mark().await);
    }
}

/// Content types that tools insist on.
fn kind(path: &str) -> &'static str {
    match path {
        _ if path.ends_with('/') => "text/html",
        "npm/bottle-sample" | "cargo/config.json" => "application/json",
        _ if path.ends_with(".txt") => "text/plain",
        _ => "application/octet-stream",
    }
}

/// A bottle of the tools' image.
pub struct Staged {
    pub bottle: Arc<Bottle>,
}

/// How a tool ended and what it said.
pub struct Ran {
    pub code: i64,
    pub said: String,
}

impl Staged {
    /// Runs a script in an empty directory, with its one argument.
    pub async fn run(&self, script: &str, argument: &str) -> Ran {
        let script = format!("exec 2>&1; cd \"$(mktemp -d)\"\n{script}");
        let (code, stdout, stderr) = self.exec(&script, argument).await;
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        Ran { code, said }
    }

    /// What a script prints that reads `input`.
    pub async fn search(&self, script: &str, input: &str) -> String {
        let (code, stdout, stderr) = self.fed(script, "", input).await;
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Runs a script; exit code (124: it took too long), output, errors.
    pub async fn exec(&self, script: &str, argument: &str) -> (i64, Vec<u8>, Vec<u8>) {
        self.fed(script, argument, "").await
    }

    async fn fed(&self, script: &str, argument: &str, input: &str) -> (i64, Vec<u8>, Vec<u8>) {
        let limit = PATIENCE.as_secs().to_string();
        let command = ["timeout", "-k", "1", &limit, "sh", "-c", script, "sh", argument];
        let spec = ExecSpec {
            command: command.map(str::to_owned).into(),
            ..ExecSpec::default()
        };
        let exec = self.bottle.exec(&spec).await.unwrap();
        let mut stdin = exec.streams.stdin;
        stdin.write_all(input.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
        let (mut stdout, mut stderr) = (exec.streams.stdout, exec.streams.stderr);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (code, out_read, err_read) =
            tokio::join!(exec.exit, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        out_read.unwrap();
        err_read.unwrap();
        (code.unwrap(), out, err)
    }

    /// What its bundle decided so far.
    pub fn decisions(&self) -> Vec<DecisionRecord> {
        let events = self.bottle.event_log().into_iter();
        events
            .filter_map(|event| match event {
                BundleEvent::Decision(decision) => Some(decision),
                _ => None,
            })
            .collect()
    }

    /// The bundle's address on the way out.
    pub fn outer_address(&self, stage: &Stage) -> String {
        let addresses = &self.bottle.bundle().addresses[&stage.lab.network];
        addresses.iter().find(|address| address.is_ipv4()).unwrap().to_string()
    }
}
