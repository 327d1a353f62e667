//! The walls: a throw-away bottle of each topology, looked at from inside, from the host and from its proxy.
//!
//! A dozen attempts in a few seconds, no substitute for the conformance suite. What is claimed of the host is claimed only
//! after the same listener was reached from the host itself.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bottle_backend::{Backend, EngineFacts};
use bottle_launch::{Bottle, BundleImage, LaunchOptions, Secrets, launch};
use bottle_plan::{HostFacts, Plan, PrepareOptions, Topology, parse, prepare};
use bottle_policy::{BundleEvent, DecisionVerdict};
use tokio::io::AsyncReadExt;

use super::Finding;
use crate::failure::Failure;
use crate::host::state_dir;
use crate::parts::bundle_image;

/// The bottle: nothing allowed, one token that it must not see.
const MANIFEST: &str = "\
version: 1
bottles:
  doctor:
    image: replaced
    user: \"65534:65534\"
    limits: { memory: 64MiB, cpus: 1, pids: 64 }
    egress:
      routes:
        - { host: doctor.invalid, auth: { scheme: bearer, token_env: BOTTLE_DOCTOR_TOKEN } }
";
const TOKEN: &str = "BOTTLE_DOCTOR_TOKEN";

/// What the proxy must refuse: a host that nobody allowed, and where clouds keep credentials.
const REFUSED: [&str; 2] = ["not-allowed.invalid:443", "169.254.169.254:80"];

/// Most addresses of the host that are tried: every one may cost a time-out.
const ADDRESSES: usize = 4;

/// How long the guest may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Launches both, looks, removes both.
pub async fn walls(engine: &Arc<dyn Backend>) -> Result<Vec<Finding>, Failure> {
    let begun = Instant::now();
    let witness = Witness::start().map_err(Failure::system("listening on the host"))?;
    let facts = engine.facts().await?;
    let image = bundle_image(&facts.platform)?;
    let plan = |topology| plan(topology, &image.reference, facts.clone(), &witness);
    let (sealed, routed) = (plan(Topology::Sealed)?, plan(Topology::Routed)?);
    let (one, other) = tokio::join!(
        looked_at(engine, sealed, &image, &witness),
        looked_at(engine, routed, &image, &witness)
    );
    let mut findings = one?;
    findings.extend(other?);
    let reached = witness.reached();
    if reached > 0 {
        findings.push(Finding::wrong(
            "walls: host",
            format!("a listener of the host was reached {reached} times from a bottle"),
            "launch nothing that matters here; `bottle-conform run` shows which way it went",
        ));
    }
    findings.push(Finding::good(
        "walls: time",
        format!("{:.1} s, launches included", begun.elapsed().as_secs_f64()),
    ));
    Ok(findings)
}

fn plan(topology: Topology, image: &str, engine: EngineFacts, witness: &Witness) -> Result<Plan, Failure> {
    let mut command = vec!["/run/bottle/bottle-guest".to_owned(), "--check".to_owned()];
    if topology == Topology::Sealed {
        command.push("lonely".to_owned());
    }
    command.push(format!("secret={TOKEN}"));
    command.extend(REFUSED.map(|target| format!("proxied={target}")));
    command.extend(witness.addresses.iter().map(|address| format!("tcp={address}")));
    let mut slug_entropy = [0; 8];
    getrandom::fill(&mut slug_entropy)
        .map_err(|error| Failure::system("reading randomness")(std::io::Error::other(error.to_string())))?;
    let mut facts = HostFacts {
        slug_entropy,
        ..HostFacts::default()
    };
    engine.add_to(&mut facts);
    let options = PrepareOptions {
        topology: Some(topology),
        command,
        bundle_image: image.to_owned(),
        // Its one file is enough: what runs comes from the bundle.
        image: Some(image.to_owned()),
        ..PrepareOptions::default()
    };
    let refused = |error: String| Failure::Usage(format!("the doctor's own manifest: {error}"));
    let manifest = parse("doctor", MANIFEST).map_err(|error| refused(error.to_string()))?;
    prepare(&manifest, "doctor", &facts, &options).map_err(|error| refused(error.to_string()))
}

async fn looked_at(
    engine: &Arc<dyn Backend>,
    plan: Plan,
    image: &BundleImage,
    witness: &Witness,
) -> Result<Vec<Finding>, Failure> {
    let subject = match plan.topology {
        Topology::Sealed => "walls: sealed",
        Topology::Routed => "walls: routed",
    };
    let mut secrets = Secrets::none();
    secrets.insert(TOKEN, "a value that no guest may have".to_owned());
    let mut options = LaunchOptions::new(format!("doctor-{}", plan.slug), state_dir());
    options.bundle_image = Some(image.clone());
    options.guest_stdio = true;
    let bottle = launch(plan, secrets, engine.clone(), options).await?;
    let said = tokio::time::timeout(LIMIT, output(&bottle)).await;
    let refusals = decided(&bottle).await;
    let report = bottle.close().await;
    let mut findings = match said {
        Ok(said) => judged(subject, &said, witness.addresses.len()),
        Err(_) => vec![Finding::wrong(
            subject,
            "the guest did not end",
            "run `bottle --verbose doctor`, and look at the engine's own log",
        )],
    };
    for target in REFUSED
        .iter()
        .filter(|target| !refusals.contains(&(**target).to_owned()))
    {
        let mend = "look at `bottle logs` of a bottle of yours: every refusal belongs there";
        findings.push(Finding::wrong(
            subject,
            format!("the proxy recorded no refusal of {target}"),
            mend,
        ));
    }
    for (step, problem) in report.errors() {
        let mend = "`bottle cleanup` will try again";
        findings.push(Finding::wrong(
            subject,
            format!("{step} is left behind: {problem}"),
            mend,
        ));
    }
    Ok(findings)
}

