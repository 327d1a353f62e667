//! The images of a run, made of embedded files only.

use bottle_backend::Backend;
use bottle_docker::{BuiltImage, ImageFile, ImageSettings, build_image, program_image};

use crate::error::SuiteError;
use crate::parts::Parts;

/// Text that is planted in every guest, so that a search which finds nothing is known to work.
pub const MARKER: &str = "bottle-marker-4cf1a6d07b";
/// Where it lies in the image: not below `/run`, which smolvm mounts anew in a machine.
pub const MARKER_FILE: &str = "/bottle-marker";

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/false\nagent:x:10100:10100:agent:/home/agent:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nagent:x:10100:\n";

/// References of the images, which are in the engine.
#[derive(Clone)]
pub struct Images {
    /// The shipped bundle.
    pub bundle: BuiltImage,
    /// The bundle with removable controls.
    pub leaky_bundle: BuiltImage,
    /// Guests under test and controls.
    pub probe: BuiltImage,
    /// The witness.
    pub witness: BuiltImage,
}

impl Images {
    /// Makes all of them and loads what the engine does not have. The tag is the content's digest, so that what is there is
    /// the right one.
    pub async fn load(parts: &Parts, backend: &dyn Backend) -> Result<Self, SuiteError> {
        let images = Self {
            bundle: one_program("bundle", "/bottle-bundle", parts.bundle, parts)?,
            leaky_bundle: one_program("leaky-bundle", "/bottle-bundle", parts.leaky_bundle, parts)?,
            probe: probe(parts)?,
            witness: one_program("witness", "/bottle-witness", parts.witness, parts)?,
        };
        for image in [&images.bundle, &images.leaky_bundle, &images.probe, &images.witness] {
            let found = backend
                .find_image(&image.reference)
                .await
                .map_err(SuiteError::engine("looking for an image"))?;
            if found.is_none() {
                let load = backend.load_image(&image.reference, image.archive.clone());
                load.await.map_err(SuiteError::engine("loading an image"))?;
            }
        }
        Ok(images)
    }
}

fn one_program(name: &'static str, path: &str, bytes: &[u8], parts: &Parts) -> Result<BuiltImage, SuiteError> {
    let architecture = parts.architecture.to_string();
    program_image(&format!("bottle-conform/{name}"), path, bytes, Some(&architecture))
        .map_err(|error| SuiteError::Image(name, error))
}

fn probe(parts: &Parts) -> Result<BuiltImage, SuiteError> {
    let file = |path: &'static str, mode, bytes| ImageFile { path, mode, bytes };
    let files = [
        file("/bottle-probe", 0o755, parts.probe),
        // The set-user-id helper of the no-new-privileges probe.
        file("/setuid-probe", 0o4755, parts.probe),
        file("/etc/passwd", 0o644, PASSWD),
        file("/etc/group", 0o644, GROUP),
        file(MARKER_FILE, 0o644, MARKER.as_bytes()),
        // A directory is made for each file's parents: mount points of a read-only root.
        file("/home/agent/.keep", 0o644, b""),
        file("/var/tmp/.keep", 0o644, b""),
    ];
    let settings = ImageSettings {
        architecture: Some(parts.architecture.to_string()),
        ..ImageSettings::default()
    };
    build_image("bottle-conform/probe", &files, &settings).map_err(|error| SuiteError::Image("probe", error))
}
