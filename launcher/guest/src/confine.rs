//! What a container engine does for its containers before their first instruction, for a guest that is a machine of its
//! own: nothing but this program stands there between the command and the whole kernel.
//!
//! Order: what needs root (host name, file systems, limits), then the user, then the capabilities, then the filter of system
//! calls. Whatever fails, the command never runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::args::Confine;

/// Why the command could not be confined.
#[derive(Debug)]
pub struct ConfineError {
    what: String,
    error: io::Error,
}

/// Applies everything to the calling thread, which must be the only one.
pub fn confine(wanted: &Confine) -> Result<(), ConfineError> {
    // Names are looked up in the image's own files, before anything is mounted over them.
    let ids = wanted.user.as_deref().map(find_user).transpose()?;
    if let Some(name) = &wanted.hostname {
        step("set the host name", rustix::system::sethostname(name.as_bytes()))?;
    }
    if wanted.no_resolver {
        cover_resolver()?;
    }
    for file_system in &wanted.tmpfs {
        mount_tmpfs(file_system)?;
    }
    for directory in &wanted.writable {
        keep_writable(directory, ids)?;
    }
    if let Some(path) = &wanted.pid_file {
        let pid = rustix::process::getpid().as_raw_nonzero().to_string();
        fs::write(path, pid).map_err(|error| failed(format!("write {}", path.display()), error))?;
    }
    if wanted.read_only_root {
        make_root_read_only()?;
    }
    for (resource, most) in [
        (Resource::Nofile, wanted.open_files),
        (Resource::Nproc, wanted.processes),
    ] {
        if most.is_some() {
            let limit = Rlimit {
                current: most,
                maximum: most,
            };
            step("set a limit", setrlimit(resource, limit))?;
        }
    }
    if let Some((user, group)) = ids {
        drop_privileges(user, group)?;
    }
    if wanted.seccomp {
        step("set no_new_privs", thread::set_no_new_privs(true))?;
        crate::edge::filter_system_calls(&crate::seccomp::program())
            .map_err(|error| failed("install the filter of system calls".to_owned(), error))?;
    }
    Ok(())
}

fn drop_privileges(user: u32, group: u32) -> Result<(), ConfineError> {
    // The bounding set first: it takes a capability that is about to go.
    for number in 0..64u64 {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else {
            continue;
        };
        match thread::remove_capability_from_bounding_set(capability) {
            // A kernel that has fewer.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(failed("empty the bounding set".to_owned(), error.into())),
        }
    }
    // Kernels without ambient capabilities have none to clear.
    let _ = thread::clear_ambient_capability_set();
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    step("leave the supplementary groups", thread::set_thread_groups(&[]))?;
    step("change the group", thread::set_thread_res_gid(group, group, group))?;
    step("change the user", thread::set_thread_res_uid(user, user, user))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop the capabilities", thread::set_capabilities(None, none))?;
    step("set no_new_privs", thread::set_no_new_privs(true))
}

/// An in-memory file system to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Options as engines take them: `mode=1777,exec,nosuid,nodev,uid=1,gid=1`.
    pub options: String,
}

fn mount_tmpfs(wanted: &Tmpfs) -> Result<(), ConfineError> {
    let what = || format!("mount an in-memory file system at {}", wanted.path.display());
    fs::create_dir_all(&wanted.path).map_err(|error| failed(what(), error))?;
    let (flags, data) = tmpfs_options(wanted);
    let data = std::ffi::CString::new(data).map_err(|error| failed(what(), error.into()))?;
    mount("tmpfs", &wanted.path, "tmpfs", flags, data.as_c_str()).map_err(|error| failed(what(), error.into()))
}

/// A mount of its own: what is done to the root's leaves it alone.
fn keep_writable(directory: &Path, owner: Option<(u32, u32)>) -> Result<(), ConfineError> {
    let what = || format!("give {} to the user", directory.display());
    fs::create_dir_all(directory).map_err(|error| failed(what(), error))?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(directory, Some(user), Some(group)).map_err(|error| failed(what(), error))?;
    }
    mount_bind(directory, directory).map_err(|error| failed(what(), error.into()))
}

