//! Actions `FindFiles` and `WriteEverywhere`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::notes::{Done, NotIssued, Run, errno};
use crate::walk;

/// Action `FindFiles`: files with content, directories with entries, and sockets are findings.
pub fn find_files(run: &Run, paths: &[String], marker: &str) -> Done {
    let marker = run.words.text(marker)?;
    if !marker.is_empty() {
        run.notes.marker(false);
        run.notes.marker(fs::symlink_metadata(&marker).is_ok());
    }
    let homes = walk::homes();
    run.trace(format!("homes {homes:?}"));
    for path in paths {
        let path = run.words.text(path)?;
        let places: Vec<PathBuf> = match path.strip_prefix('~') {
            Some(rest) => homes
                .iter()
                .map(|home| home.join(rest.trim_start_matches('/')))
                .collect(),
            None if path.starts_with('/') => vec![PathBuf::from(&path)],
            None => {
                return Err(NotIssued::Unfit(format!(
                    "expected a path that begins with `/` or `~`, found `{path}`"
                )));
            }
        };
        for place in places {
            match what_is_at(&place) {
                Ok(Some(what)) => run.notes.finding(format!("{what}: {}", place.display())),
                Ok(None) => run.trace(format!("{}: empty, or a masking device", place.display())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => run.trace(format!("{}: {}", place.display(), errno(&error))),
            }
        }
    }
    Ok(())
}

fn what_is_at(path: &Path) -> std::io::Result<Option<&'static str>> {
    let metadata = fs::metadata(path)?;
    Ok(if metadata.is_file() && metadata.len() > 0 {
        Some("a file")
    } else if metadata.is_dir() && fs::read_dir(path)?.next().is_some() {
        Some("a directory that is not empty")
    } else if metadata.file_type().is_socket() {
        Some("a socket")
    } else {
        None
    })
}

/// Action `WriteEverywhere`. The files stay: others look for them.
pub fn write_everywhere(run: &Run, text: &str, below: &[String]) -> Done {
    let text = run.words.bytes(text)?;
    let mut roots = below
        .iter()
        .map(|root| run.words.text(root).map(PathBuf::from))
        .collect::<Result<Vec<_>, _>>()?;
    if roots.is_empty() {
        roots.push(PathBuf::from("/"));
    }
    let name = format!(".bottle-{}", run.words.nonce);
    let (mut written, mut refused) = (0u64, 0u64);
    let complete = walk::walk(run, &roots, |path, metadata| {
        if !metadata.is_dir() {
            return;
        }
        let file = path.join(&name);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&file)
            .and_then(|mut file| file.write_all(&text))
        {
            Ok(()) => {
                written += 1;
                run.trace(format!("wrote {}", file.display()));
            }
            Err(_) => refused += 1,
        }
    });
    run.trace(format!("wrote into {written} directories, could not in {refused}"));
    if complete {
        Ok(())
    } else {
        Err(NotIssued::CutOff("the last directory"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;

    #[test]
    fn files_and_full_directories_are_found() {
        let directory = tempfile::tempdir().expect("makes one");
        let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        fs::write(at("empty"), "").expect("writes");
        fs::write(at("file"), "x").expect("writes");
        fs::create_dir(at("bare")).expect("makes one");
        let run = run(1000);
        let own = directory.path().to_string_lossy().into_owned();
        find_files(
            &run,
            &[at("empty"), at("file"), at("bare"), at("none"), own.clone()],
            &at("file"),
        )
        .expect("is issued");
        let content = run.notes.content();
        assert_eq!(
            content.findings,
            [
                format!("a file: {}", at("file")),
                format!("a directory that is not empty: {own}")
            ]
        );
        assert_eq!(content.marker_found, Some(true));
        assert!(find_files(&run, &["relative".to_owned()], "").is_err());
    }

    #[test]
    fn every_directory_is_written_to() {
        let directory = tempfile::tempdir().expect("makes one");
        fs::create_dir_all(directory.path().join("a/b")).expect("makes them");
        let run = run(5000);
        write_everywhere(&run, "{nonce}", &[directory.path().to_string_lossy().into_owned()]).expect("is issued");
        let file = directory
            .path()
            .join("a/b")
            .join(format!(".bottle-{}", run.words.nonce));
        assert_eq!(fs::read_to_string(file).expect("is there"), run.words.nonce.as_str());
    }
}
