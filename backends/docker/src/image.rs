//! Images of a few files, as `docker save` archives, made without any builder.
//!
//! The same content always gives the same bytes, and the tag is the digest of the content: an image that is there under
//! its reference is the right one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

/// A file of an image.
#[derive(Clone, Copy, Debug)]
pub struct ImageFile<'a> {
    /// Path from the root, with or without the leading slash.
    pub path: &'a str,
    /// Permissions, for example `0o755`.
    pub mode: u32,
    /// Content.
    pub bytes: &'a [u8],
}

/// What an image says about its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// Program and arguments.
    pub entrypoint: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Architecture in the engine's words (`amd64`, `arm64`); `None`: this program's own.
    pub architecture: Option<String>,
}

/// An image that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// `REPOSITORY:TAG`, the tag being 32 hexadecimal digits of the content's SHA-256.
    pub reference: String,
    /// The `docker save` archive.
    pub archive: Bytes,
}

/// Directories that every image gets (path, mode): mount points of the engine and of bottles. A read-only root could not
/// have them made later.
const DIRECTORIES: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("run/bottle", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("work", 0o755),
];

/// Makes an image of these files, owned by root, with the usual empty directories.
///
/// Errors only when a path does not fit into a tar archive (it is absolute after its first slash, or has `..`).
pub fn build_image(repository: &str, files: &[ImageFile<'_>], settings: &ImageSettings) -> std::io::Result<BuiltImage> {
    let layer = layer(files)?;
    let layer_digest = sha256(&layer);
    let config = config(settings, &layer_digest).to_string();
    let config_digest = sha256(config.as_bytes());
    let reference = format!("{repository}:{}", &config_digest[..32]);
    let layer_path = format!("{layer_digest}/layer.tar");
    let manifest = json!([{
        "Config": format!("{config_digest}.json"),
        "RepoTags": [reference],
        "Layers": [layer_path],
    }]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, &format!("{config_digest}.json"), 0o644, config.as_bytes())?;
    append_directory(&mut archive, &layer_digest, 0o755)?;
    append(&mut archive, &layer_path, 0o644, &layer)?;
    append(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
    Ok(BuiltImage {
        reference,
        archive: archive.into_inner()?.into(),
    })
}

/// Makes the image of one static program, which is what its containers run. `architecture` as in [`ImageSettings`].
///
/// # Errors
/// As [`build_image`].
pub fn program_image(
    repository: &str,
    path: &str,
    bytes: &[u8],
    architecture: Option<&str>,
) -> std::io::Result<BuiltImage> {
    let settings = ImageSettings {
        entrypoint: vec![path.to_owned()],
        architecture: architecture.map(str::to_owned),
        ..ImageSettings::default()
    };
    let file = ImageFile {
        path,
        mode: 0o755,
        bytes,
    };
    build_image(repository, &[file], &settings)
}

fn layer(files: &[ImageFile<'_>]) -> std::io::Result<Vec<u8>> {
    let mut directories: BTreeMap<String, u32> = DIRECTORIES
        .iter()
        .map(|(path, mode)| ((*path).to_owned(), *mode))
        .collect();
    let mut sorted: BTreeMap<&str, &ImageFile<'_>> = BTreeMap::new();
    for file in files {
        let path = file.path.trim_start_matches('/');
        let parents: BTreeSet<&str> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
        for parent in parents {
            directories.entry(parent.to_owned()).or_insert(0o755);
        }
        sorted.insert(path, file);
    }
    let mut layer = tar::Builder::new(Vec::new());
    for (path, mode) in &directories {
        append_directory(&mut layer, path, *mode)?;
    }
    for (path, file) in sorted {
        append(&mut layer, path, file.mode, file.bytes)?;
    }
    layer.into_inner()
}

/// An architecture of Rust's in the engine's words.
pub fn engine_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn config(settings: &ImageSettings, layer_digest: &str) -> serde_json::Value {
    let architecture = settings
        .architecture
        .as_deref()
        .unwrap_or(engine_architecture(std::env::consts::ARCH));
    let env: Vec<String> = settings
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": settings.entrypoint,
            "Env": env,
            "Labels": settings.labels,
            "User": settings.user.as_deref().unwrap_or_default(),
        },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "bottle" }],
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    })
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    // No time, no owner's name: the same content is the same archive.
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len()), path, bytes)
}

fn append_directory(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> std::io::Result<()> {
    archive.append_data(
        &mut header(tar::EntryType::Directory, mode, 0),
        format!("{path}/"),
        std::io::empty(),
    )
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &[u8]) -> [ImageFile<'_>; 2] {
        [
            ImageFile {
                path: "/opt/tool/run",
                mode: 0o755,
                bytes: content,
            },
            ImageFile {
                path: "etc/note",
                mode: 0o644,
                bytes: b"x",
            },
        ]
    }

    #[test]
    fn the_same_content_is_the_same_image_and_other_content_another() {
        let settings = ImageSettings {
            entrypoint: vec!["/opt/tool/run".to_owned()],
            ..Default::default()
        };
        let one = build_image("t", &files(b"a"), &settings).unwrap();
        assert_eq!(one, build_image("t", &files(b"a"), &settings).unwrap());
        assert_ne!(
            one.reference,
            build_image("t", &files(b"b"), &settings).unwrap().reference
        );
        assert_ne!(
            one.reference,
            build_image("t", &files(b"a"), &ImageSettings::default())
                .unwrap()
                .reference
        );
    }

    #[test]
    fn the_layer_has_files_parents_and_mount_points() {
        let bytes = layer(&files(b"abc")).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let found: BTreeMap<String, u32> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                )
            })
            .collect();
        assert_eq!(found["opt/tool/run"], 0o755);
        assert_eq!(found["opt/tool/"], 0o755);
        assert_eq!(found["tmp/"], 0o1777);
        assert!(found.contains_key("run/bottle/"));
    }

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        let bad = [ImageFile {
            path: "../x",
            mode: 0o644,
            bytes: b"",
        }];
        assert!(build_image("t", &bad, &ImageSettings::default()).is_err());
    }
}
