//! Embeds the builds of the static parts.

use std::path::PathBuf;
use std::{env, fs};

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
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("parts.rs"), text).expect("writing to OUT_DIR");
}
