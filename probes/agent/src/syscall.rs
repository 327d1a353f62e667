//! System calls that no safe wrapper offers. The only unsafe code of the agent.
//!
//! Two kinds are here: calls that the design forbids, with arguments chosen so that a kernel that lets them through refuses
//! them before it does anything (null pointers, descriptor -1, unknown flags), where possible before it asks for a capability;
//! and a few calls on the agent's own memory and descriptors.
#![expect(unsafe_code, reason = "raw system calls are what this file is for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use libc::c_long;

/// Six arguments of a call.
type Arguments = [c_long; 6];

/// Every bit set: an unknown flag, an invalid descriptor, an invalid command.
const BAD: c_long = -1;
/// Address in the first page, which is never mapped.
const UNMAPPED: c_long = 1;
const NEWUSER: c_long = libc::CLONE_NEWUSER as c_long;

macro_rules! forbidden {
    ($($name:ident $(= $number:literal)? $arguments:expr;)*) => {
        [$((stringify!($name), forbidden!(@number $name $($number)?), $arguments)),*]
    };
    (@number $name:ident) => { paste_number::$name };
    (@number $name:ident $number:literal) => { $number };
}

/// Numbers under their plain names.
#[allow(non_upper_case_globals)]
mod paste_number {
    pub use libc::{
        SYS_acct as acct, SYS_add_key as add_key, SYS_adjtimex as adjtimex, SYS_bpf as bpf, SYS_chroot as chroot,
        SYS_clock_adjtime as clock_adjtime, SYS_clock_settime as clock_settime, SYS_clone as clone,
        SYS_clone3 as clone3, SYS_delete_module as delete_module, SYS_fanotify_init as fanotify_init,
        SYS_finit_module as finit_module, SYS_fsconfig as fsconfig, SYS_fsmount as fsmount, SYS_fsopen as fsopen,
        SYS_fspick as fspick, SYS_get_mempolicy as get_mempolicy, SYS_init_module as init_module,
        SYS_io_uring_enter as io_uring_enter, SYS_io_uring_register as io_uring_register,
        SYS_io_uring_setup as io_uring_setup, SYS_kcmp as kcmp, SYS_kexec_load as kexec_load, SYS_keyctl as keyctl,
        SYS_lookup_dcookie as lookup_dcookie, SYS_mbind as mbind, SYS_memfd_secret as memfd_secret,
        SYS_migrate_pages as migrate_pages, SYS_mknodat as mknodat, SYS_mount as mount,
        SYS_mount_setattr as mount_setattr, SYS_move_mount as move_mount, SYS_move_pages as move_pages,
        SYS_name_to_handle_at as name_to_handle_at, SYS_nfsservctl as nfsservctl,
        SYS_open_by_handle_at as open_by_handle_at, SYS_open_tree as open_tree, SYS_perf_event_open as perf_event_open,
        SYS_personality as personality, SYS_pidfd_getfd as pidfd_getfd, SYS_pidfd_open as pidfd_open,
        SYS_pivot_root as pivot_root, SYS_process_madvise as process_madvise, SYS_process_vm_readv as process_vm_readv,
        SYS_process_vm_writev as process_vm_writev, SYS_ptrace as ptrace, SYS_quotactl as quotactl,
        SYS_quotactl_fd as quotactl_fd, SYS_reboot as reboot, SYS_request_key as request_key,
        SYS_set_mempolicy as set_mempolicy, SYS_setdomainname as setdomainname, SYS_sethostname as sethostname,
        SYS_setns as setns, SYS_settimeofday as settimeofday, SYS_swapoff as swapoff, SYS_swapon as swapon,
        SYS_syslog as syslog, SYS_umount2 as umount2, SYS_unshare as unshare, SYS_userfaultfd as userfaultfd,
    };
    #[cfg(target_arch = "x86_64")]
    pub use libc::{SYS_ioperm as ioperm, SYS_iopl as iopl, SYS_uselib as uselib};
}

