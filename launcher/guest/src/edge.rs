//! The three things that only the C interface can do: closing descriptors we were handed, taking the terminal between
//! `fork` and `exec`, and installing a filter of system calls. All `unsafe` of the program is here.
#![expect(
    unsafe_code,
    reason = "closing foreign descriptors, pre_exec and seccomp have no safe form in std or rustix"
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

/// Makes the command the terminal's foreground process group, so that Ctrl-C reaches it and not us. It happens in the
/// child, before `exec`: done by the parent, the command could read the terminal first and be stopped by SIGTTIN.
pub fn take_terminal(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions are called: pthread_sigmask, tcsetpgrp and getpgrp
    // are, and the signal sets are plain values on the stack.
    unsafe {
        command.pre_exec(|| {
            let mut ttou: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut ttou);
            libc::sigaddset(&mut ttou, libc::SIGTTOU);
            libc::pthread_sigmask(libc::SIG_BLOCK, &ttou, &mut before);
            let taken = libc::tcsetpgrp(0, libc::getpgrp());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            // ENOTTY: a terminal, but not the one that controls this session. Its Ctrl-C goes elsewhere in any case.
            if taken == 0 || error.raw_os_error() == Some(libc::ENOTTY) {
                Ok(())
            } else {
                Err(error)
            }
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
