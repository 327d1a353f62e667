//! Actions `Vsock`, `Devices` and `WriteShare`: what only a virtual machine has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use probe_spec::{DeviceKind, ShareAttack};
use rustix::event::PollFlags;
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, mount, mount_remount};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::notes::{Done, NotIssued, Run, errno};
use crate::scratch::Scratch;
use crate::sweep;

/// vsock connections at a time.
const BATCH: usize = 512;
/// How long a batch is waited for. A port at which nobody listens does not answer (libkrun, measured).
const PATIENCE: Duration = Duration::from_millis(300);
/// Where the kernel lists the virtiofs shares (Linux 6.9).
const SHARES: &str = "/sys/fs/virtiofs";
/// Names of shares that smolvm 1.32.2 gives a machine, where the kernel does not list them (measured; `smolvm0` and so on are its
/// volumes').
const KNOWN_SHARES: [&str; 6] = [
    "smolvm_layers",
    "smolvm_attach_ro",
    "smolvm_attach_rw",
    "smolvm0",
    "smolvm1",
    "smolvm2",
];

/// Action `Vsock`.
pub fn vsock(run: &Run, cid: u32, first: u32, last: u32) -> Done {
    let ports: Vec<u32> = (first..=last).collect();
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    let mut open = BTreeSet::new();
    for (at, ports) in ports.chunks(BATCH).enumerate() {
        if run.is_over() {
            run.trace(format!("{} of {} ports tried", at * BATCH, last - first + 1));
            return Err(NotIssued::CutOff("the last port"));
        }
        let mut pending = Vec::new();
        for port in ports {
            match begin(cid, *port) {
                Ok((_, true)) => drop(open.insert(*port)),
                Ok((socket, false)) => pending.push((*port, socket)),
                Err(error) => *failed.entry(errno(&error)).or_default() += 1,
            }
        }
        let end = Instant::now() + run.within(PATIENCE);
        while !pending.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let ready = sweep::wait(&pending, PollFlags::OUT, left)
                .map_err(|error| NotIssued::Agent(format!("poll: {}", errno(&error))))?;
            if ready.is_empty() {
                break;
            }
            for at in ready.into_iter().rev() {
                let (port, socket) = pending.swap_remove(at);
                match socket.take_error() {
                    Ok(None) => drop(open.insert(port)),
                    Ok(Some(error)) | Err(error) => *failed.entry(errno(&error)).or_default() += 1,
                }
            }
        }
        if !pending.is_empty() {
            *failed.entry("no answer".to_owned()).or_default() += pending.len();
        }
    }
    for port in &open {
        run.notes.finding(format!("vsock port {port} of CID {cid} is open"));
    }
    run.trace(format!("{} of {} ports are open", open.len(), ports.len()));
    run.trace(format!("the others: {failed:?}"));
    Ok(())
}

/// A connection under way, and whether it is made already.
fn begin(cid: u32, port: u32) -> io::Result<(Socket, bool)> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::vsock(cid, port)) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// Action `Devices`.
pub fn devices(run: &Run, of: DeviceKind, declared: &[String]) -> Done {
    let found = match of {
        DeviceKind::Block => disks(),
        DeviceKind::Virtio => virtio(),
        DeviceKind::Virtualisation => virtualisation(),
    }
    .map_err(|error| NotIssued::Agent(format!("the machine's devices cannot be listed: {}", errno(&error))))?;
    run.trace(format!("{found:?}"));
    for device in &found {
        if !declared.contains(device) {
            run.notes.finding(format!("not declared: {device}"));
        }
    }
    Ok(())
}

fn names(directory: &str) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn disks() -> io::Result<Vec<String>> {
    let own = |name: &String| !["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind));
    let mut disks = names("/sys/block")?;
    disks.retain(own);
    disks.sort();
    Ok(disks)
}

fn virtio() -> io::Result<Vec<String>> {
    let place = Path::new("/sys/bus/virtio/devices");
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for name in names("/sys/bus/virtio/devices")? {
        let text = fs::read_to_string(place.join(name).join("device"))?;
        let id = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("`{}`: {error}", text.trim())))?;
        *counts.entry(id).or_default() += 1;
    }
    Ok(counts.into_iter().map(|(id, count)| format!("{id}x{count}")).collect())
}

fn virtualisation() -> io::Result<Vec<String>> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let flags: BTreeSet<&str> = processor
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .collect();
    let mut found: Vec<String> = ["svm", "vmx"]
        .into_iter()
        .filter(|flag| flags.contains(flag))
        .map(|flag| format!("processor flag {flag}"))
        .collect();
    for device in ["/dev/kvm", "/sys/class/misc/kvm"] {
        if Path::new(device).exists() {
            found.push(device.to_owned());
        }
    }
    Ok(found)
}

