//! A smolvm that leaves a control out: what known-leaky machines are made with.
//!
//! A machine's plan cannot say that it has a network beside its sockets, or that its command keeps its capabilities; the backend
//! would refuse it, and rightly. So the backend stays as shipped and is given another program: this very one, which changes the
//! words on their way to smolvm, and what smolvm says of the network on the way back, as a smolvm would that lies.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bottle_leaky::MachineRemoved;
use probe_spec::ExitCode;

use crate::cli::LooseArgs;
use crate::command::CommandError;
use crate::error::SuiteError;

/// Writes the program for a machine from which this was removed. `namespace` is where its network leads.
pub fn program(
    directory: &Path,
    smolvm: &Path,
    removed: &MachineRemoved,
    namespace: Option<&Path>,
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
    ];
    if removed.confinement {
        words.push("--unconfined".to_owned());
    }
    if let Some(namespace) = namespace {
        words.extend(["--namespace".to_owned(), namespace.display().to_string()]);
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
pub fn call(args: &LooseArgs) -> Result<ExitCode, CommandError> {
    let failed = |source| SuiteError::Path {
        path: args.program.clone(),
        source,
    };
    let words = changed(&args.words, args.unconfined, args.namespace.is_some());
    let mut command = Command::new(&args.program);
    command.args(&words);
    let step = step(&args.words);
    if step == Some("ls") && args.namespace.is_some() {
        let output = command.stderr(Stdio::inherit()).output().map_err(failed)?;
        print!("{}", disowned(&String::from_utf8_lossy(&output.stdout)));
        return Ok(if output.status.success() {
            ExitCode::Held
        } else {
            ExitCode::Breached
        });
    }
    if let (Some("start"), Some(namespace)) = (step, &args.namespace) {
        // The machine's process inherits it, and makes the machine's connections in it.
        let file = std::fs::File::open(namespace).map_err(failed)?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .map_err(|error| failed(error.into()))?;
    }
    // This thread becomes smolvm, with its streams, its exit code and its place among the processes.
    Err(failed(command.exec()).into())
}

/// `machine STEP …`.
fn step(words: &[String]) -> Option<&str> {
    match words {
        [machine, step, ..] if machine == "machine" => Some(step),
        _ => None,
    }
}

/// The words with the control left out.
fn changed(words: &[String], unconfined: bool, network: bool) -> Vec<String> {
    let mut words = words.to_vec();
    match step(&words) {
        Some("create") if network => words.insert(2, "--net".to_owned()),
        Some("exec") if unconfined => {
            // Options of the guest's init: after smolvm's own, before the command's.
            let mut dashes = words.iter().enumerate().filter(|(_, word)| *word == "--");
            let (Some((begin, _)), Some((end, _))) = (dashes.next(), dashes.next()) else {
                return words;
            };
            let mut init = Vec::new();
            let mut options = words[begin..end].iter();
            while let Some(word) = options.next() {
                match word.as_str() {
                    "--confine" => drop(options.next()),
                    "--seccomp" => {}
                    _ => init.push(word.clone()),
                }
            }
            words.splice(begin..end, init);
        }
        _ => {}
    }
    words
}

/// What smolvm lists, with no network in it.
fn disowned(said: &str) -> String {
    let Ok(mut machines) = serde_json::from_str::<serde_json::Value>(said) else {
        return said.to_owned();
    };
    for machine in machines.as_array_mut().into_iter().flatten() {
        if let Some(network) = machine.get_mut("network") {
            *network = false.into();
        }
    }
    machines.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "machine create --name m --cpus 1",
        false,
        true,
        "machine create --net --name m --cpus 1"
    )]
    #[case("machine create --name m", true, false, "machine create --name m")]
    #[case(
        "machine exec --name m -- /x/bottle-guest --seccomp --confine 7:8 --exec -- sh --seccomp",
        true,
        false,
        "machine exec --name m -- /x/bottle-guest --exec -- sh --seccomp"
    )]
    #[case(
        "machine exec --name m -- /x/bottle-guest",
        true,
        true,
        "machine exec --name m -- /x/bottle-guest"
    )]
    #[case(
        "machine exec --name m -- g --confine 7 -- sh",
        false,
        true,
        "machine exec --name m -- g --confine 7 -- sh"
    )]
    #[case("--version", true, true, "--version")]
    fn exactly_one_control_is_left_out(
        #[case] words: &str,
        #[case] unconfined: bool,
        #[case] network: bool,
        #[case] expected: &str,
    ) {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        assert_eq!(changed(&words, unconfined, network).join(" "), expected);
    }

    #[test]
    fn the_network_is_not_told_of() {
        let said = r#"[{"name":"m","network":true,"cpus":1},{"name":"n"}]"#;
        assert_eq!(
            disowned(said),
            r#"[{"cpus":1,"name":"m","network":false},{"name":"n"}]"#
        );
        assert_eq!(disowned("{]"), "{]");
    }

    #[test]
    fn the_program_passes_on_what_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let removed = MachineRemoved {
            confinement: true,
            network: None,
        };
        let path = program(directory.path(), Path::new("/it's/smolvm"), &removed, None).unwrap();
        let script = std::fs::read_to_string(path).unwrap();
        assert!(
            script.ends_with("'__smolvm' '--program' '/it'\\''s/smolvm' '--unconfined' -- \"$@\"\n"),
            "{script}"
        );
    }
}
