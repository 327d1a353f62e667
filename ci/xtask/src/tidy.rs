//! The repository's own rules.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::process::root;

/// Lines of a source file, its `mod tests` left out.
const MAX_LINES: usize = 420;

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "base",
];

/// The files that may hold `unsafe`, each behind an `expect` with its reason.
const UNSAFE: &[&str] = &[
    "backends/smolvm/src/session.rs",
    "launcher/guest/src/edge.rs",
    "probes/agent/src/syscall.rs",
];

/// Checks; prints what is wrong.
pub fn tidy() -> anyhow::Result<ExitCode> {
    let root = root();
    let mut wrong = Vec::new();
    for path in sources(&root)? {
        let text =
            std::fs::read_to_string(root.join(&path)).with_context(|| format!("could not read {}", path.display()))?;
        check(&path, &text, &mut wrong);
    }
    for line in &wrong {
        eprintln!("tidy: {line}");
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All Rust files that git knows or would add.
fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs"])
        .current_dir(root)
        .output()
        .context("could not start git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("git ls-files: expected UTF-8 names")?;
    Ok(text
        .lines()
        .map(PathBuf::from)
        .filter(|path| root.join(path).is_file())
        .collect())
}

/// Checks one file.
fn check(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let shown = path.display();
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().count();
    let is_test = path
        .components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
    if lines > MAX_LINES && !is_test {
        wrong.push(format!(
            "{shown}: {lines} lines; expected at most {MAX_LINES}: split it by its nouns"
        ));
    }
    if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
        && EMPTY_NAMES.contains(&stem)
    {
        wrong.push(format!(
            "{shown}: the name says nothing; name it after what it is about"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let at = format!("{shown}:{}", number + 1);
        if line.trim_end() != line {
            wrong.push(format!("{at}: white space at the end of the line"));
        }
        if line.trim_start().starts_with(concat!("#[", "ignore")) {
            wrong.push(format!("{at}: an ignored test; it runs or it goes"));
        }
        if line.contains(concat!("unsafe", " {")) && !UNSAFE.iter().any(|allowed| path == Path::new(allowed)) {
            wrong.push(format!("{at}: unsafe code outside of the files that may hold it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant: the repository keeps its own rules.
    #[test]
    fn repository_is_tidy() {
        assert_eq!(tidy().expect("git"), ExitCode::SUCCESS);
    }

    #[test]
    fn rules_bite() {
        let long = "fn f() {}\n".repeat(MAX_LINES + 1);
        let mut wrong = Vec::new();
        check(
            Path::new("a/src/utils.rs"),
            &format!("{long}{} \n{}", concat!("#[", "ignore]"), concat!("unsafe", " {}")),
            &mut wrong,
        );
        assert_eq!(wrong.len(), 5, "{wrong:#?}");
    }
}
