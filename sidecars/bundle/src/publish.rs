//! The directory that the guest shares: its init, the certificate, the lease.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// The guest's init, when it was built before this program.
const GUEST: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/guest.in"));
/// Name of the guest's init.
pub const GUEST_FILE: &str = "bottle-guest";
/// Name of the certificate.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// Name of the lease.
pub const LEASE_FILE: &str = "lease.sock";
/// Leases held at a time. One is the guest's; without a bound a guest could use up the descriptors of init.
const LEASES: usize = 16;

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The guest's init is not in this build.
    #[error(
        "this bundle was built without `{GUEST_FILE}`, so there is nothing to publish for the guest: build with \
             `cargo xtask build`"
    )]
    NoGuest,
    /// A file was not written.
    #[error("cannot publish {0}: {1}")]
    Write(PathBuf, io::Error),
}

/// Writes the guest's init and the certificate.
pub fn publish(directory: &Path, certificate: &str) -> Result<(), PublishError> {
    let guest = GUEST.ok_or(PublishError::NoGuest)?;
    fs::create_dir_all(directory).map_err(|error| PublishError::Write(directory.into(), error))?;
    write(&directory.join(CERTIFICATE_FILE), certificate.as_bytes(), 0o644)?;
    write(&directory.join(GUEST_FILE), guest, 0o755)
}

/// Writes the authority's key where the guest can read it: what K-CAKEY leaks.
#[cfg(feature = "leaky")]
pub fn publish_key(directory: &Path, key: &str) -> Result<(), PublishError> {
    write(&directory.join("ca.key"), key.as_bytes(), 0o644)
}

/// Writes a file that is either absent or whole.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PublishError> {
    let unfinished = path.with_extension("unfinished");
    let written = fs::remove_file(&unfinished)
        .or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        })
        .and_then(|()| {
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&unfinished)
        })
        .and_then(|mut file| {
            file.write_all(content)?;
            // The mode given to `open` is cut by the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| PublishError::Write(path.into(), error))
}

/// Holds the connections of whoever wants to know when this bundle ends.
pub fn hold_leases(directory: &Path) -> Result<(), PublishError> {
    let path = directory.join(LEASE_FILE);
    let failed = |error| PublishError::Write(path.clone(), error);
    fs::create_dir_all(directory).map_err(failed)?;
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(LEASES));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((mut lease, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(async move {
                let mut ignored = [0; 64];
                while matches!(lease.read(&mut ignored).await, Ok(1..)) {}
                drop(place);
            });
        }
    });
    Ok(())
}
