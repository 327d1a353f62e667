//! Action `Capability`: is it in any set of the agent, and does an operation that needs it work?

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{CWD, FileType, IFlags, Mode, XattrFlags, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::process::{Gid, Resource, Uid};
use socket2::{Domain, Protocol, Socket, Type};

use crate::notes::{Done, NotIssued, Run, errno};
use crate::scratch::Scratch;
use crate::syscall::{self, Forbidden};
use crate::{netlink, status};

/// Kernel names without `CAP_`, in the order of their numbers (capabilities(7)).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// An identity that the agent never has.
const STRANGER: u32 = 54_321;

/// How an operation ended.
enum Tried {
    /// Done: the capability is effective.
    Works,
    /// Refused, or failed for a reason that says nothing about the capability.
    Failed(String),
    /// There is no harmless operation here that only this capability allows; the sets decide.
    Nothing(&'static str),
}

impl<T> From<io::Result<T>> for Tried {
    fn from(result: io::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Works,
            Err(error) => Self::Failed(errno(&error)),
        }
    }
}

impl<T> From<rustix::io::Result<T>> for Tried {
    fn from(result: rustix::io::Result<T>) -> Self {
        result.map_err(io::Error::from).into()
    }
}

/// Reports the sets, and tries the operation. Being in any set is a finding: a permitted or inheritable capability is one
/// system call or one `exec` away from an effective one.
pub fn capability(run: &Run, name: &str) -> Done {
    let number = NAMES
        .iter()
        .position(|known| *known == name)
        .ok_or_else(|| NotIssued::Unfit(format!("`{name}` is no capability of capabilities(7)")))?;
    let status = status::read("self").map_err(|error| NotIssued::Agent(format!("/proc/self/status: {error}")))?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let text = status::field(&status, set).unwrap_or_default();
        let bits = u64::from_str_radix(text, 16).map_err(|_| {
            NotIssued::Agent(format!(
                "expected {set} in hexadecimal in /proc/self/status, found `{text}`"
            ))
        })?;
        run.trace(format!("{set} {bits:016x}"));
        if bits >> number & 1 == 1 {
            run.notes.finding(format!("capability {name} is in {set}"));
        }
    }
    match operation(name) {
        Tried::Works => run.notes.finding(format!("capability {name} works")),
        Tried::Failed(how) => run.trace(format!("operation that needs {name}: {how}")),
        Tried::Nothing(why) => run.trace(format!("no operation for {name}: {why}")),
    }
    Ok(())
}

/// Runs in the thread of its case, which ends afterwards: identity, bounding set and personality are the thread's own.
fn operation(name: &str) -> Tried {
    match name {
        "chown" | "dac_override" | "fsetid" | "linux_immutable" | "mknod" | "setfcap" | "sys_admin" => {
            match Scratch::new() {
                Ok(scratch) => on_files(name, scratch.path()),
                Err(error) => Tried::Failed(format!("no directory to write in: {}", errno(&error))),
            }
        }
        "dac_read_search" => forbidden("open_by_handle_at"),
        "fowner" => on_file_of_others(),
        "kill" | "sys_ptrace" => on_first_process(name),
        "setgid" => rustix::thread::set_thread_gid(Gid::from_raw(STRANGER)).into(),
        "setuid" => rustix::thread::set_thread_uid(Uid::from_raw(STRANGER)).into(),
        "setpcap" => {
            rustix::thread::remove_capability_from_bounding_set(rustix::thread::CapabilitySet::AUDIT_READ).into()
        }
        "net_admin" => udp_socket()
            .and_then(|s| Ok(rustix::net::sockopt::set_socket_recv_buffer_size_force(&s, 8192)?))
            .into(),
        "net_raw" => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).into(),
        "ipc_lock" => match rustix::process::getrlimit(Resource::Memlock).current {
            Some(_) => syscall::lock_memory().into(),
            None => Tried::Nothing("locking memory is not limited"),
        },
        "sys_module" => forbidden("init_module"),
        "sys_rawio" => OpenOptions::new().read(true).open("/dev/port").into(),
        "sys_chroot" => rustix::process::chroot("/").into(),
        "sys_pacct" => forbidden("acct"),
        "sys_boot" => forbidden("reboot"),
        "sys_nice" => rustix::process::getpriority_process(None)
            .and_then(|nice| rustix::process::setpriority_process(None, nice - 1))
            .into(),
        "sys_resource" => lower_oom_score().into(),
        "sys_time" => syscall::adjust_clock_in_place().into(),
        "audit_write" => netlink::audit_message(netlink::AUDIT_USER).into(),
        "audit_control" => netlink::audit_message(netlink::AUDIT_GET).into(),
        "audit_read" => join_audit_log().into(),
        "syslog" => syscall::kernel_log_size().into(),
        "wake_alarm" => syscall::alarm_timer().into(),
        "bpf" => match fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled") {
            Ok(text) if text.trim() == "0" => Tried::Nothing("everybody may load socket filters"),
            _ => syscall::load_bpf(1).into(),
        },
        "checkpoint_restore" => rewrite("/proc/sys/kernel/ns_last_pid").into(),
        _ => Tried::Nothing("none is harmless and needs it alone"),
    }
}

