//! Processes of machines that outlived the program that started them.
//!
//! A process is ended only when it is surely one: by its id, its start time and its command line.

use std::path::Path;
use std::time::Duration;

use bottle_backend::patient;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The word by which smolvm starts the process of a machine.
const BOOT: &str = "_boot-vm";
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A process, told from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    /// Id.
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub(crate) start: u64,
}

impl Process {
    /// The process of a machine that has this id now.
    pub(crate) fn of_machine(pid: i32) -> Option<Self> {
        let start = start_of(pid)?;
        is_boot(&command_line(pid)?).then_some(Self { pid, start })
    }

    /// Whether it is there, as the process of a machine.
    pub(crate) fn is_there(self) -> bool {
        Self::of_machine(self.pid) == Some(self)
    }

    /// Its user: the machine's own.
    pub(crate) fn user(self) -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

/// Processes of machines that have their files in this directory.
pub(crate) fn below(directory: &Path) -> Vec<Process> {
    let Some(directory) = directory.to_str() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            command_line(*pid).is_some_and(|words| is_boot(&words) && words.iter().any(|word| word.contains(directory)))
        })
        .filter_map(Process::of_machine)
        .collect()
}

/// Whether this process has a machine's process as its child.
pub(crate) fn has_started_machine(parent: i32) -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.any(|pid| {
        stat_of(pid, PARENT) == Some(i64::from(parent)) && command_line(pid).is_some_and(|words| is_boot(&words))
    })
}

/// Ends processes and waits until they are gone; what went wrong.
pub(crate) async fn end(processes: impl IntoIterator<Item = Process>) -> Result<(), String> {
    for process in processes {
        let Some(pid) = Pid::from_raw(process.pid).filter(|_| process.is_there()) else {
            continue;
        };
        if let Err(error) = kill_process(pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            return Err(format!(
                "process {} of the machine cannot be ended: {error}",
                process.pid
            ));
        }
        let until = tokio::time::Instant::now() + patient(GONE_WITHIN);
        while process.is_there() {
            if tokio::time::Instant::now() >= until {
                return Err(format!(
                    "process {} of the machine is still there after its end",
                    process.pid
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

fn is_boot(words: &[String]) -> bool {
    words.iter().take(3).any(|word| word == BOOT)
}

/// A zombie has none.
fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

fn start_of(pid: i32) -> Option<u64> {
    stat_of(pid, START)
}

/// Fields of `/proc/PID/stat` (proc_pid_stat(5)), counted from the one after the program's name.
const PARENT: usize = 1;
const START: usize = 19;

fn stat_of<N: std::str::FromStr>(pid: i32, field: usize) -> Option<N> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may have blanks and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    fn stand_in(directory: &str) -> std::process::Child {
        std::process::Command::new("sleep")
            .arg0("smolvm")
            .args(["600"])
            .env("X", directory)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn a_process_that_is_no_machine_is_left_alone() {
        let mut other = stand_in("/x");
        let pid = i32::try_from(other.id()).unwrap();
        assert_eq!(Process::of_machine(pid), None);
        let mistaken = Process {
            pid,
            start: start_of(pid).unwrap(),
        };
        end([mistaken]).await.unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[tokio::test]
    async fn a_machines_process_is_found_by_its_directory_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine");
        let script = "read -r line";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script, BOOT])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // `sh -c SCRIPT _boot-vm PATH`: the word is the fourth there, so this is not taken for one.
        assert_eq!(below(&path), []);
        child.kill().unwrap();
        child.wait().unwrap();
        let mut child = std::process::Command::new("sh")
            .arg0("smolvm")
            .arg("-s")
            .arg(BOOT)
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // The parent of a new program goes on a moment before the program's arguments can be read.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = below(&path);
        while found.is_empty() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
            found = below(&path);
        }
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
        assert!(has_started_machine(i32::try_from(std::process::id()).unwrap()));
        assert!(!has_started_machine(pid));
        let earlier = Process {
            start: found[0].start + 1,
            ..found[0]
        };
        end([earlier]).await.unwrap();
        assert!(child.try_wait().unwrap().is_none());
        let (ended, status) = tokio::join!(end(found), async {
            tokio::task::spawn_blocking(move || child.wait())
                .await
                .unwrap()
                .unwrap()
        });
        ended.unwrap();
        assert!(!status.success());
    }
}
