//! The two programs as macOS on Apple silicon would compile them. A check needs no linker and nothing of Apple's; what it says is that
//! the types fit there, not that anything runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::cross::{self, Tools};
use crate::process::{cargo, code, root, say, target};

const TRIPLE: &str = "aarch64-apple-darwin";

/// The variables by which the crate `cc` is told what compiles C for the target, and zig's word for each.
const C: [(&str, &str); 2] = [("CC_aarch64_apple_darwin", "cc"), ("AR_aarch64_apple_darwin", "ar")];

/// Checks the programs; the exit code is cargo's.
pub fn check() -> anyhow::Result<ExitCode> {
    let has_std = cross::ensure_std(TRIPLE)?;
    let mut command = cargo();
    if !has_std {
        command = Command::new(cross::DEBIANS_CARGO);
        command.current_dir(root());
        cross::debian(&mut command);
    }
    command.args(["check", "--locked", "--target", TRIPLE, "--target-dir"]);
    command.arg(target().join("macos"));
    command.args(["-p", "bottle", "-p", "bottle-conform"]);
    if !has_std {
        command.arg("-Zbuild-std=std,panic_abort");
    }
    if cfg!(not(target_os = "macos")) {
        let zig = Tools::ensure()?.zig();
        let directory = target().join("tools").join("macos");
        fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        for (variable, word) in C {
            command.env(variable, wrapper(&directory, &zig, word)?);
        }
    }
    say(&format!("checking bottle and bottle-conform for {TRIPLE}"));
    Ok(ExitCode::from(code(&mut command)?))
}

/// zig under the name of a compiler or archiver. It names targets in its own way and knows nothing of Apple's flags for them.
fn wrapper(directory: &Path, zig: &Path, word: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(word);
    let target = if word == "cc" { "-target aarch64-macos" } else { "" };
    let script = format!(
        "#!/bin/sh\nfor word; do\n  shift\n  case $word in\n  --target=* | -mmacosx-version-min=*) ;;\n  \
         *) set -- \"$@\" \"$word\" ;;\n  esac\ndone\nexec '{}' {word} {target} \"$@\"\n",
        zig.display()
    );
    fs::write(&path, script).with_context(|| format!("could not write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