/// Flags and file system options.
fn tmpfs_options(wanted: &Tmpfs) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = format!("size={}", wanted.bytes);
    for option in wanted.options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "ro" => flags |= MountFlags::RDONLY,
            "exec" | "rw" => {}
            other => {
                data.push(',');
                data.push_str(other);
            }
        }
    }
    (flags, data)
}

/// The root as this mount namespace has it, not the file system below, which others may have too.
fn make_root_read_only() -> Result<(), ConfineError> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    step("make the root read-only", mount_remount("/", flags, ""))
}

/// A name server at loopback, where none listens: the host's own list would tell of the host. smolvm writes that list anew
/// for every program, so a file of ours covers it.
fn cover_resolver() -> Result<(), ConfineError> {
    let (ours, path) = ("/run/bottle-guest.resolv", "/etc/resolv.conf");
    fs::write(ours, "nameserver 127.0.0.1\n").map_err(|error| failed(format!("write {ours}"), error))?;
    step("cover /etc/resolv.conf", mount_bind(ours, path))
}

/// User and group by `user[:group]`, names or numbers.
fn find_user(text: &str) -> Result<(u32, u32), ConfineError> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    look_up(text, &passwd, &group).ok_or_else(|| {
        let error = io::Error::new(
            io::ErrorKind::NotFound,
            "the image's /etc/passwd or /etc/group has no such name",
        );
        failed(format!("find the user {text:?}"), error)
    })
}

fn look_up(text: &str, passwd: &str, groups: &str) -> Option<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let number = |line: &[String], index: usize| line.get(index)?.parse::<u32>().ok();
    let lines: Vec<Vec<String>> = passwd.lines().map(fields).collect();
    let entry = match user.parse::<u32>() {
        Ok(uid) => lines.iter().find(|line| number(line, 2) == Some(uid)),
        Err(_) => lines.iter().find(|line| line.first().is_some_and(|name| name == user)),
    };
    let uid = user
        .parse::<u32>()
        .ok()
        .or_else(|| entry.and_then(|line| number(line, 2)))?;
    let gid = match group {
        Some(group) => group.parse::<u32>().ok().or_else(|| {
            let found = groups
                .lines()
                .map(fields)
                .find(|line| line.first().is_some_and(|name| name == group));
            found.and_then(|line| number(&line, 2))
        })?,
        // As engines do: a number that the image does not know has the group root; ours has a group of its own.
        None => entry.and_then(|line| number(line, 3)).unwrap_or(uid),
    };
    Some((uid, gid))
}

fn step(what: &str, done: Result<(), Errno>) -> Result<(), ConfineError> {
    done.map_err(|error| failed(what.to_owned(), error.into()))
}

fn failed(what: String, error: io::Error) -> ConfineError {
    ConfineError { what, error }
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.error)
    }
}

impl std::error::Error for ConfineError {}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:node\n";

    #[rstest::rstest]
    #[case("node", Some((1000, 1001)))]
    #[case("node:staff", Some((1000, 50)))]
    #[case("node:7", Some((1000, 7)))]
    #[case("1000", Some((1000, 1001)))]
    #[case("2000", Some((2000, 2000)))]
    #[case("0", Some((0, 0)))]
    #[case("2000:3000", Some((2000, 3000)))]
    #[case("nobody", None)]
    #[case("node:wheel", None)]
    #[case("broken", None)]
    fn users(#[case] text: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(look_up(text, PASSWD, GROUP), expected);
    }

    #[test]
    fn options_of_engines() {
        let wanted = Tmpfs {
            path: "/tmp".into(),
            bytes: 4096,
            options: "mode=1777,exec,nosuid,nodev".into(),
        };
        let (flags, data) = tmpfs_options(&wanted);
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::NODEV);
        assert_eq!(data, "size=4096,mode=1777");
    }
}
