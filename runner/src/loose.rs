//! A smolvm that leaves a control out: what known-leaky machines are made with.
//!
//! A machine's plan cannot say that it has a network beside its sockets, that its policy is open, or that its command keeps its
//! capabilities; the backend would refuse it, and rightly. So the backend stays as shipped and is given another program: this very
//! one, which changes the words on their way to smolvm, and what smolvm says of the network on the way back, as a smolvm would that
//! lies.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bottle_docker::Docker;
use bottle_leaky::{HOST_SOCKET, MachinePolicy, MachineRemoved, PROXY_VARIABLES};
use probe_spec::ExitCode;

use crate::cli::LooseArgs;
use crate::command::CommandError;
use crate::error::SuiteError;

/// Who is a member of the network that a machine is on instead of its own: where its namespace leads, the machine's connections
/// lead.
pub struct Member {
    /// Id of the container; `None` for the host itself.
    pub container: Option<String>,
    /// Its network namespace.
    pub namespace: PathBuf,
}

/// Writes the program for a machine from which this was removed.
pub fn program(
    directory: &Path,
    smolvm: &Path,
    removed: &MachineRemoved,
    member: Option<&Member>,
) -> Result<PathBuf, SuiteError> {
    let path = directory.join("smolvm");
    let failed = |source| SuiteError::Path {
        path: path.clone(),
        source,
    };
    let own = std::env::current_exe().map_err(failed)?;
    let mut words = vec![
        own.display().to_string(),
        "__smolvm".to_owned(),
        "--program".to_owned(),
        smolvm.display().to_string(),
        "--notes".to_owned(),
        directory.join("policy").display().to_string(),
    ];
    if removed.confinement {
        words.push("--unconfined".to_owned());
    }
    if removed.no_new_privileges {
        words.push("--gaining".to_owned());
    }
    if let Some(member) = member {
        let namespace = member.namespace.display().to_string();
        words.extend(["--namespace".to_owned(), namespace]);
        if let Some(container) = &member.container {
            words.extend(["--member".to_owned(), container.clone()]);
        }
    }
    if let Some(network) = &removed.network {
        words.extend(["--policy".to_owned(), network.policy.name().to_owned()]);
    }
    if let Some(proxy) = &removed.proxy {
        words.extend(["--proxy".to_owned(), proxy.clone()]);
    }
    if removed.writable_shares {
        words.push("--writable-shares".to_owned());
    }
    if let Some(directory) = &removed.host_sockets {
        words.extend(["--host-sockets".to_owned(), directory.clone()]);
    }
    if let Some(disk) = &removed.disk {
        words.extend(["--disk".to_owned(), disk.clone()]);
    }
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    let script = format!("#!/bin/sh\nexec {} -- \"$@\"\n", quoted.join(" "));
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&path, script))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
        .map_err(failed)?;
    Ok(path)
}

/// `__smolvm`: calls smolvm with a control left out.
pub async fn call(args: &LooseArgs) -> Result<ExitCode, CommandError> {
    let failed = |source| SuiteError::Path {
        path: args.program.clone(),
        source,
    };
    let changed = changed(args);
    let mut command = Command::new(&args.program);
    command.args(&changed.words);
    let Some(namespace) = &args.namespace else {
        // This thread becomes smolvm, with its streams, its exit code and its place among the processes.
        return Err(failed(command.exec()).into());
    };
    if let Some(address) = &changed.allowed {
        std::fs::write(&args.notes, address).map_err(failed)?;
    }
    // The one address that a routed machine was to reach; a sealed one was to have no network.
    let allowed = std::fs::read_to_string(&args.notes).ok();
    match step(&args.words) {
        Some("ls") => {
            let output = command.stderr(Stdio::inherit()).output().map_err(failed)?;
            print!(
                "{}",
                disowned(&String::from_utf8_lossy(&output.stdout), allowed.as_deref())
            );
            return Ok(if output.status.success() {
                ExitCode::Held
            } else {
                ExitCode::Breached
            });
        }
        Some("start") => {
            if allowed.is_some() {
                member(args, true).await?;
            }
            // The machine's process inherits it, and makes the machine's connections in it.
            let file = std::fs::File::open(namespace).map_err(failed)?;
            join(&file).map_err(|error| failed(error.into()))?;
        }
        // What narrows a routed machine's ports is a rule of the host's own firewall.
        Some("exec") if allowed.is_some() && args.member.is_none() => {
            let machine = named(&args.words).unwrap_or_default();
            bottle_smolvm::remove_rules(machine)
                .await
                .map_err(SuiteError::engine("taking the rules of a known-leaky machine away"))?;
        }
        Some("delete") if allowed.is_some() => member(args, false).await?,
        _ => {}
    }
    Err(failed(command.exec()).into())
}

