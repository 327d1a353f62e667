//! The shell of the machine: keys of one run, commands, and what is brought out.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::process::run;

/// How to reach the machine of one try.
pub struct Session {
    directory: PathBuf,
    /// Port of this machine that leads to the shell.
    pub port: u16,
}

impl Session {
    /// New keys for both ends, and a free port.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        for name in ["host", "user"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "lane", "-f"])
                .arg(directory.join(name)))?;
        }
        // Free now; whoever takes it in the next moment makes QEMU end, and the second try takes another one.
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .context("could not find a free port")?
            .port();
        let host = fs::read_to_string(directory.join("host.pub"))?;
        fs::write(directory.join("known_hosts"), format!("[127.0.0.1]:{port} {host}"))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            port,
        })
    }

    /// The key that the machine shows.
    pub fn host_key(&self) -> PathBuf {
        self.directory.join("host")
    }

    /// The key that the machine lets in.
    pub fn authorized(&self) -> PathBuf {
        self.directory.join("user.pub")
    }

    /// Runs a shell command there.
    pub fn spawn(&self, command: &str, stdout: Stdio, stderr: Stdio) -> anyhow::Result<Child> {
        Command::new("ssh")
            .args(["-F", "/dev/null", "-q", "-T", "-n", "-i"])
            .arg(self.directory.join("user"))
            .arg("-o")
            .arg(format!(
                "UserKnownHostsFile={}",
                self.directory.join("known_hosts").display()
            ))
            .args([
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "BatchMode=yes",
            ])
            // An emulated machine on a busy one takes its time; one that stands still is found by its console.
            .args([
                "-o",
                "ConnectTimeout=120",
                "-o",
                "ConnectionAttempts=3",
                "-o",
                "ServerAliveInterval=0",
            ])
            .args(["-p", &self.port.to_string(), "root@127.0.0.1", command])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .context("could not start ssh")
    }

    /// Removes the keys.
    pub fn forget(&self) {
        for name in ["host", "host.pub", "user", "user.pub", "known_hosts"] {
            // One that is gone already is as good.
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}
