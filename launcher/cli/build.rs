//! Finds the bundle that `bottle` embeds: `$BOTTLE_PARTS_DIR/bottle-bundle`, or the one that `cargo xtask build` left.
//!
//! The reference of its image is made here, by the code that makes the image later. A build without the bundle succeeds, so that
//! everything else can be worked on; `bottle run` then says what is missing.

#[allow(dead_code, reason = "the launcher's own use of it is wider")]
#[path = "../../backends/docker/src/image.rs"]
mod image;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=BOTTLE_PARTS_DIR");
    let parts = env::var_os("BOTTLE_PARTS_DIR").map_or_else(default_parts, PathBuf::from);
    let bundle = parts.join("bottle-bundle");
    println!("cargo:rerun-if-changed={}", bundle.display());
    println!("cargo:rerun-if-changed=../../backends/docker/src/image.rs");
    let code = if bundle.is_file() {
        let program = fs::read(&bundle).unwrap_or_else(|error| panic!("{}: {error}", bundle.display()));
        let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
        let architecture = image::engine_architecture(&architecture);
        let image = image::program_image("bottle-bundle", "/bottle-bundle", &program, Some(architecture))
            .unwrap_or_else(|error| panic!("{}: {error}", bundle.display()));
        let path = bundle.display().to_string();
        format!(
            "Some(Embedded {{ reference: {:?}, program: include_bytes!({path:?}) }})",
            image.reference
        )
    } else {
        "None".to_owned()
    };
    let out = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    let path = out.join("bundle.rs");
    // Written only when it differs: the crate is not built again for nothing.
    if fs::read_to_string(&path).ok().as_deref() != Some(&*code) {
        fs::write(&path, code).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn default_parts() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.expect("cargo sets CARGO_MANIFEST_DIR");
    let workspace = manifest.ancestors().nth(2).unwrap_or(Path::new("."));
    workspace.join("target").join("parts")
}
