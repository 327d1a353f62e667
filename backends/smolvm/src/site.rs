//! Where things are on the host.
//!
//! A machine of root's runs as a user of its own (2000000 and up, in group `kvm`), which must reach its image and the
//! bundle's sockets, and nobody else needs to: so what it must pass through is open to that group alone, and where there is
//! no such group, can be passed through but not listed.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_backend::{Backend, BackendError, EngineFacts};
use bottle_plan::RelayFacts;

use crate::program::{Limits, locate, refused};
use crate::{firewall, loopback};

/// What a backend needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The smolvm program; `None`: the first on the path.
    pub program: Option<PathBuf>,
    /// Directory of everything that bottles leave until they are removed.
    pub state: PathBuf,
    /// Directory of exported images.
    pub cache: PathBuf,
    /// Time limits of calls.
    pub limits: Limits,
    /// Whether rules of the host's firewall keep routed machines to their proxy's port; else smolvm does.
    pub firewall: bool,
    /// Whether bundles are reached by a relay even where their sockets could be handed over: to try that way.
    pub always_relay: bool,
    /// How many machines may be starting at a time. Two at once take longer than one after the other.
    pub starts_at_once: usize,
    /// How often a machine that does not come up within its limit is started in all; each time it is made anew.
    pub start_tries: usize,
}

impl Settings {
    /// From the environment: `BOTTLE_SMOLVM`, `BOTTLE_SMOLVM_STATE_DIR`, `BOTTLE_CACHE_DIR`, `BOTTLE_SMOLVM_STARTS` (at a
    /// time), `BOTTLE_SMOLVM_START_SECONDS` (at most, each time), `BOTTLE_SMOLVM_START_TRIES`, `BOTTLE_SMOLVM_RELAY` (`always`).
    /// Root's own places can be reached by its machines' users, which a home directory cannot.
    pub fn from_env() -> Self {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                // smolvm does not run where we do.
                .map(|value| std::path::absolute(&value).unwrap_or_else(|_| PathBuf::from(value)))
        };
        let is_root = rustix::process::geteuid().is_root();
        let below = |xdg, home: &str, root: &str| {
            if is_root {
                return PathBuf::from(root);
            }
            let base = variable(xdg).filter(|path| path.is_absolute());
            base.unwrap_or_else(|| variable("HOME").unwrap_or_else(|| "/".into()).join(home))
                .join("bottle")
        };
        let number = |name| {
            let text = std::env::var(name).ok()?;
            text.parse::<u32>().ok().filter(|number| *number > 0)
        };
        let mut limits = Limits::default();
        if let Some(seconds) = number("BOTTLE_SMOLVM_START_SECONDS") {
            limits.start = Duration::from_secs(seconds.into());
        }
        Self {
            program: variable("BOTTLE_SMOLVM"),
            state: variable("BOTTLE_SMOLVM_STATE_DIR")
                .unwrap_or_else(|| below("XDG_STATE_HOME", ".local/state", "/var/lib/bottle").join("smolvm")),
            cache: variable("BOTTLE_CACHE_DIR")
                .unwrap_or_else(|| below("XDG_CACHE_HOME", ".cache", "/var/cache/bottle")),
            limits,
            firewall: firewall::can_be_set(),
            always_relay: std::env::var("BOTTLE_SMOLVM_RELAY").as_deref() == Ok("always"),
            starts_at_once: number("BOTTLE_SMOLVM_STARTS").map_or(1, |starts| starts as usize),
            start_tries: number("BOTTLE_SMOLVM_START_TRIES").map_or(2, |tries| tries as usize),
        }
    }
}

impl Settings {
    /// Whether there is a smolvm program, named or on the path.
    pub fn finds_program(&self) -> bool {
        locate(self.program.as_deref()).is_ok()
    }

