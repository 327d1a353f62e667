//! QEMU: its arguments, its process, its recorded pid and its console.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::image::Image;
use crate::process::say;

const QEMU: &str = "qemu-system-x86_64";

/// What the machine writes when its engine answers and its shell may be used.
const READY: &str = "lane: ready";

/// What it writes when it never will be.
const FAILED: &str = "lane: failed";

/// How long a machine that powers itself off may take.
const OFF: Duration = Duration::from_secs(30);

/// A running machine. Dropped, it is ended by its pid.
pub struct Machine {
    child: Child,
    pid_file: PathBuf,
    console: PathBuf,
    read: u64,
    grown: Instant,
    text: String,
    verbose: bool,
}

impl Machine {
    /// Starts one; `directory` gets its console and QEMU's own messages, `pid_file` its pid.
    pub fn start(
        image: &Image,
        payload: &Path,
        port: u16,
        directory: &Path,
        pid_file: &Path,
        verbose: bool,
    ) -> anyhow::Result<Self> {
        let console = directory.join("console.log");
        fs::File::create(&console).with_context(|| format!("could not make {}", console.display()))?;
        let log = fs::File::create(directory.join("qemu.log")).context("could not make qemu.log")?;
        let child = Command::new(QEMU)
            .args(arguments(image, payload, port, &console))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {QEMU}"))?;
        fs::write(pid_file, child.id().to_string())
            .with_context(|| format!("could not write {}", pid_file.display()))?;
        Ok(Self {
            child,
            pid_file: pid_file.to_path_buf(),
            console,
            read: 0,
            grown: Instant::now(),
            text: String::new(),
            verbose,
        })
    }

    /// Whether QEMU runs.
    pub fn alive(&mut self) -> anyhow::Result<bool> {
        Ok(self
            .child
            .try_wait()
            .context("could not ask for QEMU's state")?
            .is_none())
    }

    /// Reads on in the console; how long it has been silent.
    pub fn silent(&mut self) -> anyhow::Result<Duration> {
        let mut file = fs::File::open(&self.console)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        if !new.is_empty() {
            self.read += new.len() as u64;
            self.grown = Instant::now();
            let new = String::from_utf8_lossy(&new);
            if self.verbose {
                std::io::stderr().write_all(new.as_bytes())?;
            }
            self.text.push_str(&new);
        }
        Ok(self.grown.elapsed())
    }

    /// Whether the machine said that its engine answers and its shell may be used.
    pub fn ready(&self) -> bool {
        self.text.contains(READY)
    }

    /// Whether the machine said that it cannot be used.
    pub fn failed(&self) -> bool {
        self.text.contains(FAILED)
    }

    /// Waits for a machine that powers itself off; ends it when it does not.
    pub fn off(mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < OFF {
            if !self.alive()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        say("the machine did not power off; ending QEMU");
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.pid_file);
    }
}

/// Ends a machine that a killed command of ours left, if the recorded pid still is that machine.
pub fn end_left(pid_file: &Path) -> anyhow::Result<()> {
    let Ok(pid) = fs::read_to_string(pid_file) else {
        return Ok(());
    };
    let pid = pid.trim();
    if pid.parse::<u32>().is_ok() && is_ours(pid, pid_file) {
        say(&format!(
            "ending the lane's machine that an earlier command left (pid {pid})"
        ));
        Command::new("kill")
            .args(["-KILL", pid])
            .status()
            .context("could not start kill")?;
        while is_ours(pid, pid_file) {
            thread::sleep(Duration::from_millis(50));
        }
    }
    fs::remove_file(pid_file).with_context(|| format!("could not remove {}", pid_file.display()))
}

/// Whether the process is a QEMU with a console under the same directory as the pid's file.
fn is_ours(pid: &str, pid_file: &Path) -> bool {
    let Some(directory) = pid_file.parent() else {
        return false;
    };
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let line = String::from_utf8_lossy(&line);
        line.starts_with(QEMU) && line.contains(&format!("file:{}/", directory.display()))
    })
}

/// One virtual CPU: two wedge under software emulation. The network leads nowhere but from the one port of this machine to the
/// shell of that one. The disk is written to a temporary file that is gone with QEMU.
fn arguments(image: &Image, payload: &Path, port: u16, console: &Path) -> Vec<String> {
    let drive = |path: &Path, more: &str| format!("file={},format=raw,if=virtio,{more}", comma(path));
    let mut words = vec!["-nodefaults", "-no-reboot", "-display", "none"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
    add("-accel", "tcg,thread=multi,tb-size=1024".to_owned());
    add("-cpu", CPU.to_owned());
    add("-smp", "1".to_owned());
    add("-m", "4096".to_owned());
    add("-kernel", image.kernel.display().to_string());
    add("-initrd", image.initrd.display().to_string());
    add("-append", KERNEL.to_owned());
    add("-drive", drive(&image.disk, "snapshot=on,cache=unsafe"));
    add("-drive", drive(payload, "readonly=on"));
    add(
        "-netdev",
        format!("user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
    );
    add("-device", "virtio-net-pci,netdev=n".to_owned());
    add("-device", "virtio-rng-pci".to_owned());
    add("-serial", format!("file:{}", comma(console)));
    words
}

/// Nested virtualisation of the kind that the emulation has. SMAP and SMEP cost it a lot and prove nothing here.
const CPU: &str = "EPYC,+svm,+npt,-smap,-smep";

/// Mitigations of real CPUs only slow an emulated one down.
const KERNEL: &str = "root=/dev/vda rw console=ttyS0 init=/init.sh panic=-1 net.ifnames=0 quiet mitigations=off";

/// A path among QEMU's comma-separated settings: a comma in it is doubled.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> String {
        let image = Image {
            disk: "/c/disk.img".into(),
            kernel: "/c/vmlinuz".into(),
            initrd: "/c/initrd".into(),
        };
        arguments(&image, Path::new("/t/a,b.tar"), 2222, Path::new("/t/console.log")).join(" ")
    }

    #[test]
    fn the_machine_has_one_cpu_and_no_way_outside() {
        let shown = shown();
        assert!(shown.contains("-smp 1 "), "{shown}");
        assert!(shown.contains("restrict=on,hostfwd=tcp:127.0.0.1:2222-:22"), "{shown}");
        assert_eq!(shown.matches("-netdev").count(), 1, "{shown}");
    }

    #[test]
    fn the_cached_disk_is_never_written_to() {
        assert!(
            shown().contains("file=/c/disk.img,format=raw,if=virtio,snapshot=on"),
            "{}",
            shown()
        );
        assert!(
            shown().contains("file=/t/a,,b.tar,format=raw,if=virtio,readonly=on"),
            "{}",
            shown()
        );
    }

    #[test]
    fn another_process_with_the_recorded_pid_is_left_alone() {
        let directory = std::env::temp_dir().join(format!("xtask-pid-{}", std::process::id()));
        crate::lane::smolvm::fresh(&directory).expect("a directory");
        let pid_file = directory.join("qemu.pid");
        fs::write(&pid_file, std::process::id().to_string()).expect("written");
        end_left(&pid_file).expect("looked at");
        assert!(!pid_file.exists());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
