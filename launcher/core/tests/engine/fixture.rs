//! A tiny bottle: a busybox shell plays the bundle, another one the guest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bottle_backend::{Backend, Exec, ExecSpec};
use bottle_docker::{BuiltImage, Docker, ImageFile, ImageSettings, build_image};
use bottle_launch::{BundleImage, LaunchOptions, Secrets};
use bottle_plan::{
    Attachment, BackendKind, ContainerPlan, Hardening, Lifecycle, Limits, Mount, MountSource, NetworkMode, NetworkPlan,
    PLAN_VERSION, Plan, Subnet, Topology, VolumePlan,
};
use bottle_policy::{BundleConfig, CONFIG_VERSION, SHARED_DIR};
use tokio::io::AsyncReadExt;

/// Reads the two lines, shows the guest what it got (never a token's value), says ready, lives as long as its input.
const BUNDLE: &str = r#"
read -r config
read -r tokens
echo "bundle of $HOSTNAME starts" >&2
printf '%s' "$config" > /run/bottle/config
printf '%s' "${#tokens}" > /run/bottle/tokens-length
echo 'this is no event'
echo '{"event":"ready","bottle":"test","ca_pem":"PEM","after_ms":7}'
exec /bin/busybox cat > /dev/null
"#;

/// The engine, or `None` when the environment says that there is none.
///
/// Panics when the engine does not answer: a test that quietly does nothing proves nothing.
pub async fn engine(leaves_out: &str) -> Option<Arc<Docker>> {
    match Docker::connect().await {
        Ok(docker) => Some(Arc::new(docker)),
        Err(error) if std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some() => {
            println!("left out, no engine ({error}): {leaves_out}");
            None
        }
        Err(error) => panic!("{error}. To leave out the tests that need an engine, set BOTTLE_TEST_NO_ENGINE=1"),
    }
}

pub fn image() -> BuiltImage {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("a static busybox at /bin/busybox (Debian: apt-get install busybox-static)");
    let files = [
        ImageFile {
            path: "bin/busybox",
            mode: 0o755,
            bytes: &busybox,
        },
        ImageFile {
            path: "bin/sh",
            mode: 0o755,
            bytes: &busybox,
        },
        ImageFile {
            path: "etc/passwd",
            mode: 0o644,
            bytes: b"root:x:0:0::/:/bin/sh\n",
        },
    ];
    let settings = ImageSettings {
        entrypoint: vec!["/bin/sh".to_owned()],
        env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        ..Default::default()
    };
    build_image("bottle-test-shell", &files, &settings).unwrap()
}

pub fn slug() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{}-{count}", std::process::id())
}

pub fn container(name: String, image: &str, script: &str) -> ContainerPlan {
    ContainerPlan {
        name,
        image: image.to_owned(),
        entrypoint: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        command: Vec::new(),
        env: BTreeMap::from([("TERM".to_owned(), "dumb".to_owned())]),
        user: None,
        workdir: None,
        hostname: Some("half".to_owned()),
        tty: false,
        stdin: true,
        network: NetworkMode::None,
        dns: Vec::new(),
        extra_hosts: Vec::new(),
        publish: Vec::new(),
        mounts: Vec::new(),
        tmpfs: vec![("/tmp".to_owned(), 1 << 20, "mode=1777,nosuid,nodev".to_owned())],
        hardening: Hardening::default(),
        limits: Limits {
            memory: Some(64 << 20),
            milli_cpus: Some(500),
            pids: Some(64),
            open_files: Some(256),
        },
        auto_remove: true,
    }
}

/// A sealed bottle whose guest runs `script` in the test image.
pub fn sealed(script: &str) -> Plan {
    sealed_of(&image().reference, script)
}

/// A sealed bottle whose guest runs `script`.
pub fn sealed_of(image: &str, script: &str) -> Plan {
    let slug = slug();
    let volume = format!("bottle-{slug}-shared");
    let shared = |read_only| Mount {
        source: MountSource::Volume(volume.clone()),
        target: SHARED_DIR.to_owned(),
        read_only,
    };
    let mut bundle = container(format!("bottle-{slug}-bundle"), image, BUNDLE);
    bundle.mounts = vec![shared(false)];
    let mut guest = container(format!("bottle-{slug}-guest"), image, script);
    guest.mounts = vec![shared(true)];
    Plan {
        version: PLAN_VERSION,
        bottle: "test".to_owned(),
        backend: BackendKind::Docker,
        topology: Topology::Sealed,
        networks: Vec::new(),
        volumes: vec![VolumePlan {
            name: volume,
            role: "shared-volume".to_owned(),
            tmpfs_bytes: Some(16 << 20),
        }],
        bundle,
        config: config(&slug),
        token_env: vec!["TEST_TOKEN".to_owned()],
        guest,
        state: Vec::new(),
        workspace: None,
        trust: Vec::new(),
        agent: None,
        lifecycle: Lifecycle::default(),
        slug,
    }
}

