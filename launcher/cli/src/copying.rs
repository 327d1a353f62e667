//! `bottle cp`: files into a bottle, and out of one.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_backend::{Backend, ExecSpec, Role};
use bottle_launch::tree::{self, UnpackOptions, Unpacked};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::CpArgs;
use crate::backend::with_remains;
use crate::failure::{Failure, say};
use crate::kept::{self, Kept};
use crate::live::{self, Live};
use crate::preflight::printable;

/// The program in every guest that packs and unpacks.
const HELPER: &str = "/run/bottle/bottle-guest";

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    There { name: String, path: String },
}

/// `NAME:PATH` is in a bottle; a path of this machine with a colon in it is written `./NAME:PATH`.
fn end(text: &str) -> End {
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => End::There {
            name: name.to_owned(),
            path: path.to_owned(),
        },
        _ => End::Here(PathBuf::from(text)),
    }
}

/// Copies.
pub async fn cp(args: &CpArgs) -> Result<u8, Failure> {
    match (end(&args.from), end(&args.to)) {
        (End::There { name, path }, End::Here(to)) => {
            let options = UnpackOptions {
                with_git: args.with_git,
                ..UnpackOptions::default()
            };
            let done = out(&name, &path, &to, options).await?;
            if done.left_out > 0 {
                say(&format!(
                    "{} entries in .git were left out: your git would run its hooks and configuration; --with-git takes them",
                    done.left_out
                ));
            }
        }
        (End::Here(from), End::There { name, path }) => into(&from, &name, &path).await?,
        (End::Here(_), End::Here(_)) => {
            return Err(Failure::Usage(
                "expected one of the two to be NAME:PATH with a bottle's slug or name, found two paths of this machine"
                    .to_owned(),
            ));
        }
        (End::There { .. }, End::There { .. }) => {
            return Err(Failure::Usage(
                "expected one of the two to be a path of this machine, found two of bottles".to_owned(),
            ));
        }
    }
    Ok(0)
}

/// Absolute in the guest: what is not, is meant from the project, or from the guest's working directory.
fn absolute(live: &Live, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let plan = live.plan.as_ref();
    let workspace = plan
        .and_then(|plan| plan.workspace.as_ref())
        .map(|workspace| workspace.target());
    let base = workspace.or_else(|| plan.and_then(|plan| plan.guest.workdir.clone()));
    let base = base.unwrap_or_default();
    match path.trim_end_matches('/') {
        "" | "." if base.is_empty() => "/".to_owned(),
        "" | "." => base,
        path => format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches("./")),
    }
}

fn refused(error: tree::TreeError) -> Failure {
    Failure::Copy(printable(&error.to_string()))
}

async fn out(name: &str, path: &str, to: &Path, options: UnpackOptions) -> Result<Unpacked, Failure> {
    let backend = with_remains().await?;
    let live = match live::one(&*backend, Some(name)).await {
        Err(Failure::NoSuchBottle { .. }) if let Some(kept) = kept::find(name) => {
            return out_of_kept(&kept, path, to, options).await;
        }
        other => other?,
    };
    let archive = packed(&backend, &live, &absolute(&live, path)).await?;
    let to = to.to_owned();
    unpacked(archive, to, options).await
}

/// Unpacks a tree into a directory, which is made when it is absent, or a file to a name or into a directory.
async fn unpacked(archive: File, to: PathBuf, options: UnpackOptions) -> Result<Unpacked, Failure> {
    let work = move || -> Result<Unpacked, Failure> {
        let mut archive = BufReader::new(archive);
        let single = single_file(&mut archive)?;
        match single {
            Some(name) => {
                let target = if to.is_dir() { to.join(name) } else { to };
                tree::unpack_file(archive, &target).map_err(refused)?;
                Ok(Unpacked { files: 1, left_out: 0 })
            }
            None => {
                std::fs::create_dir_all(&to).map_err(Failure::system("making the directory to copy into"))?;
                tree::unpack(archive, &to, options).map_err(refused)
            }
        }
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::system("copying")(error.into()))?
}

/// The name of the file when the archive is of one.
fn single_file(archive: &mut (impl std::io::Read + Seek)) -> Result<Option<PathBuf>, Failure> {
    let failed = || Failure::system("reading what the guest sent");
    let found = {
        let mut reader = tar::Archive::new(&mut *archive);
        let first = reader
            .entries()
            .map_err(failed())?
            .next()
            .transpose()
            .map_err(failed())?;
        match first {
            None => None,
            Some(entry) => {
                let path = entry.path().map_err(failed())?.into_owned();
                path.starts_with("file")
                    .then(|| path.file_name().map(PathBuf::from))
                    .flatten()
            }
        }
    };
    archive.rewind().map_err(failed())?;
    Ok(found)
}

