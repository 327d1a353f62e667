//! An image in a pack, as `smolvm pack create` of 1.32.2 writes it: `NAME.smolmachine`, or one file with `--single-file`.
//!
//! smolvm can start a machine from such a file too, but then the agent inside, which confines what we run, is the pack's own, and
//! it starts what the pack says before our command. So only the image is taken out of it, into a directory of the cache. Its id is
//! the digest of the manifest, which has the digests of the layers: both are computed here.
//!
//! The file ends with 64 bytes, all numbers little-endian: `SMOLPACK`, the format (u32), then as u64 the size of the program before
//! the assets, offset and size of the assets, offset and size of the manifest, then a CRC-32 and zeros. The manifest is JSON. The
//! assets are a tar archive in one zstd frame; beside the layers it has smolvm's libraries, its agent and a disk, which we leave.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bottle_backend::BackendError;
use ruzstd::decoding::StreamingDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::archive::Place;
use super::unpack::Unpacker;
use super::{Packaged, Settings};
use crate::program::refused;

const FOOTER: usize = 64;
const MAGIC: &[u8; 8] = b"SMOLPACK";
/// The format that smolvm 1.32.2 writes.
const FORMAT: u32 = 1;
/// Longest manifest.
const LONGEST: u64 = 4 << 20;
/// More layers than this are none of smolvm's, which makes one of them all.
const MOST_LAYERS: usize = 128;

/// An image in a pack.
#[derive(Debug)]
pub(crate) struct Pack {
    path: PathBuf,
    id: String,
    settings: Settings,
    assets: Place,
    /// From the lowest on.
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    workdir: Option<String>,
    assets: Assets,
}

#[derive(Deserialize)]
struct Assets {
    layers: Vec<Layer>,
    #[serde(default)]
    overlay_template: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    /// `sha256:DIGEST` of its bytes.
    digest: String,
    /// Among the assets.
    path: String,
    /// In bytes.
    size: u64,
}

impl Pack {
    /// Reads what a file says of its image, not its layers; `None` when it is no pack.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, BackendError> {
        read(path).map_err(|problem| {
            let what =
                format!("{problem}; expected a pack as `smolvm pack create --image IMAGE` of smolvm 1.32.2 writes it");
            refused(format!("read the pack {}", path.display()), what)
        })
    }

    fn unpack_layer(&self, layer: &Layer, unpacker: &mut Unpacker<'_>) -> Result<(), String> {
        let said = |error: io::Error| error.to_string();
        let mut file = File::open(&self.path).map_err(said)?;
        let compressed = BufReader::new(self.assets.content(&mut file).map_err(said)?);
        let assets =
            StreamingDecoder::new(compressed).map_err(|error| format!("its assets are not understood: {error}"))?;
        let mut assets = tar::Archive::new(assets);
        for entry in assets.entries().map_err(said)? {
            let entry = entry.map_err(|error| format!("its assets are damaged: {error}"))?;
            let is_it = entry.header().entry_type() == tar::EntryType::Regular
                && entry.path_bytes().as_ref() == layer.path.as_bytes();
            if is_it {
                if entry.size() != layer.size {
                    let (path, size) = (&layer.path, layer.size);
                    return Err(format!("expected {size} bytes of {path}, found {}", entry.size()));
                }
                return unpacker.checked_layer(entry, &layer.digest);
            }
        }
        Err(format!("its assets have no {}", layer.path))
    }
}

impl Packaged for Pack {
    fn id(&self) -> &str {
        &self.id
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn unpack(&self, directory: &Path) -> Result<(), BackendError> {
        let call = format!("unpack the pack {}", self.path.display());
        let mut unpacker = Unpacker::new(directory);
        // Each is looked for from the beginning, since the archive need not have them in their order.
        for layer in &self.layers {
            self.unpack_layer(layer, &mut unpacker)
                .map_err(|problem| refused(&*call, problem))?;
        }
        unpacker.finish().map_err(|error| refused(&*call, error.to_string()))
    }
}

fn read(path: &Path) -> Result<Option<Pack>, String> {
    let said = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(said)?;
    let length = file.seek(SeekFrom::End(0)).map_err(said)?;
    let Some(end) = length.checked_sub(FOOTER as u64) else {
        return Ok(None);
    };
    let mut footer = [0; FOOTER];
    file.seek(SeekFrom::Start(end))
        .and_then(|_| file.read_exact(&mut footer))
        .map_err(said)?;
    let Some(fields) = footer.strip_prefix(MAGIC) else {
        return Ok(None);
    };
    let format = u32::from_le_bytes(array(fields));
    if format != FORMAT {
        return Err(format!("it has the format {format}"));
    }
    // The size of the program comes first, which nothing depends on.
    let place = |at: usize| Place {
        at: u64::from_le_bytes(array(&fields[at..])),
        size: u64::from_le_bytes(array(&fields[at + 8..])),
    };
    let (assets, manifest) = (place(12), place(28));
    for (what, place) in [("assets", assets), ("manifest", manifest)] {
        if place.at.checked_add(place.size).is_none_or(|last| last > end) {
            return Err(format!("its {what} end after the file does"));
        }
    }
    if manifest.size > LONGEST {
        return Err(format!("its manifest has more than {LONGEST} bytes"));
    }
    let mut text = Vec::new();
    manifest
        .content(&mut file)
        .and_then(|mut content| content.read_to_end(&mut text))
        .map_err(said)?;
    let id = format!("sha256:{:x}", Sha256::digest(&text));
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("its manifest is not understood: {error}"))?;
    if manifest.mode.is_some_and(|mode| mode != "container") || manifest.assets.overlay_template.is_some() {
        return Err("it has the disk of a machine that was made without an image".to_owned());
    }
    let layers = manifest.assets.layers;
    if layers.is_empty() || layers.len() > MOST_LAYERS {
        return Err(format!("it has {} layers", layers.len()));
    }
    Ok(Some(Pack {
        path: path.to_owned(),
        id,
        settings: Settings::said(manifest.env, manifest.user, manifest.workdir),
        assets,
        layers,
    }))
}

/// The first bytes of a slice that is long enough.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
