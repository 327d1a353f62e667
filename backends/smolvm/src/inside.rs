//! The command lines of `bottle-guest` in a machine.
//!
//! smolvm starts what it is told as root with every capability. `bottle-guest` first does there what a container engine
//! does for a container, so that a plan means the same on both.

use std::collections::BTreeMap;

use bottle_backend::{BackendError, ExecSpec};
use bottle_plan::ContainerPlan;

use crate::image::Settings;
use crate::program::refused;

/// Who runs when neither the plan nor the image names an ordinary user. Root without capabilities is still the owner of what
/// steers the machine's kernel.
const ORDINARY: &str = "1000:1000";
/// Where programs are looked for when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code of `bottle-guest` without a command.
pub(crate) const CALLED_WRONGLY: i32 = 125;
/// Has `bottle-guest`, as its first option, say on standard error that it begins, and the line by which it does.
const ANNOUNCE: &str = "--announce";
pub(crate) const ANNOUNCEMENT: &str = "bottle-guest: begun";
/// Where the guest's init leaves its process id, for signals.
const PID_FILE: &str = "/run/bottle-guest.pid";

/// What runs in a machine, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    /// `bottle-guest` and its options of the plan, without `--`.
    init: Vec<String>,
    command: Vec<String>,
    confine: Vec<String>,
    whole_machine: Vec<String>,
    /// Who runs.
    pub(crate) user: String,
    workdir: Option<String>,
    env: BTreeMap<String, String>,
}

impl Inside {
    /// For a plan and what its image says.
    pub(crate) fn of(plan: &ContainerPlan, image: &Settings) -> Result<Self, BackendError> {
        let call = format!("plan the inside of {}", plan.name);
        let refuse = |problem: &str| Err(refused(&*call, problem));
        let Some((program, options)) = plan.entrypoint.split_first() else {
            return refuse("expected `bottle-guest` as the first program, found the image's own");
        };
        if !program.ends_with("/bottle-guest") || options.last().is_none_or(|last| last != "--") {
            return refuse("expected `bottle-guest OPTIONS --` as the first program, found another");
        }
        let hardening = &plan.hardening;
        if !hardening.capabilities.is_empty() || hardening.privileged || hardening.host_pid || hardening.host_ipc {
            return refuse(
                "a machine's command has no capability and shares nothing with the host, but the plan has it so",
            );
        }
        if !plan.publish.is_empty() || !plan.extra_hosts.is_empty() {
            return refuse("published ports and extra hosts are not offered for machines, but the plan has some");
        }
        let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        env.extend(image.env.clone());
        env.extend(plan.env.clone());
        Ok(Self {
            init: [std::slice::from_ref(program), &options[..options.len() - 1]].concat(),
            command: plan.command.clone(),
            confine: confinement(plan),
            whole_machine: of_the_machine(plan),
            user: user(plan.user.as_deref(), image.user.as_deref()),
            workdir: plan.workdir.clone().or_else(|| image.workdir.clone()),
            env,
        })
    }

    /// The machine's main command.
    pub(crate) fn main(&self) -> Vec<String> {
        let (program, options) = self.init.split_at(1);
        let mut words = program.to_vec();
        words.extend_from_slice(&self.whole_machine);
        words.extend(self.person(&self.user, self.workdir.as_deref()));
        words.extend_from_slice(options);
        words.push("--".to_owned());
        words.extend_from_slice(&self.command);
        words
    }

    /// A further program.
    pub(crate) fn further(&self, spec: &ExecSpec) -> Vec<String> {
        let mut words = self.init[..1].to_vec();
        let user = spec.user.as_ref().unwrap_or(&self.user);
        words.extend(self.person(user, spec.workdir.as_deref().or(self.workdir.as_deref())));
        words.extend(["--exec", "--"].map(str::to_owned));
        words.extend_from_slice(&spec.command);
        words
    }

