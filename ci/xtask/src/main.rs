//! The project's own commands: `cargo xtask conform`, `cargo xtask test`, and what they are made of.
//!
//! Exit codes: 0 done; 1 a step failed; 69 no container engine and none could be installed; 75 the lane failed twice and 124 its
//! command took too long; otherwise the exit code of `bottle-conform` (see its README section) or of the lane's command.

mod arrows;
mod bench;
mod build;
mod conform;
mod dist;
mod engine;
mod lane;
mod machines;
mod packages;
mod process;
mod python;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and proves bottle")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sets up what is missing, builds, attacks real bottles and shows the verdicts.
    Conform(conform::Arguments),
    /// Sets up what is missing and runs every test.
    Test(test::Arguments),
    /// Builds the static parts and the two programs.
    Build,
    /// Builds what runs in guests for every architecture, and the two programs with all of it.
    Dist(dist::Arguments),
    /// Finds, installs and starts the container engine.
    Engine,
    /// Runs a command where both kinds of guest can be had: here, or in an emulated machine.
    Lane(lane::Arguments),
    /// Runs the tests on the real smolvm, and probes of its column that are named, here or in the emulated machine.
    Machines(machines::Arguments),
    /// Measures, side by side with what one would use instead.
    Bench(bench::Arguments),
    /// Checks the repository's own rules (file sizes, names, unsafe code, machine paths).
    Tidy,
    /// Checks which crate may depend on which.
    Arrows,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Conform(arguments) => conform::conform(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Build => build::build().map(|_| ExitCode::SUCCESS),
        Command::Dist(arguments) => dist::dist(&arguments),
        Command::Engine => engine::ensure().map(|()| ExitCode::SUCCESS),
        Command::Lane(arguments) => lane::lane(&arguments),
        Command::Machines(arguments) => machines::machines(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Tidy => tidy::tidy(),
        Command::Arrows => arrows::arrows(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<engine::NoEngine>() {
                ExitCode::from(69)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
