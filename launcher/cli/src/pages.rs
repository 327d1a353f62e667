//! `bottle completions` and `bottle man`.

use std::path::Path;

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Failure, say};
use crate::plan::print;

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bottle", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the page of `bottle`, or writes the pages of all commands into a directory.
pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    let mut root = Cli::command();
    root.build();
    let Some(directory) = &args.directory else {
        return print(&page(root)?);
    };
    let mut count = 0;
    for command in std::iter::once(root.clone()).chain(root.get_subcommands().cloned()) {
        if command.get_name() == "help" {
            continue;
        }
        let name = if command.get_name() == "bottle" {
            "bottle".to_owned()
        } else {
            format!("bottle-{}", command.get_name())
        };
        write(directory, &name, &page(command)?)?;
        count += 1;
    }
    say(&format!("wrote {count} pages to {}", directory.display()));
    Ok(0)
}

fn page(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(Failure::system("writing a page"))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write(directory: &Path, name: &str, page: &str) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page).map_err(|source| Failure::Unreadable {
        path,
        source,
        hint: "; give a directory that exists",
    })
}
