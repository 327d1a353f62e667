//! Action `Find` in other processes: what `/proc` shows of them.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::find::{FILE_BYTES, Search};
use crate::notes::{Done, errno};
use crate::{status, syscall};

/// Most of one process's memory that is read.
const MEMORY_BYTES: u64 = 1 << 30;

/// A process of the agent's own that has the marker in its command line, environment and memory.
struct Bearer(Child);

impl Bearer {
    /// Started only where there is a marker that was not found. None when the guest starts no process of the agent's.
    fn start(search: &Search<'_>) -> Option<Self> {
        if !search.lacks_marker() {
            return None;
        }
        let started = Command::new("/proc/self/exe")
            .args(["wait", &search.marker])
            .env("BOTTLE_PLANTED", &search.marker)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                search
                    .run
                    .trace(format!("marker put into process {} of the agent's own", child.id()));
                let bearer = Self(child);
                bearer.await_arguments(search);
                Some(bearer)
            }
            Err(error) => {
                search.run.trace(format!(
                    "no process of the agent's own to put the marker into: {}",
                    errno(&error)
                ));
                None
            }
        }
    }
}

impl Bearer {
    /// Waits until `/proc` shows its arguments: the kernel sets them a moment after it has closed the descriptor by which the
    /// start is told.
    fn await_arguments(&self, search: &Search<'_>) {
        for _ in 0..100 {
            if fs::read(format!("/proc/{}/cmdline", self.0.id())).is_ok_and(|arguments| !arguments.is_empty()) {
                return;
            }
            search.run.pause(Duration::from_millis(5));
        }
    }
}

impl Drop for Bearer {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left of it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file of every process: `environ` or `cmdline`.
pub fn files(search: &Search<'_>, file: &str) -> Done {
    let (mut read, mut unreadable) = (0, 0);
    let path = |process: u32| PathBuf::from(format!("/proc/{process}/{file}"));
    for process in status::processes() {
        match search.file(&path(process), FILE_BYTES) {
            true => read += 1,
            false => unreadable += 1,
        }
    }
    if let Some(bearer) = Bearer::start(search) {
        search.file(&path(bearer.0.id()), FILE_BYTES);
    }
    search
        .run
        .trace(format!("{file} of {read} processes, {unreadable} unreadable"));
    Ok(())
}

/// Regular files that processes have open.
pub fn descriptors(search: &Search<'_>) -> Done {
    let marker = search.marker_file();
    if marker.is_some() && !search.marker.is_empty() {
        search
            .run
            .trace("marker put into an anonymous file that the agent has open");
    }
    let (mut read, mut unreadable) = (0, 0);
    for process in status::processes() {
        for entry in fs::read_dir(format!("/proc/{process}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if search.run.is_over() {
                return search.ended(false);
            }
            let path = entry.path();
            // Following the link: what is open, not the link itself. Pipes and terminals would block.
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => match search.file(&path, FILE_BYTES) {
                    true => read += 1,
                    false => unreadable += 1,
                },
                _ => {}
            }
        }
    }
    drop(marker);
    search.run.trace(format!("{read} open files, {unreadable} unreadable"));
    Ok(())
}

/// Names of mapped files.
pub fn maps(search: &Search<'_>) -> Done {
    if let Some((file, _)) = search.marker_file()
        && !search.marker.is_empty()
    {
        match rustix::fs::ftruncate(&file, 4096)
            .map_err(io::Error::from)
            .and_then(|()| syscall::map_for_ever(&file))
        {
            Ok(_) => search
                .run
                .trace("marker put into the name of a file that the agent maps"),
            Err(error) => search
                .run
                .trace(format!("no mapping for the marker: {}", errno(&error))),
        }
    }
    let read = status::processes()
        .into_iter()
        .filter(|process| search.file(Path::new(&format!("/proc/{process}/maps")), FILE_BYTES))
        .count();
    search.run.trace(format!("maps of {read} processes"));
    Ok(())
}

/// Readable memory of all processes but agents.
pub fn memory(search: &Search<'_>) -> Done {
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    for process in status::processes() {
        if is_agent(process) {
            continue;
        }
        match memory_of(search, process) {
            Ok(true) => read.push(process),
            Ok(false) => return search.ended(false),
            Err(error) => unreadable.push(format!("{process} {}", errno(&error))),
        }
    }
    if let Some(bearer) = Bearer::start(search)
        && let Err(error) = memory_of(search, bearer.0.id())
    {
        search
            .run
            .trace(format!("memory of the agent's own process: {}", errno(&error)));
    }
    search
        .run
        .trace(format!("memory of processes {read:?}; unreadable: {unreadable:?}"));
    Ok(())
}

/// Whether a process is an agent that was given a list: this one, or one that another batch runs at the same time. Their memory
/// holds the needles because they were sent there. (The agent as main command, `wait`, is searched.)
fn is_agent(process: u32) -> bool {
    let program = |process: &str| {
        fs::metadata(format!("/proc/{process}/exe"))
            .map(|found| (found.dev(), found.ino()))
            .ok()
    };
    let own = program("self");
    let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let is_waiting = command.split(|byte| *byte == 0).nth(1) == Some(b"wait");
    process == std::process::id() || (own.is_some() && own == program(&process.to_string()) && !is_waiting)
}

/// Searches the memory of a process; false when the case's time was over before the end.
fn memory_of(search: &Search<'_>, process: u32) -> io::Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let path = PathBuf::from(format!("/proc/{process}/mem"));
    let mut memory = File::open(&path)?;
    let mut left = MEMORY_BYTES;
    for (start, end) in maps.lines().filter_map(readable_range) {
        if search.run.is_over() {
            return Ok(false);
        }
        let length = (end - start).min(left);
        left -= length;
        memory.seek(SeekFrom::Start(start))?;
        // Ranges that were unmapped meanwhile, or are the kernel's, end with EIO.
        let _ = search.stream(
            &format!("memory of process {process}"),
            &mut (&mut memory).take(length),
            length,
        );
    }
    Ok(true)
}

/// Range of a line of `maps`, if it is readable and not the kernel's own.
fn readable_range(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let readable = words.next()?.starts_with('r');
    let kernels = ["[vvar]", "[vvar_vclock]", "[vsyscall]"]
        .iter()
        .any(|name| line.ends_with(name));
    let range = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (readable && !kernels && range.0 < range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(readable_range("1000-2000 r--p 0 00:00 0 /x"), Some((0x1000, 0x2000)));
        assert_eq!(readable_range("1000-2000 ---p 0 00:00 0"), None);
        assert_eq!(readable_range("1000-2000 r--p 0 00:00 0 [vvar]"), None);
        assert_eq!(readable_range("junk"), None);
        assert!(is_agent(std::process::id()) && !is_agent(1));
    }
}