async fn output(bottle: &Bottle) -> String {
    let mut text = Vec::new();
    if let Some(mut streams) = bottle.guest_streams() {
        drop(streams.stdin);
        let mut errors = Vec::new();
        let (out, err) = tokio::join!(
            streams.stdout.read_to_end(&mut text),
            streams.stderr.read_to_end(&mut errors)
        );
        if out.is_err() || err.is_err() {
            tracing::debug!("the guest's output ended early");
        }
        text.extend(errors);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// What the proxy recorded as refused. Records come a moment after the answers.
async fn decided(bottle: &Bottle) -> Vec<String> {
    let mut events = bottle.events();
    let mut refusals: Vec<String> = bottle.event_log().iter().filter_map(refusal).collect();
    let rest = async {
        while !REFUSED.iter().all(|target| refusals.contains(&(*target).to_owned())) {
            match events.recv().await {
                Ok(event) => refusals.extend(refusal(&event)),
                Err(_) => return,
            }
        }
    };
    // What is missing then is told as missing.
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    refusals
}

fn refusal(event: &BundleEvent) -> Option<String> {
    match event {
        BundleEvent::Decision(record) if record.verdict == DecisionVerdict::Deny => {
            Some(format!("{}:{}", record.host.as_deref()?, record.port?))
        }
        _ => None,
    }
}

/// What the guest met: one finding when all held, one for each that did not.
fn judged(subject: &str, said: &str, addresses: usize) -> Vec<Finding> {
    let mut held = Vec::new();
    let mut findings = Vec::new();
    for line in said.lines() {
        let mut fields = line.split('\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some("held"), Some(_)) => held.push(name.to_owned()),
            (Some(name), Some("open"), Some(met)) => findings.push(Finding::wrong(
                subject,
                format!("{name} does not hold: {met}"),
                "launch nothing that matters here; an engine of another make or an own seccomp profile may be the cause",
            )),
            _ => findings.push(Finding::wrong(
                subject,
                format!("the guest said something else: {line}"),
                "run `bottle --verbose doctor`",
            )),
        }
    }
    // Eight that are always there, the token, the proxy's, the host's.
    let expected = 9 + REFUSED.len() + addresses;
    if held.len() + findings.len() < expected {
        let found = format!(
            "{} of at least {expected} checks were made",
            held.len() + findings.len()
        );
        findings.push(Finding::wrong(subject, found, "run `bottle --verbose doctor`"));
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            subject,
            format!("{} held: {}", held.len(), held.join(", ")),
        ));
    }
    findings
}

/// A listener on every address of the host.
struct Witness {
    addresses: Vec<SocketAddr>,
    count: Arc<AtomicUsize>,
}

/// What the doctor itself says to its listener.
const CONTROL: &[u8] = b"control";

impl Witness {
    fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut greeting = [0; CONTROL.len()];
                let is_control = stream.set_read_timeout(Some(Duration::from_millis(200))).is_ok()
                    && stream.read_exact(&mut greeting).is_ok()
                    && greeting == CONTROL;
                if !is_control {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
        let reachable = |address: &SocketAddr| {
            use std::io::Write as _;
            TcpStream::connect_timeout(address, Duration::from_millis(300))
                .and_then(|mut stream| stream.write_all(CONTROL))
                .is_ok()
        };
        let addresses: Vec<SocketAddr> = local_addresses(&table)
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .filter(reachable)
            .take(ADDRESSES)
            .collect();
        if addresses.is_empty() {
            return Err(std::io::Error::other(
                "no address of this machine leads to its own listener",
            ));
        }
        Ok(Self { addresses, count })
    }

    fn reached(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// The host's own addresses in `/proc/net/fib_trie`, loopback last: a leaf line with the address, then `/32 host LOCAL`.
fn local_addresses(table: &str) -> Vec<IpAddr> {
    let mut leaf: Option<Ipv4Addr> = None;
    let mut found: Vec<Ipv4Addr> = Vec::new();
    for line in table.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found.sort_by_key(|address| address.is_loopback());
    found.into_iter().map(IpAddr::V4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn addresses_of_the_host() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.0.2.15\n        /32 host LOCAL\n";
        let expected: Vec<IpAddr> = ["10.0.2.15", "127.0.0.1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(local_addresses(table), expected);
        assert!(local_addresses("").is_empty());
    }

    #[test]
    fn what_is_missing_or_open_is_wrong() {
        let all = |count: usize| "x\theld\tnone\n".repeat(count);
        assert_eq!(judged("walls", &all(12), 1)[0].level, Level::Good);
        assert_eq!(judged("walls", &all(11), 1)[0].level, Level::Wrong);
        assert_eq!(judged("walls", "", 1)[0].level, Level::Wrong);
        let findings = judged("walls", &(all(11) + "y\topen\tconnected\n"), 1);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].found, "y does not hold: connected");
        assert_eq!(judged("walls", &(all(12) + "words\n"), 1)[0].level, Level::Wrong);
    }

    #[test]
    fn the_doctors_own_bottles_can_be_planned() {
        let facts = EngineFacts {
            engine: "fake 1".to_owned(),
            api: "1.41".to_owned(),
            platform: "linux/amd64".to_owned(),
            kernel: "0".to_owned(),
            subnets: Vec::new(),
            shares_kernel: true,
            relay: None,
            processors: Some(1),
        };
        let witness = Witness::start().unwrap();
        for topology in [Topology::Sealed, Topology::Routed] {
            plan(topology, "bottle-bundle:0", facts.clone(), &witness).unwrap();
        }
        assert_eq!(witness.reached(), 0, "its own connections are not counted");
    }
}
