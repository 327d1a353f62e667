//! Embeds the static parts that `cargo xtask build` made. A part that is absent becomes `None`, and the program says at run
//! time what to do: so the crate can be checked and its pure tests run without them.

use std::path::{Path, PathBuf};
use std::{env, fs};

const PARTS: [(&str, &str); 5] = [
    ("GUEST", "bottle-guest"),
    ("BUNDLE", "bottle-bundle"),
    ("LEAKY_BUNDLE", "bottle-bundle-leaky"),
    ("PROBE", "bottle-probe"),
    ("WITNESS", "bottle-witness"),
];

fn main() {
    println!("cargo::rerun-if-env-changed=BOTTLE_PARTS_DIR");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let parts = match env::var_os("BOTTLE_PARTS_DIR") {
        Some(given) => PathBuf::from(given),
        None => manifest.join("../target/parts"),
    };
    // The folder too, so that a part which appears is noticed.
    println!("cargo::rerun-if-changed={}", parts.display());
    let mut text = String::new();
    for (name, file) in PARTS {
        let path = parts.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        text.push_str(&format!("/// `{file}`, when it was built.\n"));
        text.push_str(&format!("pub const {name}: Option<&[u8]> = {};\n", embedded(&path)));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("parts.rs"), text).expect("writing to OUT_DIR");
}

fn embedded(path: &Path) -> String {
    match path.canonicalize() {
        Ok(path) if path.is_file() => format!("Some(include_bytes!({:?}))", path.display().to_string()),
        _ => "None".to_owned(),
    }
}
