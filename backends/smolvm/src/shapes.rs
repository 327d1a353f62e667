//! The shapes of smolvm's commands, by version. Nothing else in this crate knows an option of smolvm.
//!
//! | from | what changed |
//! | --- | --- |
//! | 0.8.0 | `create`, `delete` and `data-dir` take the name as a positional argument |
//! | 1.0.2 | they take `--name` |
//! | 1.1.3 | `--allow-host` is enforced: before, a policy without ports ran on a backend that ignores it |
//! | 1.32.2 | `--state-dir`, `--error-format` and `--mediated-egress` are known to be there |
//!
//! Where `--state-dir` is not there, the home directory that smolvm is given keeps its machines apart just as well.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// A version of smolvm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// Reads what `smolvm --version` says: `smolvm 1.32.2`, perhaps with more after it.
    pub(crate) fn read(said: &str) -> Option<Self> {
        let word = said.split_whitespace().nth(1)?;
        let plain = word.split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(|number| number.parse::<u32>());
        let version = Self(
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next().unwrap_or(Ok(0)).ok()?,
        );
        (said.split_whitespace().next() == Some("smolvm") && numbers.next().is_none()).then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The oldest that is used.
const OLDEST: Version = Version(1, 1, 3);
/// The first with `--name` everywhere.
const NAMED: Version = Version(1, 0, 2);
/// The first of which these are known.
const STATE_AND_JSON: Version = Version(1, 32, 2);

/// How this version is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shapes {
    /// Whether every command names a machine by `--name`.
    named: bool,
    /// Whether state has its own option, and failures can be had as JSON.
    state_and_json: bool,
}

/// A machine to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineSpec {
    /// Name.
    pub(crate) name: String,
    /// Directory with the image's files.
    pub(crate) image: String,
    /// Processors.
    pub(crate) cpus: u64,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Host directories: (host path, path in the guest, read-only).
    pub(crate) volumes: Vec<(String, String, bool)>,
    /// Host sockets: (host path, path in the guest).
    pub(crate) sockets: Vec<(String, String)>,
    /// The one address that it may connect to; without it there is no network.
    pub(crate) allowed: Option<std::net::Ipv4Addr>,
}

/// A program to run in a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call<'a> {
    /// Machine.
    pub(crate) name: &'a str,
    /// Whether it gets a terminal.
    pub(crate) tty: bool,
    /// Environment as `NAME=VALUE`.
    pub(crate) env: &'a [String],
    /// Program and arguments.
    pub(crate) command: &'a [String],
}

impl Shapes {
    /// The shapes of a version; `None` for one that is too old to be used.
    pub(crate) fn of(version: Version) -> Option<Self> {
        (version >= OLDEST).then_some(Self {
            named: version >= NAMED,
            state_and_json: version >= STATE_AND_JSON,
        })
    }

    /// Why a version is not used.
    pub(crate) fn too_old(version: Version) -> String {
        format!(
            "expected smolvm {OLDEST} or later, found {version}: before {OLDEST} the list of allowed addresses was not \
             enforced, so a guest could reach everything; update smolvm"
        )
    }

    pub(crate) fn version() -> Vec<String> {
        vec!["--version".to_owned()]
    }

    pub(crate) fn create(self, spec: &MachineSpec) -> Vec<String> {
        let mut words = self.named("create", &spec.name);
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        add("--image", spec.image.clone());
        add("--cpus", spec.cpus.to_string());
        add("--mem", spec.memory_mib.to_string());
        for (host, guest, read_only) in &spec.volumes {
            let suffix = if *read_only { ":ro" } else { "" };
            add("--volume", format!("{host}:{guest}{suffix}"));
        }
        for (host, guest) in &spec.sockets {
            add("--mount-socket", format!("{host}:{guest}"));
        }
        if let Some(address) = spec.allowed {
            // As a host, not as a range: a plain range leaves a way for names to any name server.
            add("--allow-host", address.to_string());
        }
        words
    }

    /// With the address of who decides about its connections, when there is one.
    pub(crate) fn start(self, name: &str, decider: Option<SocketAddr>) -> Vec<String> {
        let mut words = machine("start", ["--name", name]);
        if let Some(decider) = decider {
            let decider = decider.to_string();
            words.extend(["--egress-interceptor", &decider, "--mediated-egress"].map(str::to_owned));
        }
        words
    }

    /// Whether it can ask who decides.
    pub(crate) fn mediates(self) -> bool {
        self.state_and_json
    }

    pub(crate) fn list(self) -> Vec<String> {
        machine("ls", ["--json"])
    }

    pub(crate) fn data_dir(self, name: &str) -> Vec<String> {
        self.named("data-dir", name)
    }

    /// Without `-f` it would stop the machine and then fail for want of a terminal.
    pub(crate) fn delete(self, name: &str) -> Vec<String> {
        let mut words = self.named("delete", name);
        words.push("-f".to_owned());
        words
    }

    /// Always with standard input: without `-i` it would be at its end at once.
    pub(crate) fn exec(self, call: &Call<'_>, state: &Path) -> Vec<String> {
        let mut words = machine("exec", ["--name", call.name, "-i", "-u", "0:0"]);
        if call.tty {
            words.push("-t".to_owned());
        }
        for variable in call.env {
            words.extend(["-e".to_owned(), variable.clone()]);
        }
        words.extend(self.everywhere(state));
        words.push("--".to_owned());
        words.extend_from_slice(call.command);
        words
    }

    /// A short program without input.
    pub(crate) fn exec_short(self, name: &str, command: &[String], state: &Path) -> Vec<String> {
        let mut words = machine("exec", ["--name", name, "-u", "0:0"]);
        words.extend(self.everywhere(state));
        words.push("--".to_owned());
        words.extend_from_slice(command);
        words
    }