/// Number of `kexec_file_load`, which not every libc of aarch64 names.
const KEXEC_FILE_LOAD: c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// Forbidden calls of all architectures.
const FORBIDDEN: [(&str, c_long, Arguments); 62] = forbidden![
    mount [0, 0, 0, 0, 0, 0];
    umount2 [0, BAD, 0, 0, 0, 0];
    pivot_root [0, 0, 0, 0, 0, 0];
    move_mount [BAD, 0, BAD, 0, BAD, 0];
    open_tree [BAD, 0, BAD, 0, 0, 0];
    fsopen [0, BAD, 0, 0, 0, 0];
    fsmount [BAD, BAD, BAD, 0, 0, 0];
    fspick [BAD, 0, BAD, 0, 0, 0];
    fsconfig [BAD, BAD, 0, 0, 0, 0];
    mount_setattr [BAD, 0, BAD, 0, 0, 0];
    bpf [BAD, 0, 0, 0, 0, 0];
    keyctl [BAD, 0, 0, 0, 0, 0];
    add_key [0, 0, 0, 0, 0, 0];
    request_key [0, 0, 0, 0, 0, 0];
    kexec_load [0, BAD, 0, BAD, 0, 0];
    userfaultfd [1 | 1 << 30, 0, 0, 0, 0, 0];
    io_uring_setup [0, 0, 0, 0, 0, 0];
    io_uring_enter [BAD, 0, 0, BAD, 0, 0];
    io_uring_register [BAD, BAD, 0, 0, 0, 0];
    perf_event_open [0, 0, BAD, BAD, BAD, 0];
    ptrace [BAD, 0, 0, 0, 0, 0];
    process_vm_readv [BAD, 0, 0, 0, 0, BAD];
    process_vm_writev [BAD, 0, 0, 0, 0, BAD];
    process_madvise [BAD, 0, 0, 0, BAD, 0];
    open_by_handle_at [BAD, 0, 0, 0, 0, 0];
    name_to_handle_at [BAD, 0, 0, 0, BAD, 0];
    init_module [0, 0, 0, 0, 0, 0];
    finit_module [BAD, 0, BAD, 0, 0, 0];
    delete_module [0, 0, 0, 0, 0, 0];
    reboot [0, 0, 0, 0, 0, 0];
    swapon [0, BAD, 0, 0, 0, 0];
    swapoff [0, 0, 0, 0, 0, 0];
    settimeofday [UNMAPPED, 0, 0, 0, 0, 0];
    clock_settime [999, 0, 0, 0, 0, 0];
    clock_adjtime [999, UNMAPPED, 0, 0, 0, 0];
    adjtimex [UNMAPPED, 0, 0, 0, 0, 0];
    sethostname [0, BAD, 0, 0, 0, 0];
    setdomainname [0, BAD, 0, 0, 0, 0];
    setns [BAD, BAD, 0, 0, 0, 0];
    // A process with threads may not enter a new user namespace: EINVAL, and nothing changes.
    unshare [NEWUSER, 0, 0, 0, 0, 0];
    // Sharing the file system view excludes a new user namespace: EINVAL before anything is copied.
    clone [NEWUSER | libc::CLONE_FS as c_long, 0, 0, 0, 0, 0];
    clone3 [0, 0, 0, 0, 0, 0];
    acct [UNMAPPED, 0, 0, 0, 0, 0];
    quotactl [BAD, 0, 0, 0, 0, 0];
    quotactl_fd [BAD, BAD, 0, 0, 0, 0];
    lookup_dcookie [0, 0, 0, 0, 0, 0];
    nfsservctl [BAD, 0, 0, 0, 0, 0];
    // ADDR_NO_RANDOMIZE, of this thread only.
    personality [0x0004_0000, 0, 0, 0, 0, 0];
    fanotify_init [BAD, BAD, 0, 0, 0, 0];
    pidfd_getfd [BAD, BAD, BAD, 0, 0, 0];
    pidfd_open [BAD, BAD, 0, 0, 0, 0];
    kcmp [BAD, BAD, BAD, 0, 0, 0];
    mbind [0, 0, 0, 0, 0, BAD];
    set_mempolicy [BAD, 0, 0, 0, 0, 0];
    get_mempolicy [0, 0, 0, 0, BAD, 0];
    migrate_pages [BAD, 0, 0, 0, 0, 0];
    move_pages [BAD, 0, 0, 0, 0, BAD];
    syslog [BAD, 0, 0, 0, 0, 0];
    chroot [0, 0, 0, 0, 0, 0];
    mknodat [BAD, 0, 0, 0, 0, 0];
    memfd_secret [BAD, 0, 0, 0, 0, 0];
    kexec_file_load = 0 [BAD, BAD, 0, 0, BAD, 0];
];

