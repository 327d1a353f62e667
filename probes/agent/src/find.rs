//! Action `Find`: planted texts in files and everywhere else but other processes (those are in `find_processes`).
//!
//! The texts reach the agent over its standard input, so they are in its own memory and nowhere else: not in its command line,
//! environment or files. Its own memory is therefore the one place that is not searched.
//!
//! A search must show that it works by finding a marker. In files, mounts and its environment the agent only finds what the
//! runner planted. Where the marker is not found in processes, dumps and devices, the agent puts it there itself and says so in
//! the trace; what that shows is that this code finds a text in this kind of place.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use probe_spec::Place;

use crate::needles::Scanner;
use crate::notes::{Done, NotIssued, Run, errno};
use crate::scratch::Scratch;
use crate::{find_processes, talk, walk, wire};

/// Most that is read of a file and of a device.
pub const FILE_BYTES: u64 = 64 << 20;
const DEVICE_BYTES: u64 = 256 << 20;

/// Routes that daemons are known to have.
const ROUTES: [&str; 20] = [
    "/",
    "/health",
    "/healthz",
    "/status",
    "/metrics",
    "/config",
    "/config.json",
    "/env",
    "/.env",
    "/ca",
    "/ca.pem",
    "/ca.key",
    "/key",
    "/secrets",
    "/tokens",
    "/routes",
    "/debug/pprof/",
    "/debug/vars",
    "/admin",
    "/reload",
];

/// Action `Find`.
pub fn find(run: &Run, place: Place, needles: &[String], marker: &str) -> Done {
    let mut texts = needles
        .iter()
        .map(|needle| run.words.bytes(needle))
        .collect::<Result<Vec<_>, _>>()?;
    let marker = run.words.text(marker)?;
    let needles = texts.len();
    if !marker.is_empty() {
        texts.push(marker.clone().into_bytes());
        run.notes.marker(false);
    }
    let scanner = Scanner::new(&texts).ok_or_else(|| {
        NotIssued::Unfit("a text to look for is too short to be told from chance (6 bytes)".to_owned())
    })?;
    let search = Search {
        run,
        scanner,
        needles,
        marker,
    };
    match place {
        Place::Environment => {
            let environment = std::env::vars_os()
                .map(|(name, value)| [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat());
            environment.for_each(|line| search.bytes("environment", &line));
            Ok(())
        }
        Place::StartupFiles => startup_files(&search),
        Place::ProcEnviron => find_processes::files(&search, "environ"),
        Place::ProcCmdline => find_processes::files(&search, "cmdline"),
        Place::ProcDescriptors => find_processes::descriptors(&search),
        Place::ProcMaps => find_processes::maps(&search),
        Place::ProcMemory => find_processes::memory(&search),
        Place::CoreDumps => core_dumps(&search),
        Place::Files => below(&search, &[PathBuf::from("/")]),
        Place::Mounts => mounts(&search),
        Place::Devices => devices(&search),
        Place::ProxyRoutes => proxy_routes(&search),
    }
}

/// A search for the needles and the marker.
pub struct Search<'a> {
    /// Where it reports.
    pub run: &'a Run,
    /// What it looks for.
    pub scanner: Scanner,
    /// How many of the scanner's texts are needles; what follows is the marker.
    needles: usize,
    /// The marker, empty if there is none.
    pub marker: String,
}