    /// Copies a file into a machine.
    pub(crate) fn copy_in(self, file: &Path, name: &str, path: &str, mode: u32) -> Vec<String> {
        let (from, to) = (file.display().to_string(), format!("{name}:{path}"));
        machine("cp", ["--mode", &format!("{mode:o}"), &from, &to])
    }

    /// Options of every command.
    pub(crate) fn everywhere(self, state: &Path) -> Vec<String> {
        if !self.state_and_json {
            return Vec::new();
        }
        let state = state.display().to_string();
        ["--state-dir", &state, "--error-format", "json"]
            .map(str::to_owned)
            .to_vec()
    }

    fn named(self, command: &str, name: &str) -> Vec<String> {
        if self.named {
            machine(command, ["--name", name])
        } else {
            machine(command, [name])
        }
    }
}

fn machine<const N: usize>(command: &str, rest: [&str; N]) -> Vec<String> {
    ["machine", command]
        .into_iter()
        .chain(rest)
        .map(str::to_owned)
        .collect()
}

/// Variables for smolvm itself. A machine that shows no progress for 30 s would be given up on, which on a busy host is no
/// fault of its own: our own limit is the one that counts. The seed of an image is a helper machine that unpacks archives;
/// ours are directories.
pub(crate) fn environment(start: Duration) -> [(&'static str, String); 2] {
    let patience = start.saturating_sub(SLACK).max(SLACK);
    [
        ("SMOLVM_IMAGE_SEEDS", "0".to_owned()),
        ("SMOLVM_AGENT_READY_TIMEOUT_SECS", patience.as_secs().to_string()),
    ]
}

/// The variable in which a start finds what it proves itself with to who decides.
pub(crate) const DECIDER_TOKEN: &str = "SMOLVM_INTERCEPTOR_TOKEN";

/// How much earlier than we smolvm is to give up: it knows why, and ends the machine.
const SLACK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("smolvm 1.32.2\n", Some(Version(1, 32, 2)))]
    #[case("smolvm 1.33.0-rc.1 (abc)", Some(Version(1, 33, 0)))]
    #[case("smolvm 2.0", Some(Version(2, 0, 0)))]
    #[case("docker 1.2.3", None)]
    #[case("smolvm", None)]
    #[case("smolvm one.two.three", None)]
    #[case("smolvm 1.2.3.4", None)]
    #[case("", None)]
    fn versions(#[case] said: &str, #[case] expected: Option<Version>) {
        assert_eq!(Version::read(said), expected);
    }

    #[test]
    fn what_does_not_enforce_its_policy_is_refused() {
        assert_eq!(Shapes::of(Version(1, 1, 2)), None);
        assert_eq!(Shapes::of(Version(0, 8, 0)), None);
        assert!(Shapes::of(Version(1, 1, 3)).is_some());
        assert!(Shapes::too_old(Version(0, 8, 0)).contains("0.8.0"));
    }

    fn spec(allowed: Option<std::net::Ipv4Addr>) -> MachineSpec {
        MachineSpec {
            name: "bottle-x-guest".to_owned(),
            image: "/c/rootfs".to_owned(),
            cpus: 2,
            memory_mib: 512,
            volumes: vec![("/s/x".to_owned(), "/run/bottle".to_owned(), true)],
            sockets: vec![("/s/x/p.sock".to_owned(), "/run/bottle-sockets/p.sock".to_owned())],
            allowed,
        }
    }

    #[test]
    fn a_sealed_machine_has_no_option_of_the_network() {
        let words = Shapes::of(Version(1, 32, 2)).unwrap().create(&spec(None)).join(" ");
        assert_eq!(
            words,
            "machine create --name bottle-x-guest --image /c/rootfs --cpus 2 --mem 512 --volume /s/x:/run/bottle:ro \
             --mount-socket /s/x/p.sock:/run/bottle-sockets/p.sock"
        );
    }

    #[test]
    fn a_routed_machine_has_one_literal_host() {
        let words = Shapes::of(Version(1, 32, 2))
            .unwrap()
            .create(&spec(Some([10, 0, 0, 2].into())));
        assert_eq!(words[words.len() - 2..], ["--allow-host", "10.0.0.2"]);
    }

    #[test]
    fn a_start_may_name_who_decides() {
        let shapes = Shapes::of(Version(1, 32, 2)).unwrap();
        assert_eq!(shapes.start("m", None).join(" "), "machine start --name m");
        let words = shapes.start("m", Some("127.0.0.1:7".parse().unwrap())).join(" ");
        assert_eq!(
            words,
            "machine start --name m --egress-interceptor 127.0.0.1:7 --mediated-egress"
        );
        assert!(shapes.mediates() && !Shapes::of(Version(1, 4, 0)).unwrap().mediates());
    }

    #[test]
    fn positional_names_of_old_versions() {
        let old = Shapes {
            named: false,
            state_and_json: false,
        };
        assert_eq!(old.delete("m"), ["machine", "delete", "m", "-f"]);
        assert!(old.everywhere(Path::new("/s")).is_empty());
    }

    #[test]
    fn a_call_has_its_options_before_the_command() {
        let env = ["A=b c".to_owned()];
        let command = ["sh".to_owned(), "-t".to_owned()];
        let call = Call {
            name: "m",
            tty: true,
            env: &env,
            command: &command,
        };
        let words = Shapes::of(Version(1, 32, 2)).unwrap().exec(&call, Path::new("/s"));
        assert_eq!(
            words.join("|"),
            "machine|exec|--name|m|-i|-u|0:0|-t|-e|A=b c|--state-dir|/s|--error-format|json|--|sh|-t"
        );
    }
}
