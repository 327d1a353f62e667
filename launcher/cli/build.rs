//! Finds the bundle that `bottle` embeds: `$BOTTLE_PARTS_DIR/bottle-bundle`, or the one that `cargo xtask build` left.
//!
//! A build without it succeeds, so that everything else can be worked on; `bottle run` then says what is missing.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=BOTTLE_PARTS_DIR");
    let parts = env::var_os("BOTTLE_PARTS_DIR").map_or_else(default_parts, PathBuf::from);
    let bundle = parts.join("bottle-bundle");
    println!("cargo:rerun-if-changed={}", bundle.display());
    let code = if bundle.is_file() {
        format!("Some(include_bytes!({:?}))", bundle.display().to_string())
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