async fn out_of_kept(kept: &Kept, path: &str, to: &Path, mut options: UnpackOptions) -> Result<Unpacked, Failure> {
    let below = Path::new(path.trim_start_matches("./").trim_end_matches('/'));
    if path.starts_with('/') {
        let found = "an absolute path; of a bottle that has ended only the project is kept, so it is relative to that";
        return Err(Failure::Usage(format!("{}: {found}", printable(path))));
    }
    options.below = if below == Path::new(".") {
        PathBuf::new()
    } else {
        below.to_owned()
    };
    let (archive, to) = (kept.archive(), to.to_owned());
    let work = move || -> Result<Unpacked, Failure> {
        let file = crate::journal::open(&archive).map_err(Failure::system("opening kept work"))?;
        std::fs::create_dir_all(&to).map_err(Failure::system("making the directory to copy into"))?;
        tree::unpack(BufReader::new(file), &to, options).map_err(refused)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::system("copying")(error.into()))?
}

/// What lies at a path of a guest, as an archive in a file without a name.
pub async fn packed(backend: &Arc<dyn Backend>, live: &Live, path: &str) -> Result<File, Failure> {
    let spec = ExecSpec {
        command: [HELPER, "--pack", path].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    let exec = backend.exec(Role::Guest, &live.guest, &spec).await?;
    drop(exec.streams.stdin);
    let file = kept::nameless().map_err(Failure::system("making a file for what the guest sends"))?;
    let mut errors = String::new();
    let mut stderr = exec.streams.stderr.take(16 * 1024);
    let (file, _) = tokio::join!(
        kept::spool(exec.streams.stdout, file),
        stderr.read_to_string(&mut errors)
    );
    let file = file.map_err(Failure::system("reading what the guest sends"))?;
    let code = exec.exit.await?;
    if code == 0 {
        Ok(file)
    } else {
        Err(Failure::Copy(printable(errors.trim())))
    }
}

async fn into(from: &Path, name: &str, path: &str) -> Result<(), Failure> {
    let backend = with_remains().await?;
    let live = live::one(&*backend, Some(name)).await?;
    let found = std::fs::metadata(from).map_err(|source| Failure::Unreadable {
        path: from.to_owned(),
        source,
        hint: "",
    })?;
    let what = if found.is_dir() { "--unpack" } else { "--unpack-file" };
    let spec = ExecSpec {
        command: vec![HELPER.to_owned(), what.to_owned(), absolute(&live, path)],
        ..ExecSpec::default()
    };
    let from = std::fs::canonicalize(from).map_err(Failure::system("finding what is to be copied"))?;
    let name = if found.is_dir() {
        "tree".to_owned()
    } else {
        from.file_name().unwrap_or_default().to_string_lossy().into_owned()
    };
    let (sender, mut archives) = tokio::sync::mpsc::channel(1);
    let packing = tokio::task::spawn_blocking(move || {
        tree::pack(&from, &name, &[], None, &mut |archive: bytes::Bytes| {
            sender.blocking_send(archive).map_err(|_| tree::TreeError::System {
                path: from.clone(),
                source: std::io::ErrorKind::BrokenPipe.into(),
            })
        })
    });
    let exec = backend.exec(Role::Guest, &live.guest, &spec).await?;
    let mut stdin = exec.streams.stdin;
    let feeding = async {
        while let Some(archive) = archives.recv().await {
            // A helper that has ended says why on its standard error.
            if stdin.write_all(&archive).await.is_err() {
                break;
            }
        }
        drop(archives);
        let _ = stdin.shutdown().await;
    };
    let mut errors = String::new();
    let mut stderr = exec.streams.stderr.take(16 * 1024);
    let mut stdout = exec.streams.stdout;
    let mut nothing = tokio::io::sink();
    let (_, _, _) = tokio::join!(
        feeding,
        stderr.read_to_string(&mut errors),
        tokio::io::copy(&mut stdout, &mut nothing)
    );
    let code = exec.exit.await?;
    let packed = packing
        .await
        .map_err(|error| Failure::system("copying")(error.into()))?;
    if code != 0 {
        return Err(Failure::Copy(printable(errors.trim())));
    }
    packed.map(|_| ()).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let there = |name: &str, path: &str| End::There {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        for (text, expected) in [
            ("dev-abc:/work", there("dev-abc", "/work")),
            ("dev:", there("dev", "")),
            ("dev:a:b", there("dev", "a:b")),
            ("./a:b", End::Here("./a:b".into())),
            ("/tmp/a:b", End::Here("/tmp/a:b".into())),
            (":x", End::Here(":x".into())),
            ("plain", End::Here("plain".into())),
        ] {
            assert_eq!(end(text), expected, "{text}");
        }
    }
}