    /// The unpacker of a tree that becomes the user's own.
    pub(crate) fn unpack(&self, target: &str) -> Vec<String> {
        let program = &self.init[0];
        let spec = ExecSpec {
            command: [program, "--unpack", target].map(str::to_owned).to_vec(),
            // The plan's own may be in the tree.
            workdir: Some("/".to_owned()),
            ..ExecSpec::default()
        };
        let mut words = self.further(&spec);
        words.splice(1..1, ["--writable", target].map(str::to_owned));
        words
    }

    /// The packer of a directory, which finds in it what its user keeps from itself as well.
    pub(crate) fn pack(&self, path: &str) -> Vec<String> {
        let mut words = [&self.init[0], "--pack", path].map(str::to_owned).to_vec();
        // The root has no name of its own.
        let name = path.trim_end_matches('/').rsplit('/').next();
        words.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
        words
    }

    /// `bottle-guest` alone: it says how it is called, and ends with [`CALLED_WRONGLY`].
    pub(crate) fn alone(&self) -> Vec<String> {
        self.init[..1].to_vec()
    }

    /// A signal for the main command.
    pub(crate) fn signal(&self, name: &str) -> Vec<String> {
        let mut words = self.init[..1].to_vec();
        words.extend(["--signal", name, "--pid-file", PID_FILE].map(str::to_owned));
        words
    }

    fn person(&self, user: &str, workdir: Option<&str>) -> Vec<String> {
        let mut words = self.confine.clone();
        words.extend(["--confine".to_owned(), user.to_owned()]);
        if let Some(workdir) = workdir {
            words.extend(["--workdir".to_owned(), workdir.to_owned()]);
        }
        words
    }

    /// The environment, with more on top.
    pub(crate) fn env(&self, more: &BTreeMap<String, String>) -> Vec<String> {
        let mut env = self.env.clone();
        env.extend(more.clone());
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// A command line of `bottle-guest` with which it announces itself.
pub(crate) fn announced(command: &[String]) -> Vec<String> {
    let mut words = command.to_vec();
    words.insert(1, ANNOUNCE.to_owned());
    words
}

/// What holds of every program.
fn confinement(plan: &ContainerPlan) -> Vec<String> {
    let mut words = Vec::new();
    let mut limit = |option: &str, most: Option<u32>| {
        if let Some(most) = most {
            words.extend([option.to_owned(), most.to_string()]);
        }
    };
    limit("--open-files", plan.limits.open_files);
    limit("--processes", plan.limits.pids);
    if plan.hardening.seccomp {
        words.push("--seccomp".to_owned());
    }
    words
}

/// What is done once.
fn of_the_machine(plan: &ContainerPlan) -> Vec<String> {
    let mut words = ["--pid-file", PID_FILE, "--no-resolver"].map(str::to_owned).to_vec();
    if let Some(name) = &plan.hostname {
        words.extend(["--hostname".to_owned(), name.clone()]);
    }
    for (path, bytes, options) in &plan.tmpfs {
        words.extend(["--tmpfs".to_owned(), format!("{path}={bytes},{options}")]);
    }
    if plan.hardening.read_only_root {
        words.push("--read-only-root".to_owned());
    }
    words
}

/// Who runs. What the operator wrote counts; an image's root is not meant as a wish for it.
fn user(planned: Option<&str>, image: Option<&str>) -> String {
    let is_root = |user: &&str| matches!(user.split(':').next(), None | Some("" | "0" | "root"));
    planned
        .or_else(|| image.filter(|user| !is_root(user)))
        .unwrap_or(ORDINARY)
        .to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bottle_plan::{Hardening, Limits, NetworkMode};

    pub(crate) fn plan() -> ContainerPlan {
        ContainerPlan {
            name: "bottle-x-guest".to_owned(),
            image: "shell:1".to_owned(),
            entrypoint: [
                "/run/bottle/bottle-guest",
                "--forward",
                "127.0.0.1:8888=/run/bottle-sockets/proxy.sock",
                "--lease",
                "/run/bottle-sockets/lease.sock",
                "--",
            ]
            .map(str::to_owned)
            .to_vec(),
            command: ["sh", "-c", "true"].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("A".to_owned(), "plan".to_owned())]),
            user: None,
            workdir: None,
            hostname: Some("dev".to_owned()),
            tty: false,
            stdin: true,
            network: NetworkMode::None,
            dns: Vec::new(),
            extra_hosts: Vec::new(),
            publish: Vec::new(),
            mounts: Vec::new(),
            tmpfs: vec![("/tmp".to_owned(), 4096, "mode=1777,nosuid".to_owned())],
            hardening: Hardening::default(),
            limits: Limits {
                memory: Some(256 << 20),
                milli_cpus: Some(1000),
                pids: Some(64),
                open_files: Some(256),
            },
            auto_remove: true,
        }
    }

