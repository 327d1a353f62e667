//! `bottle-conform`: proves, by attack, what a bottle holds.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bottle_conform::main())
}
