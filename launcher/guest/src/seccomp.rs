//! The system calls that a confined command may not make, as a filter program for the kernel.
//!
//! A container engine brings a filter of its own; a microVM does not, and its kernel would offer everything. The list is
//! what engines refuse to a container without capabilities. Only data is made here; [`edge`](crate::edge) hands it to the
//! kernel.

/// An instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

/// Load a 32-bit word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// Jump when equal.
const EQUAL: u16 = 0x15;
/// Jump when any of these bits is set.
const ANY_BIT: u16 = 0x45;
/// Return.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (both architectures are little-endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const REFUSED: u32 = ERRNO | libc::EPERM as u32;
/// As if the kernel had no such call: C libraries then try the older one, whose arguments can be looked at.
const ABSENT: u32 = ERRNO | libc::ENOSYS as u32;

#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;

/// Bit of the x32 calls, which x86_64 kernels take under the same architecture.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// The flags of `clone` that make a namespace.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Calls that are refused whatever their arguments.
const FORBIDDEN: &[libc::c_long] = &[
    // Keys, programs for the kernel, its modules and its replacement.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_userfaultfd,
    // io_uring: its requests pass by every filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_vhangup,
    // Clocks.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    // Other processes and their memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
];

/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_lookup_dcookie,
];
#[cfg(target_arch = "aarch64")]
const FORBIDDEN_HERE: &[libc::c_long] = &[KEXEC_FILE_LOAD, libc::SYS_lookup_dcookie];
/// `kexec_file_load` (asm-generic/unistd.h), which the names of musl for this architecture lack.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// The values of `personality` that programs ask for: the default, and its query.
const PERSONALITIES: [u32; 2] = [0, 0xffff_ffff];

/// The program.
pub fn program() -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    program.extend(unless_equal(OURS, ABSENT));
    program.push(load(NUMBER));
    #[cfg(target_arch = "x86_64")]
    program.extend([jump(ANY_BIT, X32, 0, 1), give(ABSENT)]);
    for call in FORBIDDEN.iter().chain(FORBIDDEN_HERE) {
        program.extend(if_equal(number(*call), &[give(REFUSED)]));
    }
    program.extend(if_equal(number(libc::SYS_clone3), &[give(ABSENT)]));
    program.extend(if_equal(
        number(libc::SYS_clone),
        &[
            load(FIRST_ARGUMENT),
            jump(ANY_BIT, NEW_NAMESPACES, 0, 1),
            give(REFUSED),
            give(ALLOW),
        ],
    ));
    // A socket to whatever is outside of the machine, past its network.
    program.extend(if_equal(
        number(libc::SYS_socket),
        &[
            load(FIRST_ARGUMENT),
            jump(EQUAL, libc::AF_VSOCK as u32, 0, 1),
            give(REFUSED),
            give(ALLOW),
        ],
    ));
    program.extend(if_equal(
        number(libc::SYS_personality),
        &[
            load(FIRST_ARGUMENT),
            jump(EQUAL, PERSONALITIES[0], 2, 0),
            jump(EQUAL, PERSONALITIES[1], 1, 0),
            give(REFUSED),
            give(ALLOW),
        ],
    ));
    program.push(give(ALLOW));
    program
}

fn number(call: libc::c_long) -> u32 {
    // Numbers of system calls are small and positive.
    call as u32
}

fn load(offset: u32) -> Instruction {
    instruction(LOAD, 0, 0, offset)
}

fn give(value: u32) -> Instruction {
    instruction(RETURN, 0, 0, value)
}

fn jump(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    instruction(code, jump_true, jump_false, value)
}

/// Goes into `then`, which must end with a return, when the word is `value`, and past it otherwise.
fn if_equal(value: u32, then: &[Instruction]) -> Vec<Instruction> {
    let mut block = vec![jump(EQUAL, value, 0, then.len() as u8)];
    block.extend_from_slice(then);
    block
}

fn unless_equal(value: u32, otherwise: u32) -> [Instruction; 2] {
    [jump(EQUAL, value, 1, 0), give(otherwise)]
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, value: u32) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call.
    fn verdict(architecture: u32, call: u32, first_argument: u32) -> u32 {
        let program = program();
        let (mut at, mut word) = (0, 0);
        loop {
            let one = program[at];
            at += 1;
            let jumps = match one.code {
                LOAD if one.value == NUMBER => {
                    word = call;
                    continue;
                }
                LOAD if one.value == ARCHITECTURE => {
                    word = architecture;
                    continue;
                }
                LOAD => {
                    assert_eq!(one.value, FIRST_ARGUMENT);
                    word = first_argument;
                    continue;
                }
                RETURN => return one.value,
                EQUAL => word == one.value,
                other => {
                    assert_eq!(other, ANY_BIT);
                    word & one.value != 0
                }
            };
            at += usize::from(if jumps { one.jump_true } else { one.jump_false });
        }
    }

    fn ours(call: libc::c_long, first_argument: u32) -> u32 {
        verdict(OURS, number(call), first_argument)
    }

    #[test]
    fn ordinary_calls_pass_and_forbidden_ones_do_not() {
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_openat, libc::SYS_exit_group] {
            assert_eq!(ours(call, 0), ALLOW, "{call}");
        }
        for call in FORBIDDEN.iter().chain(FORBIDDEN_HERE) {
            assert_eq!(ours(*call, 0), REFUSED, "{call}");
        }
    }

    #[test]
    fn arguments_decide_where_a_call_has_a_harmless_use() {
        assert_eq!(ours(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(ours(libc::SYS_clone, libc::CLONE_NEWUSER as u32 | 17), REFUSED);
        assert_eq!(ours(libc::SYS_clone3, 0), ABSENT);
        assert_eq!(ours(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
        assert_eq!(ours(libc::SYS_socket, libc::AF_VSOCK as u32), REFUSED);
        assert_eq!(ours(libc::SYS_personality, 0), ALLOW);
        assert_eq!(ours(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(ours(libc::SYS_personality, 0x0040_0000), REFUSED);
    }

    #[test]
    fn other_architectures_have_no_calls() {
        assert_eq!(verdict(0x4000_0003, 4, 0), ABSENT);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(verdict(OURS, X32 | 1, 0), ABSENT);
    }
}