impl Search<'_> {
    /// Searches some bytes.
    pub fn bytes(&self, name: &str, bytes: &[u8]) {
        self.report(name, &self.scanner.scan(bytes));
    }

    /// Searches the first `limit` bytes of a stream.
    pub fn stream(&self, name: &str, source: &mut dyn std::io::Read, limit: u64) -> std::io::Result<u64> {
        let (hits, read) = self.scanner.scan_stream(source, limit);
        self.report(name, &hits);
        read
    }

    /// Searches a file; false when it cannot be read.
    pub fn file(&self, path: &Path, limit: u64) -> bool {
        let name = path.to_string_lossy();
        File::open(path)
            .and_then(|mut file| self.stream(&name, &mut file, limit))
            .is_ok()
    }

    /// The needle itself is never written to a finding: its number and form are enough, and reports must not hold secrets.
    fn report(&self, name: &str, hits: &[crate::needles::Hit]) {
        for hit in hits {
            if hit.text < self.needles {
                self.run
                    .notes
                    .finding(format!("needle {} ({}) in {name}", hit.text + 1, hit.kind));
            } else {
                self.run.notes.marker(true);
            }
        }
    }

    /// Whether there is a marker that was not found yet.
    pub fn lacks_marker(&self) -> bool {
        self.run.notes.content().marker_found == Some(false)
    }

    /// An anonymous file with the marker, named by it; its path is good as long as it is open.
    pub fn marker_file(&self) -> Option<(OwnedFd, PathBuf)> {
        let name: String = self.marker.chars().filter(|c| *c != '\0').take(200).collect();
        let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        rustix::io::write(&file, self.marker.as_bytes()).ok()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Some((file, path))
    }

    /// Finds the marker in a file of the agent's own, where the place can hold none.
    fn find_own_marker(&self) {
        if self.lacks_marker()
            && let Some((_open, path)) = self.marker_file()
        {
            self.run.trace("marker put into an anonymous file of the agent's own");
            self.file(&path, FILE_BYTES);
        }
    }

    /// What a search that was cut off is.
    pub fn ended(&self, complete: bool) -> Done {
        if complete {
            Ok(())
        } else {
            Err(NotIssued::CutOff("the end of the search"))
        }
    }
}

/// Searches names and contents of all regular files below some directories.
fn below(search: &Search<'_>, roots: &[PathBuf]) -> Done {
    let (mut files, mut unreadable, mut long) = (0u64, 0u64, 0u64);
    // The agent's own program was brought along by the suite, and has words of its own (such as those around keys).
    let own = fs::metadata("/proc/self/exe")
        .map(|program| (program.dev(), program.ino()))
        .ok();
    let complete = walk::walk(search.run, roots, |path, metadata| {
        search.bytes(
            &format!("the name of {}", path.display()),
            path.as_os_str().as_encoded_bytes(),
        );
        if metadata.is_symlink()
            && let Ok(target) = fs::read_link(path)
        {
            search.bytes(
                &format!("the target of {}", path.display()),
                target.as_os_str().as_encoded_bytes(),
            );
        }
        if metadata.is_file() && own != Some((metadata.dev(), metadata.ino())) {
            files += 1;
            long += u64::from(metadata.len() > FILE_BYTES);
            unreadable += u64::from(!search.file(path, FILE_BYTES));
        }
    });
    search.run.trace(format!(
        "{files} files, {unreadable} unreadable, {long} only to 64 MiB, compressed ones not unpacked"
    ));
    search.ended(complete)
}

fn startup_files(search: &Search<'_>) -> Done {
    let mut roots = walk::homes();
    roots.push(PathBuf::from("/etc"));
    search.run.trace(format!("below {roots:?}"));
    below(search, &roots)
}

fn core_dumps(search: &Search<'_>) -> Done {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    search.run.trace(format!("core_pattern {}", pattern.trim()));
    let mut places: Vec<PathBuf> = [
        "/",
        "/tmp",
        "/var/tmp",
        "/var/crash",
        "/var/lib/systemd/coredump",
        "/var/cache/abrt",
    ]
    .into_iter()
    .map(PathBuf::from)
    .chain(std::env::current_dir())
    .chain(walk::homes())
    .collect();
    if pattern.starts_with('/') {
        places.extend(Path::new(pattern.trim()).parent().map(Path::to_owned));
    }
    let planted = Scratch::new().ok().filter(|_| !search.marker.is_empty());
    if let Some(scratch) = &planted
        && fs::write(scratch.path().join("core.1"), &search.marker).is_ok()
    {
        search.run.trace(format!(
            "marker put into a core file of the agent's own in {}",
            scratch.path().display()
        ));
        places.push(scratch.path().to_owned());
    }
    places.sort_unstable();
    places.dedup();
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_dump = name.as_encoded_bytes().starts_with(b"core") || name.as_encoded_bytes().ends_with(b".crash");
            if is_dump && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                search.file(&entry.path(), FILE_BYTES);
            }
        }
    }
    search.find_own_marker();
    Ok(())
}

