//! The guest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bottle_policy::{BundleConfig, Listen, SHARED_DIR};

use crate::places::below;
use crate::plan::{AgentPlan, Attachment, BackendKind, ContainerPlan, Hardening, Limits, NetworkMode, Topology};
use crate::prepare::agent;
use crate::prepare::egress::is_variable;
use crate::prepare::{GUEST_PROXY, Input, LEASE_SOCKET, PROXY_SOCKET, PlanError, option, shared_mount};

/// Both spellings are in use: curl reads only `http_proxy` in lower case, others only upper case.
pub(super) const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Empty on purpose. Every name goes to the proxy, which decides: a name excepted here would be dialled directly, into
/// nothing, and each tool reads such lists (suffixes, addresses, `localhost`) in its own way.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Variables by which tools find certificate authorities: OpenSSL and Go, Node.js, Python requests, curl, git, cargo, Deno,
/// pip.
const CA_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "PIP_CERT",
];

/// The guest's home unless its environment names another: an image's own is on the read-only root.
const HOME: &str = "/home/bottle";

const SMALLEST_MEMORY: u64 = 16 << 20;

/// What a guest finds in the place of a token: tools that refuse to start without a key start, and what they send is replaced
/// by egress.
pub fn placeholder(token_env: &str) -> String {
    format!("bottle-placeholder-{token_env}")
}

/// Whether a variable of a guest's environment is the bottle's own: it leads to the proxy, to its authority or to the agent's
/// files.
pub fn is_own_variable(name: &str) -> bool {
    PROXY_VARIABLES.contains(&name)
        || NO_PROXY_VARIABLES.contains(&name)
        || CA_VARIABLES.contains(&name)
        || agent::VARIABLES.contains(&name)
        || [super::trust::JAVA_VARIABLE, super::trust::NODE_VARIABLE].contains(&name)
}

/// `http://ADDRESS`, the form of the proxy variables.
pub(super) fn proxy_url(address: &str) -> String {
    format!("http://{address}")
}

pub(super) fn container(
    input: &Input<'_>,
    config: &BundleConfig,
    token_env: &[String],
) -> Result<(ContainerPlan, Option<AgentPlan>), PlanError> {
    let (bottle, options) = (input.bottle, input.options);
    let image = options.image.clone().unwrap_or_else(|| bottle.image.clone());
    if !is_reference(&image) {
        return Err(match &options.image {
            Some(image) => option("image", "an image reference", format!("`{image}`")),
            None => input.refuse("image", "an image reference such as `node:22-bookworm`"),
        });
    }
    if input.backend == BackendKind::Docker && is_path(&image) {
        let expected = "an image of the engine; a directory or an archive is for the backend `smolmachines`";
        return Err(input.refuse("image", expected));
    }
    let mut env = environment(input, config, token_env)?;
    let (agent, command) = agent::agent(input, &env)?;
    if let Some(agent) = &agent {
        let values = [&agent.copies[0].target, &agent.skills_dir];
        env.extend(
            agent::VARIABLES
                .into_iter()
                .map(str::to_owned)
                .zip(values.into_iter().cloned()),
        );
    }
    let user = user(input)?;
    let tmpfs = tmpfs(input, &env, user.as_deref())?;
    let network = match input.topology {
        Topology::Sealed => NetworkMode::None,
        Topology::Routed => NetworkMode::Networks(vec![Attachment {
            network: input.engine_name("inner"),
            host_number: None,
            aliases: Vec::new(),
        }]),
    };
    let container = ContainerPlan {
        name: input.engine_name("guest"),
        image,
        entrypoint: entrypoint(input, agent.as_ref()),
        command,
        env,
        user,
        workdir: workdir(input)?,
        hostname: Some(input.name.to_owned()),
        tty: options.tty,
        stdin: options.stdin,
        network,
        // Nobody. On an internal network the engine's resolver (127.0.0.11) would forward what it does not know to the
        // host's name servers, from the host's own namespace: names leave the bottle that way (CVE-2024-29018). A server
        // at loopback is asked in the guest's namespace, where none listens. It also keeps the host's list out of
        // the guest's resolv.conf.
        dns: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        extra_hosts: Vec::new(),
        publish: Vec::new(),
        mounts: vec![shared_mount(input, true)],
        tmpfs,
        hardening: Hardening {
            read_only_root: bottle.read_only,
            ..Hardening::default()
        },
        limits: limits(input)?,
        auto_remove: true,
    };
    Ok((container, agent))
}