/// Makes a network namespace this thread's.
#[cfg(target_os = "linux")]
fn join(namespace: &std::fs::File) -> rustix::io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), Some(LinkNameSpaceType::Network))
}

/// Only Linux has namespaces: elsewhere no machine can be made to leak like this, and its cells have no proof.
#[cfg(not(target_os = "linux"))]
fn join(_: &std::fs::File) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOSYS)
}

/// Has the member join, or leave, the machine's own network, on which its bundle is.
async fn member(args: &LooseArgs, joins: bool) -> Result<(), CommandError> {
    let (Some(container), Some(machine)) = (&args.member, named(&args.words)) else {
        return Ok(());
    };
    let network = format!("{}-inner", machine.trim_end_matches("-guest"));
    let docker = Docker::connect().await.map_err(CommandError::NoEngine)?;
    let outcome = if joins {
        docker.join_network(&network, container).await
    } else {
        docker.leave_network(&network, container).await
    };
    Ok(outcome.map_err(SuiteError::engine(
        "putting a known-leaky machine on its bundle's network",
    ))?)
}

/// `machine STEP …`.
fn step(words: &[String]) -> Option<&str> {
    match words {
        [machine, step, ..] if machine == "machine" => Some(step),
        _ => None,
    }
}

/// Name of the machine.
fn named(words: &[String]) -> Option<&str> {
    let place = words.iter().position(|word| word == "--name")?;
    words.get(place + 1).map(String::as_str)
}

/// The words with the control left out.
struct Changed {
    words: Vec<String>,
    /// The one address that was allowed.
    allowed: Option<String>,
}

fn changed(args: &LooseArgs) -> Changed {
    let mut words = args.words.clone();
    let mut allowed = None;
    match step(&words) {
        Some("create") => {
            if args.namespace.is_some() {
                if let Some(place) = words.iter().position(|word| word == "--allow-host") {
                    allowed = words.drain(place..place + 2).nth(1);
                }
                let open = match &allowed {
                    Some(address) if args.policy == MachinePolicy::Names.name() => {
                        vec!["--allow-cidr".to_owned(), format!("{address}/32")]
                    }
                    _ => vec!["--net".to_owned()],
                };
                words.splice(2..2, open);
            }
            if args.writable_shares {
                for word in &mut words {
                    if let Some(share) = word.strip_suffix(":ro") {
                        *word = share.to_owned();
                    }
                }
            }
            if let Some(directory) = &args.host_sockets {
                words.iter_mut().for_each(|word| from_the_host(word, directory));
            }
            if let Some(disk) = &args.disk {
                words.extend([
                    "--disk".to_owned(),
                    format!("{}:ro", disk.display()),
                    "--nested".to_owned(),
                ]);
            }
        }
        Some("exec") => {
            if let Some(proxy) = &args.proxy {
                lead_to(&mut words, proxy);
            }
            // Options of the guest's init: after smolvm's own, before the command's.
            let mut dashes = words.iter().enumerate().filter(|(_, word)| *word == "--");
            if let (Some((begin, _)), Some((end, _))) = (dashes.next(), dashes.next()) {
                let (init, user) = init(&words[begin..end], args);
                let own = words[..begin].iter().position(|word| word == "-u");
                words.splice(begin..end, init);
                if let (Some(user), Some(own)) = (user, own) {
                    words[own + 1] = user;
                }
            }
        }
        _ => {}
    }
    Changed { words, allowed }
}

