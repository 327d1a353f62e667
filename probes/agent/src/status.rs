//! `/proc/PID/status`, and which processes there are.

use std::{fs, io};

/// The text of `/proc/PROCESS/status`.
pub fn read(process: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{process}/status"))
}

/// Value of a line `NAME:\tVALUE`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Numbers of all processes that can be seen.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Parent of a process.
pub fn parent(process: u32) -> Option<u32> {
    field(&read(&process.to_string()).ok()?, "PPid")?.parse().ok()
}

/// Name of the guest's own init, which runs the main command.
const INIT: &str = "bottle-guest";

/// The guest's main command: the child of process 1 that is not the agent's own ancestor; where that is the guest's init (a
/// backend may have one of its own above it), the child of that; process 1 itself where it has none (it is the command then).
/// An agent that an exec started may be a child of process 1 for `/proc`, if its own parent is outside of the guest: then its
/// parent is 0 and it is no child.
pub fn main_command() -> u32 {
    let own = std::process::id();
    let mut ancestors = vec![own];
    while let Some(above) = ancestors
        .last()
        .and_then(|last| parent(*last))
        .filter(|above| *above > 1)
    {
        ancestors.push(above);
    }
    let first_child = |of: u32| {
        processes()
            .into_iter()
            .filter(|process| parent(*process) == Some(of) && !ancestors.contains(process))
            .min()
    };
    let Some(child) = first_child(1) else {
        return 1;
    };
    let is_init = read(&child.to_string()).is_ok_and(|status| field(&status, "Name") == Some(INIT));
    first_child(child).filter(|_| is_init).unwrap_or(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let status = read("self").expect("reads");
        assert_eq!(field(&status, "Pid"), Some(&*std::process::id().to_string()));
        assert_eq!(field("CapInh:\t00\nCap:\t1", "Cap"), Some("1"));
        assert!(processes().contains(&std::process::id()));
        assert_ne!(main_command(), std::process::id());
    }
}