/// `bottle-guest` from the shared volume is the first process in both topologies; only a sealed guest needs forwarders.
fn entrypoint(input: &Input<'_>, agent: Option<&AgentPlan>) -> Vec<String> {
    let mut entrypoint = vec![format!("{SHARED_DIR}/bottle-guest")];
    if input.topology == Topology::Sealed {
        let proxy = input.guest_socket(PROXY_SOCKET);
        entrypoint.extend(["--forward".to_owned(), format!("{GUEST_PROXY}={proxy}")]);
    }
    for copy in agent.iter().flat_map(|agent| &agent.copies) {
        entrypoint.extend(["--copy".to_owned(), format!("{}={}", copy.source, copy.target)]);
    }
    let lease = input.guest_socket(LEASE_SOCKET);
    entrypoint.extend(["--lease".to_owned(), lease, "--".to_owned()]);
    entrypoint
}

fn environment(
    input: &Input<'_>,
    config: &BundleConfig,
    token_env: &[String],
) -> Result<BTreeMap<String, String>, PlanError> {
    let proxy = proxy_url(&match config.listen.first() {
        Some(Listen::Tcp(address)) => address.to_string(),
        _ => GUEST_PROXY.to_owned(),
    });
    let mut ours: BTreeMap<String, String> = BTreeMap::new();
    ours.extend(PROXY_VARIABLES.map(|name| (name.to_owned(), proxy.clone())));
    ours.extend(NO_PROXY_VARIABLES.map(|name| (name.to_owned(), String::new())));
    ours.extend(CA_VARIABLES.map(|name| (name.to_owned(), format!("{SHARED_DIR}/ca.pem"))));
    ours.extend(token_env.iter().map(|name| (name.clone(), placeholder(name))));
    let mut env = BTreeMap::from([("HOME".to_owned(), HOME.to_owned())]);
    for (name, value) in &input.bottle.env {
        if let Some(expected) = unusable(name, &value.0, &ours, token_env) {
            let path = below(&input.path("env"), name);
            return Err(input.manifest.refuse_key(&path, expected, format!("`{name}`")).into());
        }
        env.insert(name.clone(), value.0.clone());
    }
    for (name, value) in &input.options.extra_env {
        if let Some(expected) = unusable(name, value, &ours, token_env) {
            return Err(option("extra_env", expected, format!("`{name}`")));
        }
        env.insert(name.clone(), value.clone());
    }
    env.extend(ours);
    Ok(env)
}

/// What was expected instead of a variable, when it cannot be set.
fn unusable(name: &str, value: &str, ours: &BTreeMap<String, String>, token_env: &[String]) -> Option<&'static str> {
    if !is_variable(name) {
        Some("the name of an environment variable (letters, digits and `_`, no digit first)")
    } else if value.contains('\0') {
        Some("a value without NUL")
    } else if token_env.iter().any(|token| token == name) {
        Some("a variable that is no route's `token_env`: the token stays outside the guest, which gets a placeholder")
    } else if ours.contains_key(name) || agent::VARIABLES.contains(&name) {
        Some("a variable that the bottle does not set itself")
    } else {
        None
    }
}

/// Whether an image is named by its path on this machine (a directory, an archive), and not as an engine has it. The forms
/// are smolvm's own.
pub fn is_path(image: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| image.starts_with(start))
}

fn is_reference(image: &str) -> bool {
    if is_path(image) {
        return !image.contains(char::is_control);
    }
    !image.is_empty()
        && !image.starts_with('-')
        && image
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
}

fn user(input: &Input<'_>) -> Result<Option<String>, PlanError> {
    const EXPECTED: &str = "`user` or `user:group`, names or numbers";
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_user = |text: &str| text.split(':').count() <= 2 && text.split(':').all(is_part);
    match (&input.options.user, input.bottle.user.as_ref().map(|user| &user.0)) {
        (Some(user), _) if !is_user(user) => Err(option("user", EXPECTED, format!("`{user}`"))),
        (None, Some(user)) if !is_user(user) => Err(input.refuse("user", EXPECTED)),
        (Some(user), _) | (None, Some(user)) => Ok(Some(user.clone())),
        (None, None) => Ok(None),
    }
}

fn workdir(input: &Input<'_>) -> Result<Option<String>, PlanError> {
    match &input.bottle.workdir {
        Some(path) if !is_clean_absolute(path) => {
            Err(input.refuse("workdir", "an absolute path without `.`, `..` and empty parts"))
        }
        other => Ok(other.clone()),
    }
}

fn is_clean_absolute(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let is_clean = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\0', ':', ',']) && (rest.is_empty() || rest.split('/').all(is_clean))
}

