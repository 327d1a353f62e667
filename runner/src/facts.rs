//! What the host reads about a guest's processes, from its own `/proc`: the guest has no part in it.

use probe_spec::Nonce;

/// Lines of `/proc/PID/status` (proc_pid_status(5)) that are facts.
const FIELDS: [&str; 10] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
];

/// Process id on the host of the agent that was started with this batch.
pub fn pid_of_agent(batch: &Nonce) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        // The engine's own exec processes have the nonce in their arguments too, but not this program.
        let program = words.next()?;
        (program.ends_with(b"bottle-probe") && words.any(|word| word == batch.as_str().as_bytes())).then_some(pid)
    })
}

/// Facts about that agent; empty where the engine does not share this machine's kernel.
pub fn of_agent(batch: &Nonce) -> Vec<(String, String)> {
    pid_of_agent(batch).map(of_process).unwrap_or_default()
}

/// Facts about a process: the fields with their values, blanks as single spaces.
pub fn of_process(pid: i32) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| FIELDS.contains(name))
        .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_facts() {
        let facts = of_process(std::process::id() as i32);
        assert_eq!(facts.len(), FIELDS.len());
        assert!(facts.iter().any(|(name, value)| name == "CapEff" && value.len() == 16));
    }

    #[test]
    fn no_process_has_a_fresh_nonce() {
        assert_eq!(pid_of_agent(&crate::sightings::fresh_nonce()), None);
    }
}