/// Has a socket that is none of the bundle's come from the directory of the host's.
fn from_the_host(word: &mut String, directory: &Path) {
    if let Some((host, guest)) = word.split_once(".sock:")
        && let Some((_, name)) = host.rsplit_once('/')
        && name.starts_with(HOST_SOCKET)
    {
        *word = format!("{}/{name}.sock:{guest}", directory.display());
    }
}

/// Has the variables that name a proxy name this one.
fn lead_to(words: &mut [String], proxy: &str) {
    let own = words.iter().position(|word| word == "--").unwrap_or(words.len());
    for word in &mut words[..own] {
        if let Some((name, _)) = word.split_once('=')
            && PROXY_VARIABLES
                .iter()
                .any(|variable| name.eq_ignore_ascii_case(variable))
        {
            *word = format!("{name}={proxy}");
        }
    }
}

/// The options of the guest's init that stay, and the user whom a program of smolvm's own user is to be made.
fn init(options: &[String], args: &LooseArgs) -> (Vec<String>, Option<String>) {
    let names = args.policy == MachinePolicy::Names.name();
    // Of a further program: `bottle-guest` would take more away than its user.
    let gaining = args.gaining && options.iter().any(|word| word == "--exec");
    let (mut init, mut user) = (Vec::new(), None);
    let mut options = options.iter();
    while let Some(word) = options.next() {
        match word.as_str() {
            "--confine" if args.unconfined => drop(options.next()),
            "--confine" if gaining => user = options.next().cloned(),
            "--seccomp" if args.unconfined => {}
            "--no-resolver" if names => {}
            _ => init.push(word.clone()),
        }
    }
    (init, user)
}