/// Mounts other than the root that hold files of somebody's.
fn mounts(search: &Search<'_>) -> Done {
    const KERNEL_TYPES: [&str; 13] = [
        "proc",
        "sysfs",
        "cgroup",
        "cgroup2",
        "devpts",
        "mqueue",
        "devtmpfs",
        "securityfs",
        "debugfs",
        "tracefs",
        "bpf",
        "pstore",
        "configfs",
    ];
    let text = fs::read_to_string("/proc/self/mounts").map_err(|error| NotIssued::Agent(format!("mounts: {error}")))?;
    let roots: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (place != "/" && !KERNEL_TYPES.contains(&kind)).then(|| PathBuf::from(place.replace("\\040", " ")))
        })
        .collect();
    search.run.trace(format!("mounts {roots:?}"));
    below(search, &roots)
}

fn devices(search: &Search<'_>) -> Done {
    search.run.trace(format!(
        "swaps {:?}",
        fs::read_to_string("/proc/swaps")
            .unwrap_or_default()
            .lines()
            .skip(1)
            .collect::<Vec<_>>()
    ));
    let complete = walk::walk(search.run, &[PathBuf::from("/dev")], |path, metadata| {
        if metadata.file_type().is_block_device() {
            let read = search.file(path, DEVICE_BYTES);
            search.run.trace(format!(
                "{}: {}",
                path.display(),
                if read { "read" } else { "cannot be read" }
            ));
        }
    });
    search.find_own_marker();
    search.ended(complete)
}

/// Asks the guest's proxy for routes of its own. Any response shows that it was asked: there is no marker in it.
fn proxy_routes(search: &Search<'_>) -> Done {
    let run = search.run;
    let proxy = talk::proxy_of_environment()?;
    for route in ROUTES {
        let Some(mut stream) = talk::connect(run, &proxy)? else {
            continue;
        };
        let request = format!(
            "GET {route} HTTP/1.1\r\nHost: {proxy}\r\nX-Nonce: {}\r\nConnection: close\r\n\r\n",
            run.words.nonce
        );
        let mut reply = Vec::new();
        let asked = stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.flush())
            .and_then(|()| {
                stream.set_read_timeout(run.within(std::time::Duration::from_secs(1)))?;
                (&mut *stream).take(FILE_BYTES.min(1 << 20)).read_to_end(&mut reply)
            });
        if let Err(error) = asked
            && reply.is_empty()
        {
            run.trace(format!("{route}: {}", errno(&error)));
        }
        if reply.starts_with(b"HTTP/1.") && !search.marker.is_empty() {
            run.notes.marker(true);
        }
        search.bytes(&format!("the proxy's answer to GET {route}"), &reply);
        run.trace(format!("{route}: {}", wire::excerpt(&reply[..reply.len().min(40)])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;
    use rstest::rstest;

    #[rstest]
    #[case(Place::Environment, "CARGO_MANIFEST_DIR")]
    #[case(Place::ProcEnviron, "bnmarkertext")]
    #[case(Place::ProcCmdline, "bnmarkertext")]
    #[case(Place::ProcDescriptors, "bnmarkertext")]
    #[case(Place::ProcMaps, "bnmarkertext")]
    #[case(Place::CoreDumps, "bnmarkertext")]
    fn markers_are_found_and_absent_texts_are_not(#[case] place: Place, #[case] marker: &str) {
        // Put together here, so that it is nowhere else.
        let needle: String = ["bnneedle", "that", "is", "nowhere"].join("-");
        let run = run(20_000);
        let done = find(&run, place, &[needle], marker);
        let content = run.notes.content();
        assert!(done.is_ok(), "{done:?} {:?}", content.trace);
        // The test program knows no `wait`: what it is planted in may be gone again. The process test has the real agent.
        if !matches!(place, Place::ProcEnviron | Place::ProcCmdline) {
            assert_eq!(content.marker_found, Some(true), "{:?}", content.trace);
        }
        assert!(content.findings.is_empty(), "{:?}", content.findings);
    }

    #[test]
    fn a_needle_in_a_file_is_found_and_not_shown() {
        let directory = tempfile::tempdir().expect("makes one");
        fs::write(directory.path().join("f"), "xx bnneedle-in-a-file").expect("writes");
        let run = run(5000);
        let scanner = Scanner::new(&[b"bnneedle-in-a-file".to_vec()]).expect("fits");
        let search = Search {
            run: &run,
            scanner,
            needles: 1,
            marker: String::new(),
        };
        below(&search, &[directory.path().to_owned()]).expect("is issued");
        let findings = run.notes.content().findings;
        assert!(
            findings.len() == 1
                && findings[0].starts_with("needle 1 (as it is) in ")
                && !findings[0].contains("bnneedle")
        );
    }
}
