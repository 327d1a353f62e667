//! What is embedded.

use bottle_docker::{BuiltImage, ImageFile, ImageSettings, build_image};

use crate::failure::Failure;

/// The static bundle, when it was there at build time.
const BUNDLE: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/bundle.rs"));

/// The bundle's image: one file on an empty root. Its tag is its content's digest, so an engine that has the reference has
/// the right bundle.
pub fn bundle_image() -> Result<BuiltImage, Failure> {
    let bundle = BUNDLE.ok_or(Failure::NoBundle)?;
    let file = ImageFile {
        path: "/bottle-bundle",
        mode: 0o755,
        bytes: bundle,
    };
    let settings = ImageSettings {
        entrypoint: vec!["/bottle-bundle".to_owned()],
        ..ImageSettings::default()
    };
    build_image("bottle-bundle", &[file], &settings).map_err(Failure::system("building the bundle's image"))
}
