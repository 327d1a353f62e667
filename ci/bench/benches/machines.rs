//! A launch of a bottle whose guest is a machine, to the guest's first instruction, against the same machine made, started and
//! entered by smolvm alone, and the bundle made by the engine alone.
//!
//! `cargo xtask bench machines` runs this where smolvm works: on this machine, or in the emulated one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use bottle_backend::{Backend, Resource, ResourceKind, Role};
use bottle_bench::{Samples, image, milliseconds, print};
use bottle_docker::{BuiltImage, Docker};
use bottle_launch::{LaunchOptions, Secrets, labels, launch};
use bottle_plan::{BackendKind, HostFacts, Limits, Plan, PrepareOptions, Topology, parse, prepare};
use bottle_policy::Tokens;
use bottle_smolvm::{Settings, Smolvm, step_back};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Rounds of each topology; the sides take turns.
const ROUNDS: usize = 5;
/// How often a machine by smolvm alone is tried: an emulated one does not always come up.
const TRIES: usize = 3;
/// Memory of a machine.
const MEMORY_MIB: u64 = 256;

const MANIFEST: &str = "version: 1\nbottles: { bench: { image: bench } }\n";

/// What all rounds have.
struct Site {
    directory: tempfile::TempDir,
    settings: Settings,
    smolvm: PathBuf,
    docker: Arc<dyn Backend>,
    machines: Arc<dyn Backend>,
    bundle: BuiltImage,
    guest: BuiltImage,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let mut rows = Vec::new();
    for topology in [Topology::Sealed, Topology::Routed] {
        let (mut plain, mut bundle, mut launched, mut beyond, mut closed) = (
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
            Samples::default(),
        );
        let mut calls = 0;
        for round in 0..=ROUNDS {
            let plan = site.plan(topology, round).await?;
            let log = site.calls_so_far()?;
            let (took, end) = site.by_launch(plan.clone()).await?;
            // What is called to end it comes after the first instruction; both are counted.
            calls = site.calls_so_far()? - log;
            let alone = site.bundle_alone(&plan).await?;
            let by_hand = site.by_hand().await?;
            // The first launch exports the image.
            if round > 0 {
                launched.push(took);
                closed.push(end);
                bundle.push(alone);
                // Of the same round: a machine is not as fast at every time.
                beyond.push(took.saturating_sub(alone));
                plain.push(by_hand);
            }
        }
        let (plain, beyond) = (plain.median(), beyond.median());
        rows.push(vec![
            format!("{topology:?}").to_lowercase(),
            milliseconds(plain),
            milliseconds(bundle.median()),
            milliseconds(launched.median()),
            format!("{:.2} x", beyond.as_secs_f64() / plain.as_secs_f64()),
            milliseconds(closed.median()),
            calls.to_string(),
        ]);
    }
    print(
        "launch of a machine to the guest's first instruction",
        &[
            "topology",
            "smolvm create, start, exec, p50",
            "bundle by plain engine calls, p50",
            "bottle, p50",
            "bottle without its bundle, of smolvm",
            "end, p50",
            "calls of smolvm, launch and end",
        ],
        &rows,
    );
    Ok(())
}

impl Site {
    async fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        // Machines' users pass through.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let smolvm = on_path("smolvm")?;
        let counting = directory.path().join("smolvm");
        let log = directory.path().join("calls");
        std::fs::write(
            &counting,
            format!(
                "#!/bin/sh\necho \"$*\" >>'{}'\nexec '{}' \"$@\"\n",
                log.display(),
                smolvm.display()
            ),
        )?;
        std::fs::set_permissions(&counting, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(log, "")?;
        let settings = Settings {
            program: Some(counting),
            state: directory.path().join("state"),
            cache: directory.path().join("cache"),
            ..Settings::from_env()
        };
        let docker = Arc::new(Docker::connect().await?);
        let machines = Smolvm::open(docker.clone(), docker.clone(), &settings).await?;
        let bundle = image(&on_path("bottle-bundle")?, "bottle-bundle", "/bottle-bundle")?;
        let guest = image(&on_path("busybox")?, "bottle-bench-guest", "/bin/busybox")?;
        for image in [&bundle, &guest] {
            if docker.find_image(&image.reference).await?.is_none() {
                docker.load_image(&image.reference, image.archive.clone()).await?;
            }
        }
        Ok(Self {
            directory,
            settings,
            smolvm,
            docker,
            machines: Arc::new(machines),
            bundle,
            guest,
        })
    }