/// A call that asks for the capability before it looks at its (bad) arguments.
fn forbidden(call: &str) -> Tried {
    match syscall::forbidden(call) {
        Forbidden::Made(Err(error)) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) | None => Tried::Failed(errno(&error)),
            Some(_) => Tried::Works,
        },
        Forbidden::Made(Ok(_)) => Tried::Works,
        Forbidden::Absent | Forbidden::Unknown => Tried::Nothing("this architecture has no call for it"),
    }
}

fn on_files(name: &str, scratch: &Path) -> Tried {
    let file = scratch.join("file");
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    let mut made = match made {
        Ok(made) => made,
        Err(error) => return Tried::Failed(format!("no file to try it on: {}", errno(&error))),
    };
    match name {
        "chown" => chown(&file, Some(STRANGER), None).into(),
        "dac_override" => fs::set_permissions(&file, fs::Permissions::from_mode(0o0))
            .and_then(|()| OpenOptions::new().write(true).open(&file))
            .into(),
        "fsetid" => keeps_set_id(&file, &mut made),
        "linux_immutable" => {
            let tried = rustix::fs::ioctl_setflags(&made, IFlags::APPEND);
            // Otherwise it could not be removed.
            let _ = rustix::fs::ioctl_setflags(&made, IFlags::empty());
            tried.into()
        }
        // The null device: what is created is as harmless as it can be.
        "mknod" => mknodat(
            CWD,
            scratch.join("node"),
            FileType::CharacterDevice,
            Mode::RUSR,
            makedev(1, 3),
        )
        .into(),
        "setfcap" => {
            /// `struct vfs_cap_data` of revision 2 with empty sets (linux/capability.h).
            const NO_CAPABILITIES: [u8; 20] = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            rustix::fs::fsetxattr(&made, "security.capability", &NO_CAPABILITIES, XattrFlags::empty()).into()
        }
        _ => {
            let tried = mount("bottle-probe", scratch, "tmpfs", MountFlags::NOSUID, None);
            if tried.is_ok() {
                let _ = unmount(scratch, UnmountFlags::DETACH);
            }
            tried.into()
        }
    }
}

/// Writing to a set-user-id file takes the bit away, except from one with CAP_FSETID.
fn keeps_set_id(path: &Path, file: &mut File) -> Tried {
    let mode = file
        .set_permissions(fs::Permissions::from_mode(0o4755))
        .and_then(|()| file.write_all(b"x"))
        .and_then(|()| fs::metadata(path))
        .map(|metadata| metadata.permissions().mode());
    match mode {
        Ok(mode) if mode & 0o4000 != 0 => Tried::Works,
        Ok(_) => Tried::Failed("the set-user-id bit was taken away".to_owned()),
        Err(error) => Tried::Failed(errno(&error)),
    }
}

/// Sets a mode to what it is, on a file of somebody else.
fn on_file_of_others() -> Tried {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    for path in ["/bottle-marker", "/tmp", "/etc/hostname", "/etc", "/"] {
        match fs::metadata(path) {
            Ok(metadata) if metadata.uid() != own => return fs::set_permissions(path, metadata.permissions()).into(),
            _ => {}
        }
    }
    Tried::Nothing("every file that was looked at is the agent's own")
}

/// Process 1 is only a test when it is somebody else's.
fn on_first_process(name: &str) -> Tried {
    let owner = status::read("1").ok().and_then(|status| {
        status::field(&status, "Uid").and_then(|uids| uids.split_whitespace().next()?.parse::<u32>().ok())
    });
    if owner.is_none_or(|owner| owner == rustix::process::geteuid().as_raw()) {
        return Tried::Nothing("process 1 has the agent's own user");
    }
    match name {
        "kill" => rustix::process::test_kill_process(rustix::process::Pid::INIT).into(),
        _ => File::open("/proc/1/mem").into(),
    }
}

fn udp_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

/// Below the least value that somebody with the capability has set (proc(5)), and back.
fn lower_oom_score() -> io::Result<()> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let now: i32 = fs::read_to_string(PATH)?.trim().parse().map_err(io::Error::other)?;
    if now <= -1000 {
        return Err(io::Error::other("it is the least already"));
    }
    fs::write(PATH, (now - 1).to_string())?;
    fs::write(PATH, now.to_string())
}

fn join_audit_log() -> io::Result<()> {
    let socket = netlink::open(netlink::AUDIT)?;
    Ok(rustix::net::bind(socket.as_fd(), &SocketAddrNetlink::new(0, 1))?)
}

/// Writes to a file what is in it.
fn rewrite(path: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (name, number) in [
            ("chown", 0),
            ("net_admin", 12),
            ("sys_admin", 21),
            ("mknod", 27),
            ("checkpoint_restore", 40),
        ] {
            assert_eq!(NAMES[number], name);
        }
    }

    #[test]
    fn every_capability_is_attempted() {
        // Not `sys_boot` and the like in particular: none may harm the machine that runs the tests.
        for name in NAMES {
            let done = std::thread::spawn(move || {
                let run = crate::notes::tests::run(5000);
                capability(&run, name)
                    .map(|()| run.notes.content())
                    .map_err(|error| error.to_string())
            });
            let content = done.join().expect("lives").expect("is issued");
            assert!(content.trace.iter().any(|line| line.starts_with("CapEff ")), "{name}");
        }
        assert!(capability(&crate::notes::tests::run(1000), "unknown").is_err());
    }
}
