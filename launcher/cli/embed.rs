//! Where the parts of each architecture are, for the build scripts of the programs that embed them.
//!
//! `$BOTTLE_DIST_DIR` has a directory for every architecture (`x86_64`, `aarch64`). Without it there are only the parts for the
//! machine that is built for: `$BOTTLE_PARTS_DIR`, or what `cargo xtask build` left.

use std::env;
use std::path::{Path, PathBuf};

/// Architectures of guests: the name in `bottle_backend::Architecture`, and rustc's.
const ARCHITECTURES: [(&str, &str); 2] = [("Amd64", "x86_64"), ("Arm64", "aarch64")];

/// The expression of a list of (architecture, what `value` makes of rustc's name for it and of the file) with each build of a part
/// that is there. A build without parts succeeds, so that everything else can be worked on; the program says at run time what is
/// missing.
pub fn builds(part: &str, value: impl Fn(&str, &Path) -> String) -> String {
    println!("cargo::rerun-if-env-changed=BOTTLE_DIST_DIR");
    println!("cargo::rerun-if-env-changed=BOTTLE_PARTS_DIR");
    let mut list = String::new();
    for (name, architecture) in ARCHITECTURES {
        let Some(directory) = directory(architecture) else {
            continue;
        };
        let file = directory.join(part);
        println!("cargo::rerun-if-changed={}", file.display());
        if let Ok(file) = file.canonicalize() {
            let value = value(architecture, &file);
            list.push_str(&format!("(bottle_backend::Architecture::{name}, {value}), "));
        }
    }
    format!("&[{list}]")
}

/// The expression of a file's bytes.
pub fn bytes(file: &Path) -> String {
    format!("include_bytes!({:?}) as &[u8]", file.display().to_string())
}

fn directory(architecture: &str) -> Option<PathBuf> {
    let path = |name| env::var_os(name).map(PathBuf::from);
    if let Some(dist) = path("BOTTLE_DIST_DIR") {
        return Some(dist.join(architecture));
    }
    let cargo = |name| env::var(name).expect("set by cargo");
    let is_own = cargo("CARGO_CFG_TARGET_OS") == "linux" && cargo("CARGO_CFG_TARGET_ARCH") == architecture;
    let default = || {
        let manifest = path("CARGO_MANIFEST_DIR").expect("set by cargo");
        let root = manifest
            .ancestors()
            .find(|directory| directory.join("Cargo.lock").is_file());
        root.map(|root| root.join("target/parts"))
    };
    is_own.then(|| path("BOTTLE_PARTS_DIR").or_else(default))?
}