/// By way of JSON: a build with removable controls has one more field, with a default.
fn config(slug: &str) -> BundleConfig {
    let limits = bottle_policy::WireLimits::default();
    let config = serde_json::json!({
        "version": CONFIG_VERSION, "bottle": slug, "daemons": [], "listen": [], "publish": SHARED_DIR,
        "policy": { "allow": [] }, "routes": [], "resolver": "system", "upstream_roots": [], "public_roots": false,
        "lease": true, "limits": limits,
    });
    serde_json::from_value(config).unwrap()
}

/// A sealed plan turned into a routed one: an inner network without the host, an outer one with it.
pub fn routed(script: &str) -> Plan {
    routed_of(&image().reference, script)
}

/// As [`routed`], with any image.
pub fn routed_of(image: &str, script: &str) -> Plan {
    let mut plan = sealed_of(image, script);
    let inner = format!("bottle-{}-inner", plan.slug);
    let outer = format!("bottle-{}-outer", plan.slug);
    let number = 100 + std::process::id() % 100;
    let subnets = |third: u32| {
        (0..4)
            .map(|step| {
                let third = (third + step) % 256;
                Subnet {
                    cidr: format!("10.{number}.{third}.0/24"),
                    gateway: Some(format!("10.{number}.{third}.1").parse().unwrap()),
                    members_gateway: None,
                }
            })
            .collect::<Vec<_>>()
    };
    let third = std::process::id() / 100 * 16;
    plan.topology = Topology::Routed;
    plan.networks = vec![
        NetworkPlan {
            name: inner.clone(),
            role: "inner-network".to_owned(),
            internal: true,
            host_absent: true,
            masquerade: false,
            subnets: subnets(third),
            ipv6: None,
        },
        NetworkPlan {
            name: outer.clone(),
            role: "outer-network".to_owned(),
            internal: false,
            host_absent: true,
            masquerade: false,
            subnets: subnets(third + 8),
            ipv6: None,
        },
    ];
    let attachment = |network: &str, number, aliases: &[&str]| Attachment {
        network: network.to_owned(),
        host_number: number,
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
    };
    plan.bundle.network = NetworkMode::Networks(vec![
        attachment(&inner, Some(2), &["bundle"]),
        attachment(&outer, None, &[]),
    ]);
    plan.guest.network = NetworkMode::Networks(vec![attachment(&inner, Some(3), &[])]);
    plan.guest.dns = vec![IpAddr::from([127, 0, 0, 1])];
    plan.guest.extra_hosts = vec![("bundle.test".to_owned(), format!("10.{number}.0.2"))];
    plan
}

pub fn secrets() -> Secrets {
    let mut secrets = Secrets::none();
    secrets.insert("TEST_TOKEN", "a-token-of-the-test".to_owned());
    secrets
}

pub fn options(state: &Path) -> LaunchOptions {
    let image = image();
    let mut options = LaunchOptions::new("test-run", state);
    options.bundle_image = Some(BundleImage::ready(image.reference, image.archive));
    options
}

pub fn shell(script: &str) -> ExecSpec {
    ExecSpec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

/// Exit code, output and errors of an exec whose input ends at once.
pub async fn outcome(exec: Exec) -> (i64, String, String) {
    let Exec { streams, exit, .. } = exec;
    drop(streams.stdin);
    let (mut stdout, mut stderr) = (streams.stdout, streams.stderr);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (code, out_read, err_read) = tokio::join!(exit, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    out_read.unwrap();
    err_read.unwrap();
    (
        code.unwrap(),
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

/// What the engine has of this bottle.
pub async fn left(backend: &dyn Backend, slug: &str) -> Vec<String> {
    let found = backend.inventory(bottle_plan::LABEL_SLUG, Some(slug)).await.unwrap();
    found.into_iter().map(|resource| resource.name).collect()
}