    #[test]
    fn the_main_command_is_confined_before_it_runs() {
        let image = Settings {
            env: BTreeMap::from([("A", "image"), ("B", "image")].map(|(k, v)| (k.to_owned(), v.to_owned()))),
            user: Some("node".to_owned()),
            workdir: Some("/app".to_owned()),
        };
        let inside = Inside::of(&plan(), &image).unwrap();
        assert_eq!(
            inside.main().join(" "),
            "/run/bottle/bottle-guest --pid-file /run/bottle-guest.pid --no-resolver --hostname dev \
             --tmpfs /tmp=4096,mode=1777,nosuid --read-only-root --open-files 256 --processes 64 --seccomp \
             --confine node --workdir /app --forward 127.0.0.1:8888=/run/bottle-sockets/proxy.sock \
             --lease /run/bottle-sockets/lease.sock -- sh -c true"
        );
        let spec = ExecSpec {
            command: vec!["id".to_owned()],
            user: Some("7:8".to_owned()),
            ..ExecSpec::default()
        };
        assert_eq!(
            inside.further(&spec).join(" "),
            "/run/bottle/bottle-guest --open-files 256 --processes 64 --seccomp --confine 7:8 --workdir /app --exec -- id"
        );
        assert_eq!(
            inside.unpack("/work/app").join(" "),
            "/run/bottle/bottle-guest --writable /work/app --open-files 256 --processes 64 --seccomp --confine node --workdir / \
             --exec -- /run/bottle/bottle-guest --unpack /work/app"
        );
        assert_eq!(
            inside.pack("/work/app").join(" "),
            "/run/bottle/bottle-guest --pack /work/app app"
        );
        let env = inside.env(&BTreeMap::from([("C".to_owned(), "more".to_owned())]));
        assert_eq!(env, ["A=plan", "B=image", "C=more", &format!("PATH={PATH}")]);
    }

    #[rstest::rstest]
    #[case(None, None, ORDINARY)]
    #[case(None, Some("root"), ORDINARY)]
    #[case(None, Some("0:0"), ORDINARY)]
    #[case(None, Some("node"), "node")]
    #[case(Some("0:0"), Some("node"), "0:0")]
    fn an_ordinary_user_runs(#[case] planned: Option<&str>, #[case] image: Option<&str>, #[case] expected: &str) {
        assert_eq!(user(planned, image), expected);
    }

    #[test]
    fn what_a_machine_cannot_have_is_refused() {
        for change in [
            |plan: &mut ContainerPlan| plan.entrypoint.clear(),
            |plan: &mut ContainerPlan| plan.entrypoint[0] = "/bin/sh".to_owned(),
            |plan: &mut ContainerPlan| plan.hardening.privileged = true,
            |plan: &mut ContainerPlan| plan.hardening.capabilities = vec!["NET_RAW".to_owned()],
            |plan: &mut ContainerPlan| plan.extra_hosts = vec![("a".to_owned(), "b".to_owned())],
        ] {
            let mut plan = plan();
            change(&mut plan);
            assert!(Inside::of(&plan, &Settings::default()).is_err());
        }
    }
}
