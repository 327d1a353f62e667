//! Files that the launcher gives to a guest, through the shared directory: the guest's init copies them from there.

use bottle_backend::{BackendError, BackendErrorKind, Role};
use bottle_plan::{JAVA_TRUST_FILE, NODE_LEAD_FILE};
use bottle_policy::SHARED_DIR;
use bytes::Bytes;

use crate::bundle::RunningBundle;
use crate::error::LaunchFailure;
use crate::jks::jks;
use crate::launch::Site;
use crate::made::backend_failed;

/// What leads Node.js through the proxy.
const NODE_LEAD: &[u8] = include_bytes!("node.cjs");

/// Most bytes of all files together: the shared directory is in memory and small.
pub const PROVIDED_LIMIT: usize = 8 << 20;

/// A file for the guest. It is no secret: everything in the guest may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// Path below the shared directory, for example `agent/prompt.md`.
    pub path: String,
    /// Whether it is a program.
    pub executable: bool,
    /// Content.
    pub content: Bytes,
}

impl Site {
    /// Puts the files into the shared directory. The bundle is the half that may write there.
    pub(crate) async fn provide(&self, bundle: &RunningBundle) -> Result<(), LaunchFailure> {
        let mut files = self.options.provided.clone();
        if !self.plan().trust.is_empty() {
            let store = jks(&bundle.ready().0).map(|store| (JAVA_TRUST_FILE, Bytes::from(store)));
            let lead = (NODE_LEAD_FILE, Bytes::from_static(NODE_LEAD));
            files.extend(store.into_iter().chain([lead]).map(|(path, content)| Provided {
                path: path.to_owned(),
                executable: false,
                content,
            }));
        }
        if files.is_empty() {
            return Ok(());
        }
        self.say("providing the agent's files");
        let failed = backend_failed("providing the agent's files");
        let archive = archive(&files).map_err(|problem| {
            failed(BackendError {
                call: "pack".to_owned(),
                problem,
                kind: BackendErrorKind::Refused,
            })
        })?;
        let put = self
            .backend
            .put(Role::Bundle, &bundle.half.id, SHARED_DIR, archive)
            .await;
        put.map_err(backend_failed("providing the agent's files"))
    }
}

/// A tar archive of them, with the directories that they are in.
fn archive(files: &[Provided]) -> Result<Bytes, String> {
    let size: usize = files.iter().map(|file| file.content.len()).sum();
    if size > PROVIDED_LIMIT {
        return Err(format!(
            "expected at most {PROVIDED_LIMIT} bytes of prompt and skills, found {size}"
        ));
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut directories = std::collections::BTreeSet::new();
    for file in files {
        let parts: Vec<&str> = file.path.split('/').collect();
        if parts
            .iter()
            .any(|part| matches!(*part, "" | "." | "..") || part.contains('\0'))
        {
            return Err(format!("expected a path below {SHARED_DIR}, found `{}`", file.path));
        }
        for depth in 1..parts.len() {
            let directory = parts[..depth].join("/");
            if directories.insert(directory.clone()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                let path = format!("{directory}/");
                archive
                    .append_data(&mut header, path, std::io::empty())
                    .map_err(|error| error.to_string())?;
            }
        }
        let mode = if file.executable { 0o755 } else { 0o644 };
        let mut header = header(tar::EntryType::Regular, mode, file.content.len() as u64);
        archive
            .append_data(&mut header, &file.path, &*file.content)
            .map_err(|error| error.to_string())?;
    }
    archive.into_inner().map(Bytes::from).map_err(|error| error.to_string())
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: usize) -> Provided {
        Provided {
            path: path.to_owned(),
            executable: path.ends_with(".sh"),
            content: vec![b'x'; size].into(),
        }
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let packed = archive(&[file("agent/prompt.md", 3), file("agent/skills/one/run.sh", 1)]).unwrap();
        let mut archive = tar::Archive::new(&*packed);
        let seen: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("agent/", 0o755),
            ("agent/prompt.md", 0o644),
            ("agent/skills/", 0o755),
            ("agent/skills/one/", 0o755),
            ("agent/skills/one/run.sh", 0o755),
        ];
        assert_eq!(seen, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn what_does_not_fit_or_leaves_the_directory_is_refused() {
        for bad in ["", "/etc/passwd", "a/../b", "a//b", "."] {
            archive(&[file(bad, 1)]).unwrap_err();
        }
        let error = archive(&[file("a", PROVIDED_LIMIT), file("b", 1)]).unwrap_err();
        assert!(error.contains("expected at most"), "{error}");
    }
}