/// Forbidden calls that only x86_64 has.
#[cfg(target_arch = "x86_64")]
const OF_ARCHITECTURE: [(&str, c_long, Arguments); 3] = forbidden![
    iopl [4, 0, 0, 0, 0, 0];
    ioperm [65536, 65536, 1, 0, 0, 0];
    uselib [0, 0, 0, 0, 0, 0];
];
#[cfg(not(target_arch = "x86_64"))]
const OF_ARCHITECTURE: [(&str, c_long, Arguments); 0] = [];

/// How a forbidden call ended.
pub enum Forbidden {
    /// It was made.
    Made(io::Result<i64>),
    /// This architecture has no such call.
    Absent,
    /// The agent knows no such call.
    Unknown,
}

/// Makes a forbidden call by its name.
pub fn forbidden(name: &str) -> Forbidden {
    let known = FORBIDDEN
        .iter()
        .chain(&OF_ARCHITECTURE)
        .find(|(known, ..)| *known == name);
    match known {
        Some(("kexec_file_load", _, arguments)) => Forbidden::Made(call(KEXEC_FILE_LOAD, *arguments)),
        Some((_, number, arguments)) => {
            let result = call(*number, *arguments);
            if *name == *"clone" && matches!(result, Ok(0)) {
                // A kernel that made a child of it all the same: the copy must not attempt or answer anything.
                // SAFETY: ends the copied process at once, without running anything that the copy shares.
                unsafe { libc::_exit(0) }
            }
            Forbidden::Made(result)
        }
        None if ["iopl", "ioperm", "uselib"].contains(&name) => Forbidden::Absent,
        None => Forbidden::Unknown,
    }
}