    async fn plan(&self, topology: Topology, round: usize) -> anyhow::Result<Plan> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let mut facts = HostFacts {
            home: "/".to_owned(),
            slug_entropy: (now ^ round as u64).to_be_bytes(),
            ..HostFacts::default()
        };
        self.machines.facts().await?.add_to(&mut facts);
        facts.default_limits = Limits {
            memory: Some(MEMORY_MIB << 20),
            milli_cpus: Some(1000),
            ..facts.default_limits
        };
        let options = PrepareOptions {
            backend: Some(BackendKind::Smolmachines),
            topology: Some(topology),
            command: ["/bin/busybox", "sh", "-c", "echo first; exec /bin/busybox sleep 60"]
                .map(String::from)
                .to_vec(),
            bundle_image: self.bundle.reference.clone(),
            image: Some(self.guest.reference.clone()),
            user: Some("1000:1000".to_owned()),
            ..PrepareOptions::default()
        };
        Ok(prepare(&parse("bench", MANIFEST)?, "bench", &facts, &options)?)
    }

    /// Launches a bottle and ends it: time to the guest's first output, and of the end.
    async fn by_launch(&self, plan: Plan) -> anyhow::Result<(Duration, Duration)> {
        let mut options = LaunchOptions::new("bench", self.directory.path().join("launcher"));
        options.guest_stdio = true;
        let begun = Instant::now();
        let bottle = launch(plan, Secrets::none(), Arc::clone(&self.machines), options).await?;
        let mut streams = bottle.guest_streams().context("expected the guest's streams")?;
        let mut first = [0; 5];
        streams.stdout.read_exact(&mut first).await?;
        let took = begun.elapsed();
        ensure!(&first == b"first", "expected the guest's first line, got {first:?}");
        let begun = Instant::now();
        let report = bottle.close().await;
        let end = begun.elapsed();
        ensure!(
            report.is_clean(),
            "teardown left something: {:?}",
            report.errors().collect::<Vec<_>>()
        );
        Ok((took, end))
    }

    /// Makes the bundle of a plan until it is ready.
    async fn bundle_alone(&self, plan: &Plan) -> anyhow::Result<Duration> {
        let labels = labels(&plan.slug, "bench", "bench");
        let begun = Instant::now();
        let mut subnets = std::collections::BTreeMap::new();
        for network in &plan.networks {
            let made = self.docker.create_network(network, &labels).await?;
            subnets.insert(network.name.clone(), made.subnet);
        }
        for volume in &plan.volumes {
            self.docker.create_volume(volume, &labels).await?;
        }
        let bundle = self
            .docker
            .create(Role::Bundle, &plan.bundle, &labels, &subnets)
            .await?;
        let mut streams = self.docker.attach(Role::Bundle, &bundle, false).await?;
        self.docker.start(Role::Bundle, &bundle).await?;
        let lines = format!(
            "{}\n{}\n",
            serde_json::to_string(&plan.config)?,
            serde_json::to_string(&Tokens::default())?
        );
        streams.stdin.write_all(lines.as_bytes()).await?;
        streams.stdin.flush().await?;
        let mut ready = Vec::new();
        while !ready.ends_with(b"\n") {
            ready.push(streams.stdout.read_u8().await?);
        }
        let took = begun.elapsed();
        let networks = plan
            .networks
            .iter()
            .map(|network| (ResourceKind::Network, &network.name));
        let volumes = plan.volumes.iter().map(|volume| (ResourceKind::Volume, &volume.name));
        let things = [(ResourceKind::Container, &plan.bundle.name)]
            .into_iter()
            .chain(networks)
            .chain(volumes);
        for (kind, name) in things {
            let id = match kind {
                ResourceKind::Container => bundle.clone(),
                _ => name.clone(),
            };
            let resource = Resource {
                kind,
                name: name.clone(),
                id,
                labels: std::collections::BTreeMap::new(),
            };
            self.docker.remove(&resource).await?;
        }
        Ok(took)
    }

    /// The same machine by smolvm alone, on the same image: time to its first output.
    async fn by_hand(&self) -> anyhow::Result<Duration> {
        let images = self.settings.cache.join("images");
        let image = std::fs::read_dir(&images)
            .with_context(|| format!("expected the exported image in {}", images.display()))?
            .filter_map(|entry| Some(entry.ok()?.path().join("rootfs")))
            .find(|path| path.is_dir())
            .context("expected an exported image, found none")?;
        let (memory, image) = (MEMORY_MIB.to_string(), image.display().to_string());
        let size = ["--cpus", "1", "--mem", &memory];
        for attempt in 1..=TRIES {
            let begun = Instant::now();
            self.plain(&[&["create", "--name", "plain", "--image", &image], &size[..]].concat())
                .await?;
            let said = match self.plain(&["start", "--name", "plain"]).await {
                // Options first: what follows the dashes is the command.
                Ok(_) => {
                    self.plain(&["exec", "--name", "plain", "--", "/bin/busybox", "echo", "first"])
                        .await
                }
                Err(error) => Err(error),
            };
            let took = begun.elapsed();
            self.plain(&["delete", "--name", "plain", "-f"]).await?;
            match said {
                Ok(said) if said.starts_with(b"first") => return Ok(took),
                Ok(said) => bail!(
                    "expected the machine's first line, got {:?}",
                    String::from_utf8_lossy(&said)
                ),
                Err(error) => eprintln!("smolvm alone, try {attempt} of {TRIES}: {error:#}"),
            }
        }
        bail!("expected smolvm to start a machine by itself: it did not in {TRIES} tries")
    }

    /// A call of smolvm with machines of its own; its standard output.
    async fn plain(&self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let (options, command) = match words.iter().position(|word| *word == "--") {
            Some(at) => words.split_at(at),
            None => (words, &[][..]),
        };
        // Files, since a machine that was started holds its starter's pipes open.
        let said = ["stdout", "stderr"].map(|name| self.directory.path().join(name));
        let [stdout, stderr] = [std::fs::File::create(&said[0])?, std::fs::File::create(&said[1])?];
        let mut child = Command::new(&self.smolvm)
            .arg("machine")
            .args(options)
            .arg("--state-dir")
            .arg(self.directory.path().join("plain"))
            .args(command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        // As ours do: smolvm's own questions would else keep an emulated machine from ever coming up.
        if let (["start", ..], Some(id)) = (options, child.id()) {
            tokio::select! {
                () = step_back(i32::try_from(id)?) => {}
                _ = child.wait() => {}
            }
        }
        let status = child.wait().await?;
        ensure!(
            status.success(),
            "smolvm machine {words:?}: {status}: {}",
            std::fs::read_to_string(&said[1])?.trim()
        );
        Ok(std::fs::read(&said[0])?)
    }

    /// How often smolvm was called by bottles.
    fn calls_so_far(&self) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.directory.path().join("calls"))?;
        Ok(log.lines().count())
    }
}

fn on_path(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name));
    found
        .into_iter()
        .find(|path| Path::is_file(path))
        .with_context(|| format!("expected {name} on the path: run this by `cargo xtask bench machines`"))
}
