//! What exists, on disk: a launcher that was killed cannot tell, and smolvm keeps no labels in all of its versions.
//!
//! One file for each machine and each shared directory, written before the thing is made and removed after it is gone. An
//! unreadable file is reported, never guessed at.

use std::io;
use std::path::PathBuf;

use bottle_backend::{BackendError, Labels, Resource, ResourceKind};
use bottle_plan::ContainerPlan;
use serde::{Deserialize, Serialize};

use crate::image::Settings;
use crate::processes::Process;
use crate::program::{refused, unexpected};

/// Version of an entry.
const VERSION: u32 = 1;
/// Ids of our machines begin with this, so that they are told from an engine's.
const MACHINE: &str = "smolvm/";
/// Ids of our shared directories begin with this.
const DIRECTORY: &str = "smolvm-directory/";

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    version: u32,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// Of a machine: what was planned. No plan has secrets.
    pub(crate) plan: Option<ContainerPlan>,
    /// Of a machine: the smolvm program that made it.
    #[serde(default)]
    pub(crate) program: Option<PathBuf>,
    /// Of a machine: the directory with its image's files.
    pub(crate) image: Option<PathBuf>,
    /// Of a machine: what its image says about its programs.
    #[serde(default)]
    pub(crate) settings: Settings,
    /// Of a machine that was started: its process.
    pub(crate) process: Option<Process>,
    /// Of a machine: the firewall table that is its own.
    pub(crate) firewall: Option<String>,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A machine.
    Machine,
    /// A directory that a bundle shares with its guest.
    Directory,
}

/// The id of a thing.
pub(crate) fn id(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Machine => format!("{MACHINE}{name}"),
        Kind::Directory => format!("{DIRECTORY}{name}"),
    }
}

/// What an id is about; `None` for an engine's.
pub(crate) fn of_id(id: &str) -> Option<(Kind, &str)> {
    let machine = id.strip_prefix(MACHINE).map(|name| (Kind::Machine, name));
    machine.or_else(|| id.strip_prefix(DIRECTORY).map(|name| (Kind::Directory, name)))
}

impl Entry {
    /// A fresh one.
    pub(crate) fn new(kind: Kind, name: &str, labels: &Labels) -> Self {
        Self {
            version: VERSION,
            kind,
            name: name.to_owned(),
            labels: labels.clone(),
            plan: None,
            program: None,
            image: None,
            settings: Settings::default(),
            process: None,
            firewall: None,
        }
    }

    /// As something of ours in an engine.
    pub(crate) fn resource(&self) -> Resource {
        Resource {
            kind: match self.kind {
                Kind::Machine => ResourceKind::Container,
                Kind::Directory => ResourceKind::Volume,
            },
            name: self.name.clone(),
            id: id(self.kind, &self.name),
            labels: self.labels.clone(),
        }
    }
}

/// The directory of entries.
#[derive(Clone, Debug)]
pub(crate) struct Journal(PathBuf);

impl Journal {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn path(&self, name: &str) -> Result<PathBuf, BackendError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 120 || !name.bytes().all(is_plain) {
            return Err(refused("note in the journal", format!("`{name}` is no name of ours")));
        }
        Ok(self.0.join(format!("{name}.json")))
    }

    /// Writes an entry, whole or not at all.
    pub(crate) fn write(&self, entry: &Entry) -> Result<(), BackendError> {
        let path = self.path(&entry.name)?;
        let unfinished = path.with_extension("unfinished");
        let written = serde_json::to_vec_pretty(entry)
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(&unfinished, json))
            .and_then(|()| std::fs::rename(&unfinished, &path));
        written.map_err(|error| refused("note in the journal", format!("{}: {error}", path.display())))
    }

    /// Reads an entry; `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Entry>, BackendError> {
        let path = self.path(name)?;
        let failed = |problem: String| unexpected("read the journal", format!("{}: {problem}", path.display()));
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let entry: Entry = serde_json::from_slice(&json).map_err(|error| failed(error.to_string()))?;
        if entry.version == VERSION && entry.name == name {
            Ok(Some(entry))
        } else {
            Err(failed(format!(
                "expected version {VERSION} of `{name}`, found {} of `{}`",
                entry.version, entry.name
            )))
        }
    }

    /// Every entry.
    pub(crate) fn all(&self) -> Result<Vec<Entry>, BackendError> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused("read the journal", format!("{}: {error}", self.0.display()))),
        };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            match self.read(name) {
                Ok(found) => all.extend(found),
                // One damaged file must not hide the others.
                Err(error) => tracing::warn!(%error, "an entry of the journal is left out"),
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Forgets an entry.
    pub(crate) fn forget(&self, name: &str) -> Result<(), BackendError> {
        let path = self.path(name)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(refused("forget in the journal", format!("{}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_damage_hides_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().to_owned());
        let labels = Labels::from([("bottle.slug".to_owned(), "x".to_owned())]);
        let mut entry = Entry::new(Kind::Machine, "bottle-x-guest", &labels);
        journal.write(&entry).unwrap();
        entry.process = Some(Process { pid: 7, start: 9 });
        journal.write(&entry).unwrap();
        assert_eq!(journal.read("bottle-x-guest").unwrap().as_ref(), Some(&entry));
        std::fs::write(directory.path().join("damaged.json"), "{").unwrap();
        std::fs::write(directory.path().join("other.unfinished"), "{").unwrap();
        assert_eq!(journal.all().unwrap(), [entry.clone()]);
        assert!(journal.read("damaged").is_err());
        journal.forget("bottle-x-guest").unwrap();
        journal.forget("bottle-x-guest").unwrap();
        assert_eq!(journal.read("bottle-x-guest").unwrap(), None);
        assert_eq!(of_id(&entry.resource().id), Some((Kind::Machine, "bottle-x-guest")));
        assert_eq!(of_id("0123abc"), None);
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        let journal = Journal::new("/nonexistent".into());
        for name in ["", "../x", "a/b", ".", "a.b"] {
            assert!(journal.read(name).is_err(), "{name}");
        }
        assert_eq!(journal.all().unwrap(), []);
    }
}
