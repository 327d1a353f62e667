//! Embeds the builds of the bundle.
//!
//! The references of their images are made here, by the code that makes the images later.

#[path = "embed.rs"]
mod embed;
#[allow(dead_code, reason = "the launcher's own use of it is wider")]
#[path = "../../backends/docker/src/image.rs"]
mod image;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=embed.rs");
    println!("cargo::rerun-if-changed=../../backends/docker/src/image.rs");
    let code = embed::builds("bottle-bundle", embedded);
    let out = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    let path = out.join("bundle.rs");
    // Written only when it differs: the crate is not built again for nothing.
    if fs::read_to_string(&path).ok().as_deref() != Some(&*code) {
        fs::write(&path, code).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The expression of a build with its image's reference.
fn embedded(architecture: &str, file: &Path) -> String {
    let program = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let architecture = image::engine_architecture(architecture);
    let image = image::program_image("bottle-bundle", "/bottle-bundle", &program, Some(architecture));
    let reference = image
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .reference;
    format!(
        "Embedded {{ reference: {reference:?}, program: {} }}",
        embed::bytes(file)
    )
}
