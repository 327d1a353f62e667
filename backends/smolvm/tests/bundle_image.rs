//! The shipped bundle as an image.

use std::path::PathBuf;

use bottle_docker::{BuiltImage, ImageFile, ImageSettings, build_image};

/// Of the program that `cargo xtask build` makes.
pub fn built() -> BuiltImage {
    let parts = std::env::var_os("BOTTLE_PARTS_DIR").map(PathBuf::from);
    let path = parts
        .expect("BOTTLE_PARTS_DIR names the directory with bottle-bundle (`cargo xtask build` makes target/parts)")
        .join("bottle-bundle");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = ImageFile {
        path: "/bottle-bundle",
        mode: 0o755,
        bytes: &bytes,
    };
    let settings = ImageSettings {
        entrypoint: vec!["/bottle-bundle".to_owned()],
        ..ImageSettings::default()
    };
    build_image("bottle-bundle", &[file], &settings).unwrap()
}
