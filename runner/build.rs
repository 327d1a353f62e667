//! Embeds the builds of the static parts.

use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

#[path = "../launcher/cli/embed.rs"]
mod embed;

const PARTS: [(&str, &str); 4] = [
    ("BUNDLE", "bottle-bundle"),
    ("LEAKY_BUNDLE", "bottle-bundle-leaky"),
    ("PROBE", "bottle-probe"),
    ("WITNESS", "bottle-witness"),
];

fn main() {
    println!("cargo::rerun-if-changed=../launcher/cli/embed.rs");
    let mut text = String::new();
    for (name, file) in PARTS {
        text.push_str(&format!("/// Builds of `{file}`.\n"));
        text.push_str(&format!(
            "pub const {name}: &[(bottle_backend::Architecture, &[u8])] = {};\n",
            embed::builds(file, |_, file| embed::bytes(file))
        ));
    }
    text.push_str(&format!(
        "/// SHA-256 in hex over the suite's own sources.\npub const SOURCES: &str = {:?};\n",
        sources()
    ));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("parts.rs"), text).expect("writing to OUT_DIR");
}

/// Digest of the programs that make, attack and judge: the same for every profile that they are built with.
fn sources() -> String {
    let mut hash = Sha256::new();
    for directory in ["src", "../fixtures/leaky/src"] {
        println!("cargo::rerun-if-changed={directory}");
        add(&mut hash, Path::new(directory));
    }
    hex::encode(hash.finalize())
}

fn add(hash: &mut Sha256, directory: &Path) {
    let entries = fs::read_dir(directory).expect("the sources are there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("can be listed").path()).collect();
    paths.sort_unstable();
    for path in paths {
        if path.is_dir() {
            add(hash, &path);
            continue;
        }
        let text = fs::read(&path).expect("the sources can be read");
        hash.update(path.to_string_lossy().as_bytes());
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
}
