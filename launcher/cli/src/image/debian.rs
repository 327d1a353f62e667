//! A Debian root, made by this machine's mmdebstrap and npm, and streamed into the engine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bottle_docker::Docker;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use super::recipe::{FINISH, NODE_LOCK, NODE_PACKAGE, Recipe, SUITE};
use crate::failure::{Failure, say};

/// What is of no use to an agent, and a third of a small root.
const LEFT_OUT: [&str; 4] = ["doc", "info", "locale", "man"];

/// What the image says about its containers. The user is the one that `finish.sh` makes.
const CHANGES: [&str; 3] = ["USER 1000:1000", "ENV LANG=C.UTF-8", "CMD [\"bash\"]"];

/// Makes the image; its id.
pub async fn make(engine: &Docker, recipe: &Recipe) -> Result<String, Failure> {
    let room = Room::make()?;
    let (npm, mmdebstrap) = (program("npm")?, program("mmdebstrap")?);
    say("getting Claude Code and npm (Node registry)");
    install(&npm, &room).await?;
    say(&format!(
        "making a Debian {SUITE} with {} packages and what they need (mmdebstrap)",
        recipe.packages.len()
    ));
    let mut child = command(&mmdebstrap, &room, recipe)
        .spawn()
        .map_err(Failure::system("starting mmdebstrap"))?;
    let _passed_on = PassedOn::to(&child)?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Failure::Image("mmdebstrap has no output".to_owned()))?;
    let mut archive = BufReader::with_capacity(1 << 20, stdout);
    // The engine is asked when there is something: the packing comes minutes after the start.
    let is_empty = archive
        .fill_buf()
        .await
        .map_err(Failure::system("reading from mmdebstrap"))?
        .is_empty();
    let imported = if is_empty {
        None
    } else {
        say("importing it into the engine");
        let pieces = ReaderStream::with_capacity(archive, 1 << 20);
        Some(engine.import_root(pieces, &CHANGES.map(str::to_owned)).await)
    };
    let status = child.wait().await.map_err(Failure::system("waiting for mmdebstrap"))?;
    match imported {
        Some(Ok(id)) if status.success() => Ok(id),
        Some(Ok(half)) => {
            // What it was cut off from is not known: nobody may ever run it.
            engine.remove_image(&half).await?;
            Err(Failure::Image(format!("mmdebstrap ended with {status}")))
        }
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::Image(format!(
            "mmdebstrap ended with {status} and made nothing"
        ))),
    }
}

/// Installs the pinned packages of the Node registry. No script of a package is run, and each is checked against its digest.
async fn install(npm: &Path, room: &Room) -> Result<(), Failure> {
    let tree = room.tree();
    let write = |name: &str, text: &str| std::fs::write(tree.join(name), text);
    std::fs::create_dir(&tree)
        .and_then(|()| write("package.json", NODE_PACKAGE))
        .and_then(|()| write("package-lock.json", NODE_LOCK))
        .map_err(Failure::system("writing what npm is to install"))?;
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    // The packages are for the image, whatever this machine's Node.js is.
    let mut child = Command::new(npm)
        .args([
            "ci",
            "--ignore-scripts",
            "--omit=dev",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ])
        .args(["--os=linux", "--libc=glibc", &format!("--cpu={cpu}")])
        .current_dir(&tree)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(Failure::system("starting npm"))?;
    let _passed_on = PassedOn::to(&child)?;
    let status = child.wait().await.map_err(Failure::system("waiting for npm"))?;
    if !status.success() {
        return Err(Failure::Image(format!("npm ended with {status}")));
    }
    Ok(())
}

fn command(mmdebstrap: &Path, room: &Room, recipe: &Recipe) -> Command {
    let mut command = Command::new(mmdebstrap);
    command.args(["--quiet", "--variant=minbase", "--format=tar"]);
    // Nothing of the root has to survive a crash before it is packed.
    command.arg("--dpkgopt=force-unsafe-io");
    for directory in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{directory}/*"));
    }
    command
        // Some packages make links in there without asking.
        .arg("--essential-hook=mkdir -p \"$1/usr/share/man/man1\"")
        .arg(format!("--include={}", recipe.packages.join(",")))
        .arg("--customize-hook=sh \"$BOTTLE_FINISH\" \"$1\"")
        .env("BOTTLE_FINISH", room.finish())
        .env("BOTTLE_NODE_TREE", room.tree())
        .arg(SUITE)
        .arg("-")
        .args(sources())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// This machine's own package sources where it is the same Debian; otherwise mmdebstrap knows where that is.
fn sources() -> Vec<&'static str> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == format!("VERSION_CODENAME={SUITE}")) {
        return Vec::new();
    }
    ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"]
        .into_iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|file| file.len() > 0))
        .collect()
}

fn program(name: &'static str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        Failure::Image(format!(
            "expected `{name}` on the path, found none; on Debian and Ubuntu: apt-get install {name}"
        ))
    })
}

/// Passes it on to a child when we are told to end: it then ends by itself, having removed what it made and mounted, and so
/// do we.
struct PassedOn(JoinHandle<()>);

impl PassedOn {
    fn to(child: &Child) -> Result<Self, Failure> {
        let failed = || Failure::system("listening for signals");
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed())?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self(tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if let Some(pid) = pid {
                // A child that has ended already is what is wanted.
                let _ = kill_process(pid, Signal::TERM);
            }
        })))
    }
}

impl Drop for PassedOn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A directory for the time of the making.
struct Room(PathBuf);

impl Room {
    fn make() -> Result<Self, Failure> {
        let mut name = [0; 8];
        getrandom::fill(&mut name)
            .map_err(|error| Failure::system("reading randomness")(std::io::Error::other(error.to_string())))?;
        let path = std::env::temp_dir().join(format!("bottle-image-{:016x}", u64::from_ne_bytes(name)));
        // Others may read it (mmdebstrap, when it is not root, is another user for the system), nobody may write.
        std::fs::create_dir(&path).map_err(Failure::system("making a directory for temporary files"))?;
        let room = Self(path);
        std::fs::write(room.finish(), FINISH).map_err(Failure::system("writing a script"))?;
        Ok(room)
    }

    fn finish(&self) -> PathBuf {
        self.0.join("finish.sh")
    }

    fn tree(&self) -> PathBuf {
        self.0.join("node")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!("{} stays: {error}", self.0.display()));
        }
    }
}
