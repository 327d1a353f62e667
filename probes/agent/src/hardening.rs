//! Actions `Syscall`, `NoNewPrivileges` and `Descriptors`, and the helper that the second one runs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use probe_spec::DescriptorsOf;

use crate::notes::{Done, NotIssued, Run, errno};
use crate::scratch::Scratch;
use crate::status;
use crate::syscall::{self, Forbidden};

/// A set-user-id copy of the agent, owned by root, that an image may have for this purpose.
const PLANTED: &str = "/setuid-probe";
/// User that a root agent runs its own helper as.
const NOBODY: u32 = 65_534;

/// Action `Syscall`.
pub fn forbidden_call(run: &Run, name: &str) -> Done {
    match syscall::forbidden(name) {
        Forbidden::Unknown => {
            return Err(NotIssued::Unfit(format!(
                "the agent has no arguments for a call `{name}`"
            )));
        }
        Forbidden::Absent => run.trace(format!("{name}: this architecture has no such call")),
        Forbidden::Made(Ok(value)) => run
            .notes
            .finding(format!("system call {name} is let through: returned {value}")),
        Forbidden::Made(Err(error)) => match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => run.trace(format!("{name}: {}", errno(&error))),
            _ => run
                .notes
                .finding(format!("system call {name} is let through: {}", errno(&error))),
        },
    }
    Ok(())
}

/// Action `NoNewPrivileges`.
pub fn no_new_privileges(run: &Run, helper: bool) -> Done {
    let agent = |error: std::io::Error| NotIssued::Agent(format!("/proc/self/status: {error}"));
    let own = status::read("self").map_err(agent)?;
    let flag = status::field(&own, "NoNewPrivs").unwrap_or("missing");
    run.trace(format!("NoNewPrivs {flag}"));
    if flag != "1" {
        run.notes.finding(format!("no_new_privs is {flag}"));
    }
    if helper { run_helper(run) } else { Ok(()) }
}

fn run_helper(run: &Run) -> Done {
    let is_root = rustix::process::geteuid().is_root();
    let mut scratch = None;
    let planted = fs::metadata(PLANTED).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o4000 != 0);
    let path = match (planted, is_root) {
        (true, _) => PathBuf::from(PLANTED),
        (false, true) => match plant() {
            Ok((kept, path)) => {
                scratch = Some(kept);
                path
            }
            Err(error) => {
                return Err(NotIssued::Agent(format!(
                    "cannot plant a set-user-id helper: {}",
                    errno(&error)
                )));
            }
        },
        (false, false) => {
            return Err(NotIssued::Unfit(format!(
                "the image has no {PLANTED} (owner root, mode 4755), and the agent is not root"
            )));
        }
    };
    let mut command = Command::new(&path);
    command.arg("setuid-helper").env_clear().stdin(Stdio::null());
    if is_root {
        // Without this there is nothing to gain. It takes CAP_SETUID; where that is missing, root cannot become another user,
        // and set-user-id root files give it nothing.
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output();
    drop(scratch);
    match output {
        Err(error) if is_root && error.raw_os_error() == Some(libc::EPERM) => {
            run.trace("the agent is root and cannot become another user: nothing to gain by a helper");
            Ok(())
        }
        Err(error) => Err(NotIssued::Agent(format!(
            "cannot run {}: {}",
            path.display(),
            errno(&error)
        ))),
        Ok(output) => judge_helper(run, &String::from_utf8_lossy(&output.stdout)),
    }
}

/// A copy of the agent with the set-user-id bit. Not on a mount that ignores the bit, if there is another.
fn plant() -> std::io::Result<(Scratch, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let writable = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (place, options) = (words.nth(1)?, words.nth(1)?);
        let ignores = options
            .split(',')
            .any(|option| ["ro", "nosuid", "noexec"].contains(&option));
        (!ignores).then(|| PathBuf::from(place))
    });
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for place in writable.chain(["/tmp", "/dev/shm", "/run"].map(PathBuf::from)) {
        match Scratch::below(&place).and_then(|scratch| plant_in(scratch.path()).map(|path| (scratch, path))) {
            Ok(planted) => return Ok(planted),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn plant_in(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("setuid-probe");
    fs::copy("/proc/self/exe", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755))?;
    Ok(path)
}

/// Reads what [`setuid_helper`] printed.
fn judge_helper(run: &Run, said: &str) -> Done {
    let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let (Some(euid), Some(permitted), Some(flag)) = (value("euid"), value("CapPrm"), value("NoNewPrivs")) else {
        return Err(NotIssued::Agent("the helper did not say what it has".to_owned()));
    };
    run.trace(format!("helper: euid {euid}, CapPrm {permitted}, NoNewPrivs {flag}"));
    if euid == "0" {
        run.notes.finding("a set-user-id helper became root");
    }
    if permitted.bytes().any(|digit| digit != b'0') {
        run.notes
            .finding(format!("a set-user-id helper gained capabilities {permitted}"));
    }
    if flag != "1" {
        run.notes.finding(format!("no_new_privs of a helper is {flag}"));
    }
    Ok(())
}

/// `bottle-probe setuid-helper`: prints identity and capability sets, a line each.
pub fn setuid_helper() -> ExitCode {
    let own = status::read("self").unwrap_or_default();
    println!("uid {}", rustix::process::getuid().as_raw());
    println!("euid {}", rustix::process::geteuid().as_raw());
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
        println!("{name} {}", status::field(&own, name).unwrap_or("missing"));
    }
    ExitCode::SUCCESS
}

