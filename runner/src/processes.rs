//! Processes of containers of ours, as this host sees them.

use rustix::process::{Pid, Signal, kill_process};

/// A process and everything below it, the process first.
pub fn tree(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let children = parents
            .iter()
            .filter(|(_, parent)| *parent == found[at])
            .map(|(pid, _)| *pid);
        let children: Vec<i32> = children.filter(|pid| !found.contains(pid)).collect();
        found.extend(children);
        at += 1;
    }
    found
}

/// The process below `root` that runs as `daemon NAME`.
pub fn daemon_of(root: i32, name: &str) -> Option<i32> {
    tree(root).into_iter().skip(1).find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words
            .windows(2)
            .any(|pair| pair[0] == b"daemon" && pair[1] == name.as_bytes())
    })
}

/// Sends a signal to each; a process that is gone already is no failure.
pub fn signal(pids: &[i32], signal: Signal) -> rustix::io::Result<()> {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All process ids.
pub fn all() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The parent of a process, while it runs.
pub fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text[text.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_in_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(tree(std::process::id() as i32).contains(&pid));
        signal(&[pid], Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
