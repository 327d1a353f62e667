//! The second disk: an archive with everything that belongs to one run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where a file goes that has no place of its own.
const PROGRAMS: &str = "usr/local/bin";

/// The command's work directory in the machine; what it leaves there is brought out.
pub const WORK: &str = "var/lib/lane/out";

/// A file to copy in: `HOST`, or `HOST:GUEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// The file or directory here.
    pub host: PathBuf,
    /// Its path there. Relative: under the command's work directory. None: among the programs, under its own name.
    pub guest: Option<PathBuf>,
}

impl std::str::FromStr for Extra {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = match text.split_once(':') {
            Some((host, guest)) => (host, Some(guest)),
            None => (text, None),
        };
        if host.is_empty() || guest.is_some_and(str::is_empty) {
            return Err(format!("expected HOST or HOST:GUEST, found `{text}`"));
        }
        if guest.is_some_and(|path| path.split('/').any(|part| part == "..")) {
            return Err(format!("expected a path without `..` after the colon, found `{text}`"));
        }
        Ok(Self {
            host: host.into(),
            guest: guest.map(PathBuf::from),
        })
    }
}

impl Extra {
    /// A file that goes to this place in the command's work directory.
    pub fn at(host: PathBuf, place: &str) -> Self {
        Self {
            host,
            guest: Some(place.into()),
        }
    }

    /// A file that goes among the programs.
    pub fn program(host: PathBuf) -> Self {
        Self { host, guest: None }
    }

    /// Its path in the machine, without the leading slash.
    pub fn place(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.guest {
            Some(path) => match path.strip_prefix("/") {
                Ok(absolute) => absolute.to_path_buf(),
                Err(_) => Path::new(WORK).join(path),
            },
            None => {
                let name = self
                    .host
                    .file_name()
                    .with_context(|| format!("expected a file's name at the end of {}", self.host.display()))?;
                Path::new(PROGRAMS).join(name)
            }
        })
    }
}

/// One setting of the command's environment: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |name: &str| {
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && fits(name) => Ok(Self {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(format!("expected NAME=VALUE, found `{text}`")),
        }
    }
}

/// The command as a shell script, every word quoted.
pub fn script(environment: &[Setting], command: &[String]) -> String {
    let mut text = String::new();
    for setting in environment {
        text.push_str(&format!("export {}={}\n", setting.name, quoted(&setting.value)));
    }
    text.push_str("exec");
    for word in command {
        text.push(' ');
        text.push_str(&quoted(word));
    }
    text.push('\n');
    text
}

/// A word that the shell reads as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Keys of one run.
pub struct Keys<'a> {
    /// What the machine shows to us.
    pub host: &'a Path,
    /// Whom the machine lets in.
    pub authorized: &'a Path,
}

/// Writes the archive.
pub fn write(to: &Path, keys: &Keys<'_>, script: &str, programs: &Path, extras: &[Extra]) -> anyhow::Result<()> {
    let file = fs::File::create(to).with_context(|| format!("could not make {}", to.display()))?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    archive.follow_symlinks(true);
    text(&mut archive, "etc/ssh/lane_host_key", &fs::read(keys.host)?, 0o600)?;
    text(
        &mut archive,
        "root/.ssh/authorized_keys",
        &fs::read(keys.authorized)?,
        0o600,
    )?;
    text(&mut archive, "etc/lane/command", script.as_bytes(), 0o644)?;
    for entry in fs::read_dir(programs).with_context(|| format!("expected programs in {}", programs.display()))? {
        let path = entry?.path();
        if path.is_file() {
            add(
                &mut archive,
                &path,
                &Extra {
                    host: path.clone(),
                    guest: None,
                }
                .place()?,
            )?;
        }
    }
    for extra in extras {
        add(&mut archive, &extra.host, &extra.place()?)?;
    }
    archive
        .into_inner()
        .and_then(|mut inner| inner.flush())
        .with_context(|| format!("could not write {}", to.display()))
}

/// Adds a file with a content of ours.
fn text(archive: &mut tar::Builder<impl std::io::Write>, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive
        .append_data(&mut header, path, content)
        .with_context(|| format!("could not add {path} to what is copied in"))
}

/// Adds a file or directory of this machine.
fn add(archive: &mut tar::Builder<impl std::io::Write>, from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = if from.is_dir() {
        archive.append_dir_all(to, from)
    } else if from.is_file() {
        archive.append_path_with_name(from, to)
    } else {
        bail!("expected a file or directory at {}, found none", from.display());
    };
    done.with_context(|| format!("could not add {} to what is copied in", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_among_the_programs_to_the_work_directory_or_where_it_is_told() {
        let place = |text: &str| text.parse::<Extra>().expect("a file").place().expect("a place");
        assert_eq!(place("target/debug/t-1"), Path::new("usr/local/bin/t-1"));
        assert_eq!(place("a/b:c/d"), Path::new("var/lib/lane/out/c/d"));
        assert_eq!(place("a/b:/opt/x"), Path::new("opt/x"));
    }

    #[test]
    fn a_file_that_says_no_place_or_leaves_it_is_refused() {
        for text in ["", ":x", "x:", "x:../y", "x:/a/../../b"] {
            assert!(text.parse::<Extra>().is_err(), "{text}");
        }
        assert!("/".parse::<Extra>().expect("parsed").place().is_err());
    }

    #[test]
    fn settings_have_a_name() {
        let setting = "A_1=b=c d".parse::<Setting>().expect("a setting");
        assert_eq!((setting.name.as_str(), setting.value.as_str()), ("A_1", "b=c d"));
        for text in ["A", "=b", "1A=b", "A B=c", "A;b=c"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_shell_runs_the_words_as_they_were_given() {
        let words = ["printf", "[%s]", "a b", "it's", "$HOME", "", "\"\\", "x\ny"];
        let script = script(
            &["V='$x'".parse().expect("a setting")],
            &[&["sh", "-c", r#"echo "$V"; "$@""#, "sh"][..], &words[..]]
                .concat()
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "'$x'\n[a b][it's][$HOME][][\"\\][x\ny]"
        );
    }
}
