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
mod fetch;
mod files;
mod find;
mod find_processes;
mod h2;
mod hammer;
mod hardening;
mod http;
mod leak;
mod list;
mod listen;
mod machine;
mod needles;
mod netlink;
mod notes;
mod resolve;
mod scratch;
mod sockets;
mod status;
mod survive;
mod sweep;
mod syscall;
mod talk;
mod tamper;
mod template;
mod tls;
mod traffic;
mod wait;
mod walk;
mod wire;

use std::process::ExitCode;

const USAGE: &str = "usage: bottle-probe COMMAND
  list [--batch NONCE]        attempt the cases of the list on standard input, one JSON line each
  wait [IGNORED..]            sleep until TERM
  listen --ports PORT[,PORT..] [--addresses ADDRESS[,ADDRESS..]]
                              print a JSON line for every nonce that arrives
  hammer [FILE]               repeat the cases in BOTTLE_HAMMER (base64 of JSON) or in FILE until TERM
  leak-fd [--stay] DIRECTORY -- COMMAND [ARGUMENT..]
                              become (--stay: run) a command with a directory left open
  survive HOW [IGNORED..]     outlive whoever could end it, ten minutes at most
  setuid-helper               print identity and capabilities";

fn main() -> ExitCode {
    hardening::remember_inherited();
    let mut args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned());
    let command = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match command.as_str() {
        "list" => list::main(&args),
        "wait" => wait::main(),
        "listen" => listen::main(&args),
        "hammer" => hammer::main(&args),
        "leak-fd" => leak::main(&args),
        "survive" => survive::main(&args),
        "setuid-helper" => hardening::setuid_helper(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}
