//! The three things that only the C interface can do: closing descriptors we were handed, handing the terminal from our
//! session to the command's, and installing a filter of system calls. All `unsafe` of the program is here.
#![expect(
    unsafe_code,
    reason = "closing foreign descriptors, TIOCNOTTY, pre_exec and seccomp have no safe form in std or rustix"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::seccomp::Instruction;

/// Closes every descriptor from 3 up. Call it first thing in `main`, before anything is opened: a descriptor that an
/// engine or an outer program leaked must not reach the agent (CVE-2024-21626 was one).
pub fn close_inherited() {
    // SAFETY: close_range takes no pointers, and no descriptor above 2 is owned by anything in this process yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if closed == 0 {
        return;
    }
    // Linux before 5.9, or a seccomp filter that does not know the call.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1 << 20);
    for descriptor in 3..limit.min(1 << 20) as i32 {
        // SAFETY: as above; a number that is not open is refused with EBADF and nothing else.
        unsafe { libc::close(descriptor) };
    }
}

/// Gives up the terminal when this process leads the session that it controls, so that the command's session can have it.
/// Call it before signals are handled: the kernel tells the leader by a SIGHUP, which means nothing here.
pub fn give_up_terminal() {
    // SAFETY: plain calls without pointers. The disposition of SIGHUP is put back before anything else is set up.
    unsafe {
        if libc::getsid(0) != libc::getpid() || libc::tcgetsid(0) != libc::getpid() {
            return;
        }
        let before = libc::signal(libc::SIGHUP, libc::SIG_IGN);
        // It cannot fail: standard input is this session's terminal.
        libc::ioctl(0, libc::TIOCNOTTY);
        libc::signal(libc::SIGHUP, before);
    }
}

/// Gives the command a session of its own, with the terminal when standard input is one. Ctrl-C then reaches it and not us;
/// and its process group is an orphaned one, in which the kernel discards the stop of a Ctrl-Z: nobody in the guest could
/// continue the command. (A shell with job control stops and continues its own jobs as everywhere.) It happens in the child,
/// before `exec`: done by the parent, the command could read the terminal before it has it.
pub fn own_session(command: &mut Command) {
    // SAFETY: between fork and exec only system calls without pointers are made.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::isatty(0) == 1 && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                let error = io::Error::last_os_error();
                // EPERM: it controls a session that is not ours. Its Ctrl-C goes elsewhere in any case.
                if error.raw_os_error() != Some(libc::EPERM) {
                    return Err(error);
                }
            }
            Ok(())
        });
    }
}

/// Installs a filter of system calls on the calling thread and everything that it starts. `no_new_privs` must be set.
pub fn filter_system_calls(program: &[Instruction]) -> io::Result<()> {
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program {
        length,
        instructions: program.as_ptr(),
    };
    // SAFETY: the kernel reads `length` instructions, which have its own layout and are borrowed until after the call,
    // checks them and copies them.
    let installed = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            std::ptr::from_ref(&program),
            0,
            0,
        )
    };
    if installed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
