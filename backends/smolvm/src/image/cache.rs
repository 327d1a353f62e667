//! The cache of exported images: `DIGEST/rootfs` and `DIGEST/settings.json`, whole or not there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bottle_backend::{BackendError, Labels};
use tokio::sync::mpsc;

use super::unpack::{PieceReader, unpack};
use super::{Image, Packaged, Settings, Source};
use crate::program::{refused, unexpected};

/// An image that was not used for this long goes, unless a machine has it.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Pieces of an archive on their way from the engine.
const PIECES: usize = 16;

const FILES: &str = "rootfs";
const SETTINGS: &str = "settings.json";
/// Its time of change is when the image was last used.
const USED: &str = "used";
/// Begins the names of what is not whole.
const UNFINISHED: &str = "unfinished-";

/// A directory of images.
#[derive(Clone, Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The image with this id of the engine, exported when it is not there.
    pub(crate) async fn take(
        &self,
        source: &Arc<dyn Source>,
        id: &str,
        labels: &Labels,
        used: &[PathBuf],
    ) -> Result<Image, BackendError> {
        self.take_made(id, used, |files| self.export(source, id, labels, files))
            .await
    }

    /// The image in a file, unpacked when it is not there.
    pub(crate) async fn take_file(&self, file: Box<dyn Packaged>, used: &[PathBuf]) -> Result<Image, BackendError> {
        let id = file.id().to_owned();
        let call = format!("unpack the image {id}");
        let unpack = |files: PathBuf| async move {
            let unpacking = tokio::task::spawn_blocking(move || file.unpack(&files).map(|()| file.settings().clone()));
            let unpacked = unpacking.await.map_err(|error| unexpected(&*call, error.to_string()))?;
            unpacked.map_err(|error| self.failed(&call, &error))
        };
        self.take_made(&id, used, unpack).await
    }

    /// The image with this id; where it is not there, `make` puts its files into a directory. Of several who ask at once, in
    /// this process or others, one makes it and the others wait.
    async fn take_made<M: Future<Output = Result<Settings, BackendError>>>(
        &self,
        id: &str,
        used: &[PathBuf],
        make: impl FnOnce(PathBuf) -> M,
    ) -> Result<Image, BackendError> {
        let call = format!("take the image {id} from the cache");
        let digest = digest(id).ok_or_else(|| unexpected(&*call, "expected an id of the form `sha256:DIGEST`"))?;
        let lock = self.lock(digest).await.map_err(|error| self.failed(&call, &error))?;
        let whole = self.0.join(digest);
        let image = match read(&whole) {
            Ok(Some(image)) => image,
            Ok(None) => self.make(&call, digest, make).await?,
            Err(error) => return Err(self.failed(&call, &error)),
        };
        if let Err(error) = fs::write(whole.join(USED), "") {
            tracing::debug!(%error, "the time of use of an image is not noted");
        }
        drop(lock);
        self.prune(used, &whole);
        Ok(image)
    }

    async fn make<M: Future<Output = Result<Settings, BackendError>>>(
        &self,
        call: &str,
        digest: &str,
        make: impl FnOnce(PathBuf) -> M,
    ) -> Result<Image, BackendError> {
        let unfinished = self.0.join(format!("{UNFINISHED}{digest}"));
        // What a killed launcher left: we have the lock, so nobody else is at it.
        let begun = remove(&unfinished).and_then(|()| fs::create_dir_all(unfinished.join(FILES)));
        begun.map_err(|error| self.failed(call, &error))?;
        let outcome = match make(unfinished.join(FILES)).await {
            Ok(settings) => self
                .finish(&unfinished, digest, &settings)
                .map_err(|error| self.failed(call, &error)),
            Err(error) => Err(error),
        };
        if outcome.is_err()
            && let Err(error) = remove(&unfinished)
        {
            tracing::warn!(%error, "an unfinished image stays until the next one");
        }
        outcome
    }

    async fn export(
        &self,
        source: &Arc<dyn Source>,
        id: &str,
        labels: &Labels,
        files: PathBuf,
    ) -> Result<Settings, BackendError> {
        let call = format!("export the image {id}");
        let settings = source.settings(id).await?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let unpacking = tokio::task::spawn_blocking(move || unpack(PieceReader::new(receiver), &files));
        let exported = source.export(id, labels, sender).await;
        let unpacked = unpacking.await.map_err(|error| unexpected(&*call, error.to_string()))?;
        // What went wrong here explains what then went wrong there.
        unpacked.map_err(|error| self.failed(&call, &error))?;
        exported.map(|()| settings)
    }

    fn finish(&self, unfinished: &Path, digest: &str, settings: &Settings) -> io::Result<Image> {
        fs::write(unfinished.join(SETTINGS), serde_json::to_vec_pretty(settings)?)?;
        let whole = self.0.join(digest);
        fs::rename(unfinished, &whole)?;
        Ok(Image {
            directory: whole.join(FILES),
            settings: settings.clone(),
        })
    }

    /// Held until it is dropped, by this process or any other.
    async fn lock(&self, digest: &str) -> io::Result<File> {
        let path = self.0.join(format!("{digest}.lock"));
        let wait = move || {
            let file = File::options().create(true).append(true).open(path)?;
            loop {
                match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
                    Ok(()) => return Ok(file),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        tokio::task::spawn_blocking(wait).await.map_err(io::Error::other)?
    }

    fn failed(&self, call: &str, problem: &(impl std::fmt::Display + ?Sized)) -> BackendError {
        refused(
            call,
            format!(
                "{problem}; the cache is {}: make room there, or name another directory with BOTTLE_CACHE_DIR",
                self.0.display()
            ),
        )
    }

    /// Removes images that nobody used for long. Failures are only told: the launch has what it needs.
    fn prune(&self, used: &[PathBuf], taken: &Path) {
        let oldest = SystemTime::now()
            .checked_sub(KEPT_FOR)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_digest(name)) else {
                continue;
            };
            let is_used = path == taken || used.iter().any(|image| image.starts_with(&path));
            let is_old = fs::metadata(path.join(USED))
                .and_then(|found| found.modified())
                .is_ok_and(|last| last < oldest);
            if is_used || !is_old {
                continue;
            }
            // Under another name first, so that a half-removed image is none.
            let gone = self.0.join(format!("{UNFINISHED}{name}"));
            let removed = fs::rename(&path, &gone).and_then(|()| remove(&gone));
            if let Err(error) = removed {
                tracing::warn!(%error, path = %path.display(), "an old image stays in the cache");
            }
        }
    }
}

/// The image in a directory; `None` when it is not there.
fn read(whole: &Path) -> io::Result<Option<Image>> {
    let settings = match fs::read(whole.join(SETTINGS)) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Image {
        directory: whole.join(FILES),
        settings,
    }))
}

/// Removes a directory in which directories may be that forbid it to their owner.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

fn digest(id: &str) -> Option<&str> {
    id.strip_prefix("sha256:").filter(|digest| is_digest(digest))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