/// Action `WriteShare`.
pub fn write_share(run: &Run, how: ShareAttack, directory: &str) -> Done {
    let directory = PathBuf::from(run.words.text(directory)?);
    let file = directory.join("marker");
    run.notes
        .marker(fs::read(&file).is_ok_and(|content| !content.is_empty()));
    let said = |what: &str, outcome: io::Result<()>| match outcome {
        Ok(()) => run.trace(format!("{what}: done")),
        Err(error) => run.trace(format!("{what}: {}", errno(&error))),
    };
    let note = run.words.text("{nonce}")?;
    let write = |file: &Path| {
        let mut opened = OpenOptions::new().append(true).open(file)?;
        opened.write_all(note.as_bytes())
    };
    match how {
        ShareAttack::Write => {}
        ShareAttack::Remount => {
            for flags in [MountFlags::empty(), MountFlags::BIND] {
                // The mount is the directory above: that of the bottle.
                let place = directory.parent().unwrap_or(&directory);
                said("remount", mount_remount(place, flags, c"").map_err(io::Error::from));
            }
        }
        ShareAttack::SecondMount => second_mount(run, &directory, &write),
        ShareAttack::Truncate => said("truncate", File::create(&file).map(drop)),
        ShareAttack::Attribute => {
            let set = rustix::fs::setxattr(&file, c"user.bottle", note.as_bytes(), XattrFlags::empty());
            said("attribute", set.map_err(io::Error::from));
        }
        ShareAttack::Create => said("create", fs::write(directory.join("second"), note.as_bytes())),
        ShareAttack::Rename => said("rename", fs::rename(&file, directory.join("renamed"))),
        ShareAttack::Remove => said("remove", fs::remove_file(&file)),
    }
    said("write", write(&file));
    Ok(())
}

/// Mounts each share somewhere else and writes to the same file there.
fn second_mount(run: &Run, directory: &Path, write: &impl Fn(&Path) -> io::Result<()>) {
    let listed = names(SHARES).unwrap_or_default().into_iter();
    let tags = listed.filter_map(|name| fs::read_to_string(Path::new(SHARES).join(name).join("tag")).ok());
    let mut tags: BTreeSet<String> = tags.map(|tag| tag.trim().to_owned()).collect();
    tags.extend(KNOWN_SHARES.map(str::to_owned));
    for tag in tags {
        let Ok(scratch) = Scratch::new() else {
            run.trace("there is no place to mount at");
            return;
        };
        let mounted = mount(&tag, scratch.path(), c"virtiofs", MountFlags::empty(), None);
        run.trace(format!("mount {tag}: {mounted:?}"));
        if mounted.is_ok() {
            let below = directory
                .file_name()
                .map(|name| scratch.path().join(name).join("marker"));
            if let Some(file) = below {
                run.trace(format!("write there: {:?}", write(&file)));
            }
            // It goes with the agent's machine at the latest.
            let _ = rustix::mount::unmount(scratch.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;

    #[test]
    fn what_is_not_declared_is_found() {
        let all = disks().expect("lists");
        let run_all = run(10_000);
        devices(&run_all, DeviceKind::Block, &all).expect("issued");
        assert!(run_all.notes.content().findings.is_empty());
        if let Some(first) = all.first() {
            let run_none = run(10_000);
            devices(&run_none, DeviceKind::Block, &[]).expect("issued");
            let findings = run_none.notes.content().findings;
            assert!(findings.contains(&format!("not declared: {first}")), "{findings:?}");
        }
    }

    #[test]
    fn a_share_that_can_be_written_to_is_changed() {
        for how in [
            ShareAttack::Write,
            ShareAttack::Truncate,
            ShareAttack::Create,
            ShareAttack::Rename,
            ShareAttack::Remove,
        ] {
            let directory = tempfile::tempdir().expect("made");
            let file = directory.path().join("marker");
            fs::write(&file, "before").expect("written");
            let run = run(10_000);
            write_share(&run, how, &directory.path().display().to_string()).expect("issued");
            assert_eq!(run.notes.content().marker_found, Some(true), "{how:?}");
            let changed = fs::read(&file).map_or(true, |content| content != b"before")
                || directory.path().join("second").exists();
            assert!(changed, "{how:?}: {:?}", run.notes.content().trace);
        }
    }

    #[test]
    fn a_share_without_its_file_is_no_proof() {
        let run = run(10_000);
        write_share(&run, ShareAttack::Write, "/nonexistent").expect("issued");
        assert_eq!(run.notes.content().marker_found, Some(false));
    }

    /// The kernel's own loopback of vsock, where it has one.
    #[test]
    fn ports_are_tried_in_time() {
        let run = run(10_000);
        vsock(&run, 1, 6000, 6005).expect("issued");
        assert!(run.notes.content().findings.is_empty());
        assert_eq!(run.notes.content().trace.len(), 2);
    }
}