/// What the agent had open when it was started: descriptor and target. Cases that run at the same time open files of their own,
/// so this cannot be read later.
static INHERITED: OnceLock<Vec<(String, String)>> = OnceLock::new();

/// Remembers what was inherited. Called before anything else happens.
pub fn remember_inherited() {
    if let Ok(open) = open_files("self") {
        // Set once, by `main`.
        let _ = INHERITED.set(open);
    }
}

/// Descriptors of a process and what they lead to, without that of this very listing.
fn open_files(process: &str) -> std::io::Result<Vec<(String, String)>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
        let target = fs::read_link(entry.path()).map(|target| target.to_string_lossy().into_owned());
        let own_listing = |target: &str| target == format!("/proc/{}/fd", std::process::id());
        if let Ok(target) = target
            && !own_listing(&target)
        {
            open.push((entry.file_name().to_string_lossy().into_owned(), target));
        }
    }
    Ok(open)
}

/// Action `Descriptors`.
pub fn descriptors(run: &Run, of: DescriptorsOf) -> Done {
    let process = match of {
        DescriptorsOf::Own => std::process::id(),
        DescriptorsOf::Init => 1,
        DescriptorsOf::Main => status::main_command(),
    };
    let open = match (of, open_files(&process.to_string())) {
        (DescriptorsOf::Own, _) => INHERITED
            .get()
            .cloned()
            .ok_or_else(|| NotIssued::Agent("/proc/self/fd could not be read when the agent started".to_owned()))?,
        (_, Ok(open)) => open,
        // The agent's own user's: whatever is read instead is not it.
        (DescriptorsOf::Main, Err(error)) => {
            return Err(NotIssued::Agent(format!(
                "/proc/{process}/fd, taken for the main command's, cannot be read: {}",
                errno(&error)
            )));
        }
        // Not readable is what a guest that cannot look into its init shows: tried, and nothing to find.
        (_, Err(error)) => {
            run.trace(format!("/proc/{process}/fd: {}", errno(&error)));
            return Ok(());
        }
    };
    for (name, target) in open {
        run.trace(format!("{process} fd {name} -> {target}"));
        if !is_declared(&name, &target) {
            run.notes
                .finding(format!("process {process} has descriptor {name} open: {target}"));
        }
    }
    for (link, expected) in [("cwd", None), ("root", Some("/"))] {
        match fs::read_link(format!("/proc/{process}/{link}")) {
            Ok(target) => {
                let target = target.to_string_lossy().into_owned();
                run.trace(format!("{process} {link} -> {target}"));
                let leads_outside = target.starts_with("(unreachable)") || !target.starts_with('/');
                if leads_outside || expected.is_some_and(|expected| expected != target) {
                    run.notes
                        .finding(format!("{link} of process {process} leads outside: {target}"));
                }
            }
            Err(error) => run.trace(format!("{process} {link}: {}", errno(&error))),
        }
    }
    Ok(())
}

/// 0, 1, 2, pipes, sockets and the kernel's nameless objects. A directory or file beyond these is what CVE-2024-21626 leaked.
fn is_declared(name: &str, target: &str) -> bool {
    ["0", "1", "2"].contains(&name)
        || ["pipe:", "socket:", "anon_inode:"]
            .iter()
            .any(|kind| target.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;

    #[test]
    fn an_inherited_directory_is_found() {
        let directory = fs::File::open("/").expect("opens");
        let open = open_files("self").expect("reads");
        drop(directory);
        assert!(
            open.iter()
                .any(|(name, target)| target == "/" && !is_declared(name, target)),
            "{open:?}"
        );
        let run = run(1000);
        descriptors(&run, DescriptorsOf::Main).expect("is issued");
        assert!(!run.notes.content().trace.is_empty());
        assert!(is_declared("5", "pipe:[1]") && !is_declared("5", "/sys/fs/cgroup"));
    }

    #[test]
    fn the_helper_is_judged_by_what_it_says() {
        let run = run(1000);
        judge_helper(&run, "uid 1\neuid 1\nCapPrm 0000\nNoNewPrivs 1\n").expect("is issued");
        assert!(run.notes.content().findings.is_empty());
        judge_helper(&run, "uid 1\neuid 0\nCapPrm 0001\nNoNewPrivs 0\n").expect("is issued");
        assert_eq!(run.notes.content().findings.len(), 3);
        assert!(judge_helper(&run, "").is_err());
    }

    #[test]
    fn unknown_calls_are_not_issued() {
        assert!(forbidden_call(&run(1000), "unknown").is_err());
        let run = run(1000);
        forbidden_call(&run, "nfsservctl").expect("is issued");
        assert!(run.notes.content().findings.is_empty());
    }
}
