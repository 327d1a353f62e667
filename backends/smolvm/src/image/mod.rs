//! Images: a directory with files, and what its author says about the programs in it.
//!
//! A machine's image is a directory that it reads while it runs, so one that is in the cache is never changed: it is made
//! under another name and moved to its own when it is whole, and its name is the digest that the engine knows it by.

mod archive;
mod cache;
mod pack;
mod unpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bottle_backend::{BackendError, BoxFuture, Labels};
use bottle_docker::Docker;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::program::refused;
use archive::Archive;
pub(crate) use cache::Cache;
use pack::Pack;
pub(crate) use unpack::whole;

/// Pieces of an archive.
pub type Pieces = mpsc::Sender<Result<Bytes, String>>;

/// What an image says about the programs that run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
}

impl Settings {
    /// As images in files say it: an environment of lines `NAME=VALUE`, and empty texts for nothing.
    fn said(env: Vec<String>, user: Option<String>, workdir: Option<String>) -> Self {
        let of = |line: String| {
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            (name.to_owned(), value.to_owned())
        };
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            env: env.into_iter().map(of).collect(),
            user: filled(user),
            workdir: filled(workdir),
        }
    }
}

/// Where images come from: the engine that bundles live in.
pub trait Source: Send + Sync {
    /// What an image says about its programs.
    fn settings<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Settings, BackendError>>;

    /// Sends an image's files as one archive. Whatever it makes in the engine meanwhile has these labels.
    fn export<'a>(&'a self, id: &'a str, labels: &'a Labels, pieces: Pieces)
    -> BoxFuture<'a, Result<(), BackendError>>;
}

impl Source for Docker {
    fn settings<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Settings, BackendError>> {
        Box::pin(async move {
            let found = self.image_settings(id).await?;
            Ok(Settings {
                env: found.env,
                user: found.user,
                workdir: found.workdir,
            })
        })
    }

    fn export<'a>(
        &'a self,
        id: &'a str,
        labels: &'a Labels,
        pieces: Pieces,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.export_image(id, labels, &pieces).await })
    }
}

/// An image that machines can be made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Directory with its files.
    pub(crate) directory: PathBuf,
    /// What it says about its programs.
    pub(crate) settings: Settings,
}

/// An image in a file.
pub(crate) trait Packaged: Send {
    /// `sha256:DIGEST`.
    fn id(&self) -> &str;

    /// What it says about its programs.
    fn settings(&self) -> &Settings;

    /// Unpacks its layers, one over the other, into a fresh directory. What is in the directory then is the image only when this
    /// succeeds.
    fn unpack(&self, directory: &Path) -> Result<(), BackendError>;
}

/// An image that is named by its path.
pub(crate) enum OnDisk {
    /// A directory. Its files must be readable for the machine's user.
    Directory(Image),
    /// A file.
    File(Box<dyn Packaged>),
}

/// Looks at an image that is named by its path; `None` when it is not there.
pub(crate) fn on_disk(reference: &str) -> Result<Option<OnDisk>, BackendError> {
    let call = format!("look at the image {reference}");
    let path = match std::fs::canonicalize(reference) {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(call, error.to_string())),
    };
    if path.is_file() {
        return Ok(Some(OnDisk::File(match Pack::open(&path)? {
            Some(pack) => Box::new(pack),
            None => Box::new(Archive::open(&path)?),
        })));
    }
    check_readable(&path).map_err(|problem| refused(call, problem))?;
    Ok(Some(OnDisk::Directory(Image {
        directory: path,
        settings: Settings::default(),
    })))
}

fn check_readable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    crate::site::check_passable(path, "an image directory elsewhere")?;
    let mode = std::fs::metadata(path).map_err(|error| error.to_string())?.mode();
    if rustix::process::geteuid().is_root() && mode & 0o004 == 0 {
        return Err(format!(
            "{} cannot be read by the users that machines run as (expected mode o+r, found {:o})",
            path.display(),
            mode & 0o7777
        ));
    }
    Ok(())
}
