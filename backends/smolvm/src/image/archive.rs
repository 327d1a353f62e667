//! An image in a file, as `docker save` writes it.
//!
//! smolvm takes such a file too, but would start what the image says it starts, as root with every capability, beside the
//! command that is confined. So it becomes a directory of the cache, as an engine's image does. Its id is the digest of its
//! configuration, which has the digests of its layers: both are computed here, so that a file cannot pass for another image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bottle_backend::BackendError;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::unpack::Unpacker;
use super::{Packaged, Settings};
use crate::program::refused;

/// More entries than this are no archive of an image: one has a few for each of its layers.
const MOST_ENTRIES: usize = 10_000;
/// Longest manifest or configuration.
const LONGEST: u64 = 4 << 20;
/// First bytes of what was compressed: gzip, zstd, xz.
const COMPRESSED: [&[u8]; 3] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], &[0xfd, b'7', b'z', b'X']];

/// An image in a file.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    /// `sha256:DIGEST`, as an engine has it.
    id: String,
    /// What it says about its programs.
    settings: Settings,
    /// From the lowest on.
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    place: Place,
    /// `sha256:DIGEST` of its bytes.
    digest: String,
}

/// Where a part lies in the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    config: Option<Programs>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Programs {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Archive {
    /// Reads what a file says of its image, not its layers.
    pub(crate) fn open(path: &Path) -> Result<Self, BackendError> {
        read(path).map_err(|problem| {
            let what = format!(
                "{problem}; expected the archive of one image as `docker save IMAGE` writes it, the `.smolmachine` file of `smolvm pack \
                 create`, or a directory with an image's files"
            );
            refused(format!("read the image {}", path.display()), what)
        })
    }
}

impl Packaged for Archive {
    fn id(&self) -> &str {
        &self.id
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn unpack(&self, directory: &Path) -> Result<(), BackendError> {
        let call = format!("unpack the image {}", self.path.display());
        let failed = |problem: String| refused(&*call, problem);
        let mut file = File::open(&self.path).map_err(|error| failed(error.to_string()))?;
        let mut unpacker = Unpacker::new(directory);
        for layer in &self.layers {
            let content = layer
                .place
                .content(&mut file)
                .map_err(|error| failed(error.to_string()))?;
            unpacker
                .checked_layer(BufReader::new(content), &layer.digest)
                .map_err(failed)?;
        }
        unpacker.finish().map_err(|error| failed(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Archive, String> {
    let said = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(said)?;
    if starts_compressed(&mut file, 0).map_err(said)? {
        return Err("it is compressed: decompress it first".to_owned());
    }
    let places = places(&file)?;
    let mut text = |name: &str| -> Result<Vec<u8>, String> {
        let place = places.get(name).ok_or_else(|| format!("it has no {name}"))?;
        if place.size > LONGEST {
            return Err(format!("{name} has more than {LONGEST} bytes"));
        }
        let mut text = Vec::new();
        place
            .content(&mut file)
            .and_then(|mut content| content.read_to_end(&mut text))
            .map_err(said)?;
        Ok(text)
    };
    let manifests: Vec<Manifest> = serde_json::from_slice(&text("manifest.json")?)
        .map_err(|error| format!("manifest.json is not understood: {error}"))?;
    let [manifest] = &manifests[..] else {
        return Err(format!("it has {} images", manifests.len()));
    };
    let config = text(&manifest.config)?;
    let id = format!("sha256:{:x}", Sha256::digest(&config));
    let config: Config =
        serde_json::from_slice(&config).map_err(|error| format!("{} is not understood: {error}", manifest.config))?;
    let digests = config.rootfs.diff_ids;
    if digests.len() != manifest.layers.len() {
        return Err(format!(
            "it has {} layers and {} digests",
            manifest.layers.len(),
            digests.len()
        ));
    }
    let mut layers = Vec::new();
    for (name, digest) in manifest.layers.iter().zip(digests) {
        let place = *places
            .get(name.as_str())
            .ok_or_else(|| format!("it has no layer {name}"))?;
        if starts_compressed(&mut file, place.at).map_err(said)? {
            return Err(format!(
                "its layer {name} is compressed, which is not read: load it into the engine"
            ));
        }
        layers.push(Layer { place, digest });
    }
    let programs = config.config.unwrap_or_default();
    Ok(Archive {
        path: path.to_owned(),
        id,
        settings: Settings::said(programs.env.unwrap_or_default(), programs.user, programs.working_dir),
        layers,
    })
}

/// Where each file of an archive is.
fn places(file: &File) -> Result<HashMap<String, Place>, String> {
    let said = |error: io::Error| error.to_string();
    let mut archive = tar::Archive::new(file);
    let mut places = HashMap::new();
    for (count, entry) in archive.entries_with_seek().map_err(said)?.enumerate() {
        let entry = entry.map_err(|_| "it is no archive, or was cut off".to_owned())?;
        if count >= MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} entries"));
        }
        if entry.header().entry_type() == tar::EntryType::Regular {
            let name = entry.path().map_err(said)?.display().to_string();
            let (at, size) = (entry.raw_file_position(), entry.size());
            places.insert(name, Place { at, size });
        }
    }
    Ok(places)
}

fn starts_compressed(file: &mut File, at: u64) -> io::Result<bool> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    (&*file).take(4).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(COMPRESSED.iter().any(|magic| start.starts_with(magic)))
}

impl Place {
    pub(super) fn content(self, file: &mut File) -> io::Result<io::Take<&mut File>> {
        file.seek(SeekFrom::Start(self.at))?;
        Ok(file.take(self.size))
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(super) mod tests;
