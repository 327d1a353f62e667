//! `bottle`: runs an agent in a bottle.
//!
//! Everything of weight is in the libraries; this program reads the command line, joins the operator's terminal with the
//! guest's, and turns outcomes into exit codes.

mod args;
mod attach;
mod backend;
mod blocked;
mod cleanup;
mod copying;
mod diff;
mod doctor;
mod exec;
mod failure;
mod host;
mod image;
mod init;
mod journal;
mod kept;
mod leave;
mod live;
mod logs;
mod pages;
mod parts;
mod plan;
mod preflight;
mod progress;
mod provided;
mod ps;
mod run;
mod sizes;
mod stop;
mod streams;
mod terminal;
mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::failure::{EXIT_FAILURE, EXIT_USAGE, Failure, say};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == terminal::KEEPER) {
        return terminal::keep();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nobody may be listening any more; the code tells all the same.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr(cli.verbose);
    terminal::restore_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start: {error}"));
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let outcome = runtime.block_on(async {
        let outcome = dispatch(&cli).await;
        if looks_at_bottles(&cli.command) {
            backend::sweep_dead().await;
        }
        outcome
    });
    // A read of standard input may be under way in a thread of its own, and would be waited for.
    runtime.shutdown_background();
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            say(&failure.to_string());
            failure.exit_code()
        }
    };
    ExitCode::from(code)
}

/// Whether a command looks at bottles of other launchers. Those that launch one sweep before, and `cleanup` and `stop` tell what they
/// removed.
fn looks_at_bottles(command: &Command) -> bool {
    matches!(
        command,
        Command::Ps(_)
            | Command::Exec(_)
            | Command::Attach(_)
            | Command::Logs(_)
            | Command::Cp(_)
            | Command::Diff(_)
            | Command::Ca(_)
    )
}

async fn dispatch(cli: &Cli) -> Result<u8, Failure> {
    match &cli.command {
        Command::Run(run) => run::run(run, cli.verbose).await,
        Command::Plan(plan) => plan::show(plan).await,
        Command::Resume(resume) => run::resume(resume, cli.verbose).await,
        Command::Attach(attach) => attach::attach(attach).await,
        Command::Cp(cp) => copying::cp(cp).await,
        Command::Diff(diff) => diff::diff(diff).await,
        Command::Ps(ps) => ps::ps(ps).await,
        Command::Exec(exec) => exec::exec(exec).await,
        Command::Logs(logs) => logs::logs(logs).await,
        Command::Verify(verify) => verify::verify(verify),
        Command::Stop(stop) => stop::stop(stop).await,
        Command::Ca(ca) => ps::ca(ca).await,
        Command::Init(init) => init::init(init),
        Command::Completions(completions) => pages::completions(completions),
        Command::Man(man) => pages::man(man),
        Command::Doctor(doctor) => doctor::doctor(doctor).await,
        Command::Image(image) => image::image(&image.command).await,
        Command::Schema => plan::schema(),
        Command::Cleanup(cleanup) => cleanup::cleanup(cleanup).await,
    }
}

/// Logs go to standard error: standard output is the guest's.
fn log_to_stderr(verbose: bool) {
    let filter = if verbose {
        "bottle=debug,bottle_launch=debug,bottle_docker=debug,bottle_smolvm=debug,warn"
    } else {
        "error"
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .compact()
        .init();
}