/// Makes a call whose arguments are numbers of this file, or point to memory that outlives it.
fn call(number: c_long, arguments: Arguments) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: private to this file. Every caller passes plain numbers, null or unmapped addresses (the kernel answers EFAULT
    // to those and touches nothing), or addresses of live buffers of the size that the call expects.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Address of a buffer as an argument.
fn address<T: ?Sized>(buffer: &T) -> c_long {
    std::ptr::from_ref(buffer).cast::<u8>() as c_long
}

/// `syslog(SYSLOG_ACTION_SIZE_UNREAD)`: needs CAP_SYSLOG whatever `dmesg_restrict` says.
pub fn kernel_log_size() -> io::Result<i64> {
    call(libc::SYS_syslog, [9, 0, 0, 0, 0, 0])
}

/// Locks all memory of the process, and unlocks it at once.
pub fn lock_memory() -> io::Result<i64> {
    let locked = call(libc::SYS_mlockall, [1, 0, 0, 0, 0, 0])?;
    call(libc::SYS_munlockall, [0; 6])?;
    Ok(locked)
}

/// `timerfd_create(CLOCK_REALTIME_ALARM)`. The descriptor is closed at the end of the agent.
pub fn alarm_timer() -> io::Result<i64> {
    call(
        libc::SYS_timerfd_create,
        [libc::CLOCK_REALTIME_ALARM.into(), libc::TFD_CLOEXEC.into(), 0, 0, 0, 0],
    )
}

/// Sets the clock's estimated error to what it is.
pub fn adjust_clock_in_place() -> io::Result<i64> {
    /// `ADJ_ESTERROR`.
    const ESTIMATED_ERROR: u32 = 8;
    // `struct timex` has 208 bytes, its `modes` first, on all 64-bit architectures.
    let mut timex = [0u64; 32];
    let pointer = timex.as_mut_ptr() as c_long;
    call(libc::SYS_adjtimex, [pointer, 0, 0, 0, 0, 0])?;
    timex[0] = ESTIMATED_ERROR.into();
    let pointer = timex.as_mut_ptr() as c_long;
    call(libc::SYS_adjtimex, [pointer, 0, 0, 0, 0, 0])
}

/// Loads the smallest program of a BPF type (`r0 = 0; exit`). The descriptor is closed at the end of the agent.
pub fn load_bpf(program_type: u32) -> io::Result<i64> {
    const PROGRAM: [u64; 2] = [0xb7, 0x95];
    const LICENCE: &[u8; 4] = b"GPL\0";
    const PROG_LOAD: c_long = 5;
    let attributes: [u64; 16] = {
        let mut attributes = [0; 16];
        // u32 type, u32 instruction count: a native-endian word each.
        attributes[0] = u64::from(program_type) | (PROGRAM.len() as u64) << 32;
        attributes[1] = address(&PROGRAM) as u64;
        attributes[2] = address(LICENCE) as u64;
        attributes
    };
    call(
        libc::SYS_bpf,
        [
            PROG_LOAD,
            address(&attributes),
            size_of_val(&attributes) as c_long,
            0,
            0,
            0,
        ],
    )
}

/// `setsockopt` with a value of any shape.
fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<i64> {
    let fd = c_long::from(socket.as_raw_fd());
    call(
        libc::SYS_setsockopt,
        [fd, level.into(), name.into(), address(value), value.len() as c_long, 0],
    )
}

/// Replaces an iptables table. The kernel writes the counters of the old one where the pointer in `replace` says.
pub fn replace_table(socket: BorrowedFd<'_>, option: i32, replace: &[u8], counters: u32) -> io::Result<i64> {
    const POINTER: usize = crate::tamper::REPLACE_POINTER;
    let mut old = vec![[0u64; 2]; counters as usize];
    let mut replace = replace.to_vec();
    replace[POINTER..POINTER + 8].copy_from_slice(&(old.as_mut_ptr() as u64).to_ne_bytes());
    set_option(socket, libc::IPPROTO_IP, option, &replace)
}

/// `getsockopt` into `value`.
pub fn get_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> io::Result<i64> {
    let mut length = u32::try_from(value.len()).map_err(io::Error::other)?;
    let fd = c_long::from(socket.as_raw_fd());
    let pointers = (value.as_mut_ptr() as c_long, std::ptr::from_mut(&mut length) as c_long);
    call(
        libc::SYS_getsockopt,
        [fd, level.into(), name.into(), pointers.0, pointers.1, 0],
    )
}

/// Maps the first page of a file for reading, for the rest of the process's life, so that its name is in `/proc/self/maps`.
pub fn map_for_ever(file: impl AsFd) -> io::Result<i64> {
    let fd = c_long::from(file.as_fd().as_raw_fd());
    call(
        libc::SYS_mmap,
        [0, 4096, libc::PROT_READ.into(), libc::MAP_PRIVATE.into(), fd, 0],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forbidden_call_fails_and_leaves_the_process_alive() {
        for (name, ..) in FORBIDDEN.iter().chain(&OF_ARCHITECTURE) {
            // In a thread of its own, like a case.
            let result = std::thread::spawn(move || match forbidden(name) {
                Forbidden::Made(result) => result,
                _ => Err(io::Error::other("not made")),
            });
            let result = result.join().expect("lives");
            // `personality` is the one that may succeed: it changes this thread only.
            assert!(*name == "personality" || result.is_err(), "{name}: {result:?}");
            assert!(
                result.err().is_none_or(|error| error.raw_os_error().is_some()),
                "{name}"
            );
        }
        assert!(matches!(forbidden("nothing"), Forbidden::Unknown));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FORBIDDEN.iter().map(|(name, ..)| name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
