//! The conformance suite: what `bottle-conform` does, as a library so that the libtest-mimic target runs the same matrix.
//!
//! The one decision behind this crate: the runner proves nothing by itself. It launches bottles through the launcher's own
//! code, has an agent attempt each case, collects what witnesses saw, and hands both to the pure judge. A part of the proof
//! that is missing makes the case inconclusive, never held.
#![warn(missing_docs)]

mod addresses;
mod agent;
mod assemble;
mod batch;
pub mod cli;
mod clock;
mod command;
mod error;
mod exit;
mod facts;
mod fixture;
mod host;
mod images;
mod injecting;
mod interrupt;
mod joined;
mod lab;
mod leaks;
mod loose;
mod outside;
mod parts;
mod processes;
mod progress;
mod proof;
mod redaction;
mod scenario;
pub mod selection;
mod session;
mod shared;
mod sightings;
mod template;
mod trust;
mod waivers;

use std::io::IsTerminal;

use clap::Parser;
use probe_spec::{Action, ExitCode, How, RunnerCase};

pub use command::{CommandError, RunOutcome, run_matrix};
pub use error::SuiteError;

/// The program: reads the command line, does what it says; the exit status.
pub fn main() -> u8 {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are no mistakes.
            let code = if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Held
            };
            let _ = error.print();
            return code.code();
        }
    };
    log(is_verbose(&cli.command));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bottle-conform: starting: {error}");
            return ExitCode::HarnessError.code();
        }
    };
    let outcome = runtime.block_on(perform(&cli.command));
    // A task that still blocks must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code.code(),
        Err(error) => {
            eprintln!("bottle-conform: {error}");
            error.exit_code().code()
        }
    }
}

async fn perform(command: &cli::Command) -> Result<ExitCode, CommandError> {
    match command {
        cli::Command::List(args) => command::list(args),
        cli::Command::Run(args) => command::run(args).await,
        cli::Command::SelfTest(args) => command::self_test(args).await,
        cli::Command::Judge(args) => command::judge(args),
        cli::Command::Explain(args) => command::explain(args),
        cli::Command::Launch(args) => scenario::launcher(args).await,
        cli::Command::Loose(args) => loose::call(args).await,
    }
}

fn is_verbose(command: &cli::Command) -> bool {
    match command {
        cli::Command::Run(args) => args.verbose,
        cli::Command::SelfTest(args) => args.verbose,
        _ => false,
    }
}

/// Logs to standard error: warnings, and with `--verbose` what the engine is asked to do. `RUST_LOG` wins.
fn log(verbose: bool) {
    let default = if verbose {
        "bottle_conform=debug,bottle_launch=debug,bottle_docker=debug,bottle_smolvm=debug,warn"
    } else {
        // A machine that was started twice is worth a word.
        "bottle_smolvm=warn,error"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // A second call (in tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// The actions in a case, whoever performs them.
pub fn actions_of(how: &How) -> Vec<&Action> {
    match how {
        How::Agent(action) | How::Hammer { action, .. } => vec![action],
        How::Runner(RunnerCase::PeerThenSelf { peer, own }) => vec![peer, own],
        How::Runner(_) => Vec::new(),
    }
}

#[cfg(test)]
mod false_friends_tests;
#[cfg(test)]
mod real_tools;
#[cfg(test)]
mod real_witness_tests;
