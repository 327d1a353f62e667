//! The probe agent: attempts, inside a guest, what the suite asks for, and reports what it met.
//!
//! The one decision behind this program: the agent judges nothing. A connect that succeeds may have met a sinkhole, and one
//! that fails may have been seen outside; so it reports each case as issued or not, with the calls it made, and leaves the
//! verdict to witnesses that the guest cannot touch. Only what can be seen from nowhere else (a secret in a file, a system
//! call that is let through) is reported as a finding.
//!
//! It is static, synchronous and small, because it must run in any image, also in one without a libc, a shell or `/dev`.
#![warn(missing_docs)]

mod attempt;
mod capability;
mod dns;
mod h2;
mod hardening;
mod http;
mod list;
mod netlink;
mod notes;
mod resolve;
mod scratch;
mod status;
mod syscall;
mod talk;
mod template;
mod tls;
mod traffic;
mod wait;
mod wire;

use std::process::ExitCode;

const USAGE: &str = "usage: bottle-probe list [--batch NONCE] | wait [IGNORED..]";

fn main() -> ExitCode {
    let mut args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned());
    let command = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match command.as_str() {
        "list" => list::main(&args),
        "wait" => wait::main(),
        "setuid-helper" => hardening::setuid_helper(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}
