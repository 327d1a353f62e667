//! Embeds the guest's init, when it has been built: `cargo xtask build` builds the parts in order.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=BOTTLE_PARTS_DIR");
    let parts = env::var_os("BOTTLE_PARTS_DIR").map_or_else(
        || Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("../../target/parts"),
        PathBuf::from,
    );
    let guest = parts.join("bottle-guest");
    println!("cargo::rerun-if-changed={}", guest.display());
    let value = match guest.canonicalize() {
        Ok(path) => format!("Some(include_bytes!({:?}))", path.display().to_string()),
        Err(_) => "None".to_owned(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("guest.in"), value).expect("the output directory is writable");
}