/// What smolvm lists, with the network that was asked for.
fn disowned(said: &str, allowed: Option<&str>) -> String {
    let Ok(mut machines) = serde_json::from_str::<serde_json::Value>(said) else {
        return said.to_owned();
    };
    for machine in machines.as_array_mut().into_iter().flatten() {
        machine["network"] = allowed.is_some().into();
        if let Some(address) = allowed {
            machine["allowed_hosts"] = vec![address].into();
            machine["allowed_cidrs"] = vec![format!("{address}/32")].into();
        }
    }
    machines.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_leaky::MachineNetwork;
    use clap::Parser as _;
    use rstest::rstest;

    fn called(options: &str, words: &str) -> LooseArgs {
        let line = format!("bottle-conform __smolvm --program smolvm --notes /x/policy {options} -- {words}");
        match crate::cli::Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(crate::cli::Command::Loose(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    const OPEN: &str = "--namespace /proc/7/ns/net --member c";
    const NAMES: &str = "--namespace /proc/7/ns/net --member c --policy names";

    #[rstest]
    #[case(
        OPEN,
        "machine create --name m --cpus 1",
        "machine create --net --name m --cpus 1",
        None
    )]
    #[case(
        OPEN,
        "machine create --name m --allow-host 10.1.2.3 --cpus 1",
        "machine create --net --name m --cpus 1",
        Some("10.1.2.3")
    )]
    #[case(
        NAMES,
        "machine create --name m --allow-host 10.1.2.3 --cpus 1",
        "machine create --allow-cidr 10.1.2.3/32 --name m --cpus 1",
        Some("10.1.2.3")
    )]
    #[case(
        "--unconfined",
        "machine create --name m --allow-host 10.1.2.3",
        "machine create --name m --allow-host 10.1.2.3",
        None
    )]
    #[case(
        "--unconfined",
        "machine exec --name m -- /x/bottle-guest --no-resolver --seccomp --confine 7:8 --exec -- sh --seccomp",
        "machine exec --name m -- /x/bottle-guest --no-resolver --exec -- sh --seccomp",
        None
    )]
    #[case(
        "--gaining",
        "machine exec --name m -i -u 0:0 -- /x/bottle-guest --open-files 9 --confine 7:8 --exec -- sh --confine 1",
        "machine exec --name m -i -u 7:8 -- /x/bottle-guest --open-files 9 --exec -- sh --confine 1",
        None
    )]
    #[case(
        "--gaining",
        "machine exec --name m -i -u 0:0 -- /x/bottle-guest --confine 7:8 -- sh --exec",
        "machine exec --name m -i -u 0:0 -- /x/bottle-guest --confine 7:8 -- sh --exec",
        None
    )]
    #[case(
        "--unconfined",
        "machine exec --name m -- /x/bottle-guest",
        "machine exec --name m -- /x/bottle-guest",
        None
    )]
    #[case(
        OPEN,
        "machine exec --name m -- g --no-resolver --confine 7 -- sh",
        "machine exec --name m -- g --no-resolver --confine 7 -- sh",
        None
    )]
    #[case(
        NAMES,
        "machine exec --name m -- g --no-resolver --confine 7 -- sh",
        "machine exec --name m -- g --confine 7 -- sh",
        None
    )]
    #[case(
        "--writable-shares",
        "machine create --name m --volume /s/x:/run/bottle:ro",
        "machine create --name m --volume /s/x:/run/bottle",
        None
    )]
    #[case(
        "--host-sockets /h",
        "machine create --name m --mount-socket /s/x/host-1.sock:/run/y/host-1.sock --mount-socket /s/x/proxy.sock:/run/y/proxy.sock",
        "machine create --name m --mount-socket /h/host-1.sock:/run/y/host-1.sock --mount-socket /s/x/proxy.sock:/run/y/proxy.sock",
        None
    )]
    #[case(
        "--disk /d/i",
        "machine create --name m",
        "machine create --name m --disk /d/i:ro --nested",
        None
    )]
    #[case(
        "--proxy http://10.9.9.9:8",
        "machine exec --name m -e HTTPS_PROXY=http://10.1.2.3:8888 -e A=b -- g -- sh -c HTTP_PROXY=x",
        "machine exec --name m -e HTTPS_PROXY=http://10.9.9.9:8 -e A=b -- g -- sh -c HTTP_PROXY=x",
        None
    )]
    #[case(NAMES, "--version", "--version", None)]
    fn exactly_one_control_is_left_out(
        #[case] options: &str,
        #[case] words: &str,
        #[case] expected: &str,
        #[case] allowed: Option<&str>,
    ) {
        let changed = changed(&called(options, words));
        assert_eq!(changed.words.join(" "), expected);
        assert_eq!(changed.allowed.as_deref(), allowed);
    }

    #[rstest]
    #[case(
        r#"[{"name":"m","network":true,"cpus":1},{"name":"n"}]"#,
        None,
        r#"[{"cpus":1,"name":"m","network":false},{"name":"n","network":false}]"#
    )]
    #[case(
        r#"[{"name":"m","network":true,"allowed_hosts":[],"allowed_cidrs":["10.1.2.3/32","0.0.0.0/0"]}]"#,
        Some("10.1.2.3"),
        r#"[{"allowed_cidrs":["10.1.2.3/32"],"allowed_hosts":["10.1.2.3"],"name":"m","network":true}]"#
    )]
    #[case("{]", None, "{]")]
    fn the_network_that_was_asked_for_is_told_of(
        #[case] said: &str,
        #[case] allowed: Option<&str>,
        #[case] expected: &str,
    ) {
        assert_eq!(disowned(said, allowed), expected);
    }

    #[test]
    fn the_program_passes_on_what_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let removed = MachineRemoved {
            confinement: true,
            no_new_privileges: true,
            network: Some(MachineNetwork {
                name: "open".to_owned(),
                policy: MachinePolicy::Names,
            }),
            proxy: Some("http://p:8".to_owned()),
            writable_shares: true,
            disk: Some("/d/i".to_owned()),
            host_sockets: Some("/h".to_owned()),
        };
        let member = Member {
            container: Some("c".to_owned()),
            namespace: "/proc/7/ns/net".into(),
        };
        let path = program(directory.path(), Path::new("/it's/smolvm"), &removed, Some(&member)).unwrap();
        let script = std::fs::read_to_string(path).unwrap();
        let policy = directory.path().join("policy");
        let expected = format!(
            "'__smolvm' '--program' '/it'\\''s/smolvm' '--notes' '{}' '--unconfined' '--gaining' '--namespace' '/proc/7/ns/net' '--member' \
             'c' '--policy' 'names' '--proxy' 'http://p:8' '--writable-shares' '--host-sockets' '/h' '--disk' '/d/i' -- \"$@\"\n",
            policy.display()
        );
        assert!(script.ends_with(&expected), "{script}");
    }
}