    /// The smolvm program: the one that is named, or the first on the path.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_program(&self) -> Result<PathBuf, BackendError> {
        locate(self.program.as_deref())
    }

    /// Whether machines reach their bundles in this engine by a relay, and how: a socket leads nowhere from another kernel. The
    /// one place where that is decided; the plan follows, and everything else follows the plan.
    ///
    /// # Errors
    /// When the engine cannot say what its bundles publish.
    pub async fn relay(&self, engine: &dyn Backend, facts: &EngineFacts) -> Result<Option<RelayFacts>, BackendError> {
        if !self.always_relay && facts.shares_kernel {
            return Ok(None);
        }
        let routed = loopback::lowest_free(&loopback::published(engine).await?);
        Ok(Some(RelayFacts { routed }))
    }

    /// Directory of the host that stands for this volume, which a bundle shares with its guest.
    pub fn shared(&self, volume: &str) -> PathBuf {
        Site::new(self).shared().join(volume)
    }
}

/// The directories below [`Settings::state`] and [`Settings::cache`].
#[derive(Clone, Debug)]
pub(crate) struct Site {
    state: PathBuf,
    cache: PathBuf,
}

impl Site {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            state: settings.state.clone(),
            cache: settings.cache.clone(),
        }
    }

    /// What smolvm itself keeps.
    pub(crate) fn machines(&self) -> PathBuf {
        self.state.join("machines")
    }

    /// One file for each thing that exists.
    pub(crate) fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// Directories that bundles share with their guests.
    pub(crate) fn shared(&self) -> PathBuf {
        self.state.join("shared")
    }

    /// Exported images.
    pub(crate) fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Makes the directories of the state.
    pub(crate) fn make_state(&self) -> Result<(), BackendError> {
        let call = "make the state directory of smolmachines bottles";
        let made = make_open(&self.state, 0o755)
            .and_then(|()| make_open(&self.machines(), 0o755))
            .and_then(|()| make_open(&self.journal(), 0o700))
            .and_then(|()| make_gate(&self.shared()));
        made.map_err(|error| {
            refused(
                call,
                format!(
                    "{}: {error}; make it writable, or name another with BOTTLE_SMOLVM_STATE_DIR",
                    self.state.display()
                ),
            )
        })?;
        check_passable(&self.state, "BOTTLE_SMOLVM_STATE_DIR").map_err(|problem| refused(call, problem))
    }

    /// Makes the directories of the cache.
    pub(crate) fn make_cache(&self) -> Result<(), BackendError> {
        let call = "make the cache of images";
        let made = make_open(&self.cache, 0o755).and_then(|()| make_gate(&self.images()));
        made.map_err(|error| {
            let problem = format!(
                "{}: {error}; make it writable, or name another with BOTTLE_CACHE_DIR",
                self.cache.display()
            );
            refused(call, problem)
        })?;
        check_passable(&self.cache, "BOTTLE_CACHE_DIR").map_err(|problem| refused(call, problem))
    }
}

/// Makes a directory and those above it. One that is there must be ours.
fn make_open(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "must be a directory (no link) of this user that no one else may write to",
        ));
    }
    Ok(())
}

/// Makes a directory that others' files cannot be reached through: open to root's machines, or to this user alone.
fn make_gate(path: &Path) -> io::Result<()> {
    make_open(path, 0o700)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    open_to_machines(path, 0o710, 0o711)
}

/// Opens something of root's to the users that its machines run as: by this mode to their group, or where there is none by the
/// other.
pub(crate) fn open_to_machines(path: &Path, to_group: u32, to_all: u32) -> io::Result<()> {
    let mode = match group("kvm") {
        Some(gid) => {
            std::os::unix::fs::chown(path, None, Some(gid))?;
            to_group
        }
        None => to_all,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Number of a group, from `/etc/group`.
fn group(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Root's machines run as other users, which must get through every directory above.
pub(crate) fn check_passable(path: &Path, variable: &str) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for directory in path.ancestors() {
        let Ok(found) = std::fs::metadata(directory) else {
            continue;
        };
        if found.mode() & 0o001 == 0 {
            return Err(format!(
                "{} cannot be passed through by the users that machines run as (expected mode o+x, found {:o}); name \
                 another place with {variable}",
                directory.display(),
                found.mode() & 0o7777
            ));
        }
    }
    Ok(())
}