/// Scratch space: `/tmp`, `/var/tmp` and the home, and what the manifest adds. Programs may be run from it: agents build there.
fn tmpfs(
    input: &Input<'_>,
    env: &BTreeMap<String, String>,
    user: Option<&str>,
) -> Result<Vec<(String, u64, String)>, PlanError> {
    const OPTIONS: &str = "exec,nosuid,nodev";
    let shared = format!("mode=1777,{OPTIONS}");
    let mut all = BTreeMap::from([
        ("/tmp".to_owned(), (1 << 30, shared.clone())),
        ("/var/tmp".to_owned(), (256 << 20, shared.clone())),
    ]);
    if let Some(home) = env.get("HOME").filter(|home| is_mountable(home)) {
        let options = owner(user).map_or(shared.clone(), |owner| format!("mode=0700,{owner},{OPTIONS}"));
        all.entry(home.clone()).or_insert((1 << 30, options));
    }
    for (path, size) in &input.bottle.tmpfs {
        let path_in_manifest = below(&input.path("tmpfs"), path);
        if !is_mountable(path) {
            let expected = "an absolute path outside /dev, /proc, /sys and /run/bottle";
            return Err(input
                .manifest
                .refuse_key(&path_in_manifest, expected, format!("`{path}`"))
                .into());
        }
        if !(4096..=1 << 40).contains(&size.0) {
            return Err(input
                .manifest
                .refuse(&path_in_manifest, "a size from 4KiB to 1TiB")
                .into());
        }
        all.insert(path.clone(), (size.0, shared.clone()));
    }
    Ok(all
        .into_iter()
        .map(|(path, (size, options))| (path, size, options))
        .collect())
}

/// Whether something may be mounted there without hiding what the guest needs.
pub(super) fn is_mountable(path: &str) -> bool {
    let is_within = |of: &str| path == of || path.starts_with(&format!("{of}/"));
    is_clean_absolute(path)
        && path != "/"
        && path != "/run"
        && !["/dev", "/proc", "/sys", SHARED_DIR].into_iter().any(is_within)
}

/// Options of a file system that belongs to a user given by numbers; names are the image's to know.
pub(super) fn owner(user: Option<&str>) -> Option<String> {
    let user = user?;
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    let (uid, gid): (u32, u32) = (uid.parse().ok()?, gid.parse().ok()?);
    Some(format!("uid={uid},gid={gid}"))
}

/// Two processors, or all there are: an engine starts nothing that may use more than it has.
fn default_milli_cpus(processors: Option<u32>) -> u64 {
    1000 * u64::from(processors.map_or(2, |all| all.min(2)))
}

fn limits(input: &Input<'_>) -> Result<Limits, PlanError> {
    let (written, given) = (&input.bottle.limits, &input.facts.default_limits);
    let memory = written.memory.map(|size| size.0);
    if memory.is_some_and(|bytes| !(SMALLEST_MEMORY..=1 << 50).contains(&bytes)) {
        return Err(input.refuse("limits.memory", "a size from 16MiB to 1024TiB"));
    }
    if written.cpus.is_some_and(|cpus| !(0.01..=1024.0).contains(&cpus)) {
        return Err(input.refuse("limits.cpus", "a number from 0.01 to 1024"));
    }
    if written.pids.is_some_and(|pids| !(16..=4_194_304).contains(&pids)) {
        return Err(input.refuse("limits.pids", "a whole number from 16 to 4194304"));
    }
    if written
        .open_files
        .is_some_and(|files| !(64..=1_048_576).contains(&files))
    {
        return Err(input.refuse("limits.open_files", "a whole number from 64 to 1048576"));
    }
    let milli_cpus = written.cpus.map(|cpus| (cpus * 1000.0).round() as u64);
    let memory = memory.or(given.memory).unwrap_or(4 << 30);
    let milli_cpus = milli_cpus
        .or(given.milli_cpus)
        .unwrap_or_else(|| default_milli_cpus(input.facts.processors));
    // A machine has whole processors and whole mebibytes.
    let (memory_unit, cpu_unit) = match input.backend {
        BackendKind::Docker => (1, 1),
        BackendKind::Smolmachines => (1 << 20, 1000),
    };
    Ok(Limits {
        memory: Some(memory.next_multiple_of(memory_unit)),
        milli_cpus: Some(milli_cpus.next_multiple_of(cpu_unit)),
        pids: written.pids.or(given.pids).or(Some(512)),
        open_files: written.open_files.or(given.open_files).or(Some(4096)),
    })
}
