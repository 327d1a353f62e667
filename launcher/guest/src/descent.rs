//! Ending everything in the guest.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Pid, Signal};

/// Sends `signal` to every process of the guest but ourselves.
///
/// As process 1 that is `kill(-1)`. Otherwise (a backend with an init of its own, or a test) it is all our descendants:
/// as their reaper we have every one of them below us, whatever session or group it made for itself.
pub fn end_all(signal: Signal) {
    let ourselves = rustix::process::getpid();
    if ourselves.is_init() {
        let _ = rustix::process::kill_process_group(Pid::INIT, signal);
        return;
    }
    // Twice: one that forked between the listing and its end left a child behind.
    for _ in 0..2 {
        for pid in descendants(ourselves) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if let Some(parent) = parent_in(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = open.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

/// Field 4 of a `/proc/PID/stat` line. The name in field 2 may itself hold spaces and brackets.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn parent_is_found_behind_a_hostile_name() {
        assert_eq!(super::parent_in("42 (a) R 1 (b) S 7 42 42"), Some(7));
        assert_eq!(super::parent_in("42"), None);
    }
}
