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

/// The guest's main command: the child of the guest's init, which is process 1 in a container and has any number, and no parent for
/// `/proc`, in a machine; where there is no such init, the child of process 1, or that itself where it has none. The agent's own
/// ancestors are none of them: an exec started it.
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
    let is_init = |process: &u32| read(&process.to_string()).is_ok_and(|status| field(&status, "Name") == Some(INIT));
    let inits = processes().into_iter().filter(|process| !ancestors.contains(process));
    let init = inits.filter(is_init).min().unwrap_or(1);
    first_child(init).unwrap_or(init)
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
