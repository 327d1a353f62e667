//! A cold launch of a bottle to its guest's first instruction, and its end to the last object's removal, against the same
//! objects made and removed by plain engine calls one after another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bottle_backend::{Backend, Resource, ResourceKind, Role};
use bottle_bench::{BUSYBOX, Samples, image, milliseconds, print};
use bottle_docker::{BuiltImage, Docker};
use bottle_launch::{LaunchOptions, Secrets, labels, launch};
use bottle_plan::{HostFacts, Plan, PrepareOptions, Topology, parse, prepare};
use bottle_policy::Tokens;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::EnvFilter;

/// Rounds of each topology; the two sides take turns.
const ROUNDS: usize = 12;

const MANIFEST: &str = "\
version: 1
bottles:
  bench:
    image: bench
    egress:
      allow: [ \"allowed.test\" ]
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `RUST_LOG=bottle_docker=debug` shows every call of the engine; without it nothing is formatted.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let parts =
        std::env::var_os("BOTTLE_PARTS_DIR").context("run this by `cargo xtask bench`, which builds the parts")?;
    let parts = PathBuf::from(parts);
    let backend: Arc<dyn Backend> = Arc::new(Docker::connect().await?);
    let bundle = image(&parts.join("bottle-bundle"), "bottle-bundle", "/bottle-bundle")?;
    let guest = image(Path::new(BUSYBOX), "bottle-bench-guest", "/bin/busybox")?;
    // Images are there before either side is measured.
    for image in [&bundle, &guest] {
        if backend.find_image(&image.reference).await?.is_none() {
            backend.load_image(&image.reference, image.archive.clone()).await?;
        }
    }
    let (mut rows, mut ends) = (Vec::new(), Vec::new());
    for topology in [Topology::Sealed, Topology::Routed] {
        let (mut plain, mut launched, mut ready) = (Samples::default(), Samples::default(), Samples::default());
        let (mut plain_end, mut closed) = (Samples::default(), Samples::default());
        for round in 0..ROUNDS {
            let (took, end) = by_hand(&backend, &plan(&backend, topology, round * 2, &bundle, &guest).await?).await?;
            plain.push(took);
            plain_end.push(end);
            let figures = by_launch(
                &backend,
                plan(&backend, topology, round * 2 + 1, &bundle, &guest).await?,
            )
            .await?;
            launched.push(figures.first_instruction);
            ready.push(figures.ready);
            closed.push(figures.close);
        }
        let (a, b) = (plain.median(), launched.median());
        rows.push(vec![
            format!("{topology:?}").to_lowercase(),
            milliseconds(a),
            milliseconds(b),
            format!("{:.2} x", b.as_secs_f64() / a.as_secs_f64()),
            milliseconds(launched.quantile(0.9)),
            milliseconds(ready.median()),
        ]);
        let (a, b) = (plain_end.median(), closed.median());
        ends.push(vec![
            format!("{topology:?}").to_lowercase(),
            milliseconds(a),
            milliseconds(b),
            format!("{:.2} x", b.as_secs_f64() / a.as_secs_f64()),
            milliseconds(closed.quantile(0.9)),
        ]);
    }
    print(
        "launch to the guest's first instruction",
        &[
            "topology",
            "plain engine calls, p50",
            "bottle, p50",
            "ratio",
            "bottle, p90",
            "bundle ready, p50",
        ],
        &rows,
    );
    print(
        "end of a bottle until nothing of it is left",
        &[
            "topology",
            "plain engine calls, p50",
            "bottle, p50",
            "ratio",
            "bottle, p90",
        ],
        &ends,
    );
    Ok(())
}

async fn plan(
    backend: &Arc<dyn Backend>,
    topology: Topology,
    round: usize,
    bundle: &BuiltImage,
    guest: &BuiltImage,
) -> anyhow::Result<Plan> {
    let manifest = parse("bench", MANIFEST)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut facts = HostFacts {
        home: "/".to_owned(),
        slug_entropy: (now ^ round as u64).to_be_bytes(),
        ..HostFacts::default()
    };
    backend.facts().await?.add_to(&mut facts);
    let options = PrepareOptions {
        topology: Some(topology),
        command: ["/bin/busybox", "sh", "-c", "echo first; exec /bin/busybox sleep 60"]
            .map(String::from)
            .to_vec(),
        bundle_image: bundle.reference.clone(),
        image: Some(guest.reference.clone()),
        user: Some("1000:1000".to_owned()),
        ..PrepareOptions::default()
    };
    Ok(prepare(&manifest, "bench", &facts, &options)?)
}

/// What one launch took.
struct Figures {
    /// To the guest's first output.
    first_instruction: Duration,
    /// The bundle's own time to be ready.
    ready: Duration,
    /// To the removal of everything.
    close: Duration,
}

/// Launches a bottle and ends it.
async fn by_launch(backend: &Arc<dyn Backend>, plan: Plan) -> anyhow::Result<Figures> {
    let state = tempfile::tempdir()?;
    let mut options = LaunchOptions::new("bench", state.path());
    options.guest_stdio = true;
    let begun = Instant::now();
    let bottle = launch(plan, Secrets::none(), Arc::clone(backend), options).await?;
    let mut streams = bottle.guest_streams().context("expected the guest's streams")?;
    let mut first = [0u8; 5];
    streams.stdout.read_exact(&mut first).await?;
    let first_instruction = begun.elapsed();
    ensure!(&first == b"first", "expected the guest's first line, got {first:?}");
    let ready = Duration::from_millis(bottle.ready_after_ms());
    let begun = Instant::now();
    let report = bottle.close().await;
    let close = begun.elapsed();
    ensure!(
        report.is_clean(),
        "teardown left something: {:?}",
        report.errors().collect::<Vec<_>>()
    );
    Ok(Figures {
        first_instruction,
        ready,
        close,
    })
}

/// Makes and removes the objects of a plan one after another; time to the guest's first output, and of the removal.
async fn by_hand(backend: &Arc<dyn Backend>, plan: &Plan) -> anyhow::Result<(Duration, Duration)> {
    let labels = labels(&plan.slug, "bench", "bench");
    let begun = Instant::now();
    let mut subnets = BTreeMap::new();
    for network in &plan.networks {
        subnets.insert(
            network.name.clone(),
            backend.create_network(network, &labels).await?.subnet,
        );
    }
    for volume in &plan.volumes {
        backend.create_volume(volume, &labels).await?;
    }
    let bundle = backend.create(Role::Bundle, &plan.bundle, &labels, &subnets).await?;
    let mut streams = backend.attach(Role::Bundle, &bundle, false).await?;
    backend.start(Role::Bundle, &bundle).await?;
    // Without its configuration the bundle does not publish the guest's init.
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
    let guest = backend.create(Role::Guest, &plan.guest, &labels, &subnets).await?;
    let mut guest_streams = backend.attach(Role::Guest, &guest, false).await?;
    backend.start(Role::Guest, &guest).await?;
    let mut first = [0u8; 5];
    guest_streams.stdout.read_exact(&mut first).await?;
    let took = begun.elapsed();
    let begun = Instant::now();
    for (kind, name, id) in [
        (ResourceKind::Container, &plan.guest.name, guest),
        (ResourceKind::Container, &plan.bundle.name, bundle),
    ] {
        remove(backend, kind, name, id).await?;
    }
    for network in &plan.networks {
        remove(backend, ResourceKind::Network, &network.name, network.name.clone()).await?;
    }
    for volume in &plan.volumes {
        remove(backend, ResourceKind::Volume, &volume.name, volume.name.clone()).await?;
    }
    Ok((took, begun.elapsed()))
}

async fn remove(backend: &Arc<dyn Backend>, kind: ResourceKind, name: &str, id: String) -> anyhow::Result<()> {
    let resource = Resource {
        kind,
        name: name.to_owned(),
        id,
        labels: BTreeMap::new(),
    };
    Ok(backend.remove(&resource).await?)
}
