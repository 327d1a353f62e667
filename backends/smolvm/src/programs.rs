//! Programs in a machine that runs, whoever started it: further commands, and files into it and out of it.

use std::future::Future;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bottle_backend::{BackendError, BackendErrorKind, BoxFuture, Exec, ExecSpec, Output};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::inside::{self, ANNOUNCEMENT, Inside};
use crate::listing;
use crate::machine::{ASK_AGAIN, Maker};
use crate::own_failure::{self, OwnFailure};
use crate::program::{error, failed, refused, unexpected};
use crate::shapes::Call;
use crate::wire::{self, Ended, Ends, Started, Terminal, Wires};

/// What runs a program in a machine.
pub(crate) const EXEC: &str = "smolvm machine exec";
/// What is kept of what a failed program of ours says.
const LONGEST_COMPLAINT: u64 = 16 * 1024;
/// Input goes in such parts, each of which has a time limit.
const PART: usize = 64 * 1024;

/// A further program, while it is kept.
pub(crate) struct Further {
    /// Dropping it ends the client.
    _stop: oneshot::Sender<()>,
    pub(crate) terminal: Option<Terminal>,
}

impl Maker {
    /// Starts a program on these streams, and again when the machine was busy: nothing of it had begun then, and nothing was
    /// taken from its input. Whether it has begun is announced, but for those on a terminal, which is the program's alone: one
    /// that says there just what smolvm would is run again, by its own doing.
    pub(crate) fn begin(
        &self,
        name: &str,
        ends: Ends,
        tty: bool,
        env: &[String],
        command: &[String],
    ) -> io::Result<Started> {
        let (command, announcement) = if tty {
            (command.to_vec(), None)
        } else {
            (inside::announced(command), Some(ANNOUNCEMENT))
        };
        let call = Call {
            name,
            tty,
            env,
            command: &command,
        };
        let words = self.program.shapes().exec(&call, self.program.state());
        let first = self.program.command(&words);
        let (maker, name, until) = (self.clone(), name.to_owned(), Instant::now() + self.limits.look);
        let again = Box::new(move |own: OwnFailure| -> BoxFuture<'static, _> {
            let (maker, name, words) = (maker.clone(), name.clone(), words.clone());
            Box::pin(async move {
                let is_busy = maker.is_busy(&name, &own.message, until).await;
                is_busy.then(|| maker.program.command(&words))
            })
        });
        wire::start(first, ends, announcement, again)
    }

    /// Whether a program that did not begin, for this reason, is to be started again; waits until it may.
    async fn is_busy(&self, name: &str, reason: &str, until: Instant) -> bool {
        if !own_failure::says_not_running(reason) || Instant::now() > until {
            return false;
        }
        tokio::time::sleep(ASK_AGAIN).await;
        let seen = listing::find(&self.program, name, self.limits.look).await;
        matches!(seen, Ok(Some(listed)) if listed.is_running() || listed.is_unreachable())
    }

    /// Makes a call that needs the agent in a machine, and again when that was busy.
    pub(crate) async fn ask(
        &self,
        name: &str,
        words: &[String],
        code: i32,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let until = Instant::now() + self.limits.look;
        loop {
            match self.program.call_for(words, code, limit).await {
                Err(error) if self.is_busy(name, &error.problem, until).await => {}
                done => return done,
            }
        }
    }

    /// The exit code of a program that has begun. Of one that has, a report of smolvm's own counts only when the machine is really
    /// not there any more: the program could print the same.
    pub(crate) async fn code(&self, name: &str, ended: oneshot::Receiver<Ended>) -> Result<i64, BackendError> {
        let call = format!("run in {name}");
        let ended = ended.await.map_err(|error| unexpected(&*call, error.to_string()))?;
        if let Some(own) = ended.own_failure() {
            let seen = listing::find(&self.program, name, self.limits.look).await;
            let runs = matches!(&seen, Ok(Some(listed)) if listed.is_running());
            if !runs || ended.before_its_program().is_some() {
                let state = match seen {
                    Ok(Some(listed)) => format!("the machine is `{}`", listed.state),
                    Ok(None) => "the machine is gone".to_owned(),
                    Err(error) => format!("the machine cannot be looked at ({error})"),
                };
                return Err(error(
                    call,
                    own.kind(),
                    format!("{state}; smolvm says: {}", own.message),
                ));
            }
        }
        if let (Some(said), Ok(status)) = (ended.before_its_program(), &ended.status) {
            return Err(failed(EXEC, &status.to_string(), &said));
        }
        ended.of_the_command(&call).await
    }

    /// Runs a further program.
    pub(crate) fn exec(
        &self,
        name: &str,
        inside: &Inside,
        spec: &ExecSpec,
        id: String,
    ) -> Result<(Exec, Further), BackendError> {
        let call = format!("exec in {name}");
        let failed = |error: io::Error| unexpected(&*call, error.to_string());
        let Wires { streams, ends } = wire::wires(spec.tty).map_err(failed)?;
        let started = self.begin(name, ends, spec.tty, &inside.env(&spec.env), &inside.further(spec));
        let started = started.map_err(failed)?;
        let further = Further {
            _stop: started.stop,
            terminal: started.terminal,
        };
        let (maker, name) = (self.clone(), name.to_owned());
        // A task of its own: its streams end whether or not anybody waits for its status.
        let code = tokio::spawn(async move { maker.code(&name, started.ended).await });
        let exit = Box::pin(async move {
            let code = code.await;
            code.unwrap_or_else(|error| Err(unexpected("wait for a program", error.to_string())))
        });
        Ok((Exec { id, streams, exit }, further))
    }

    /// Sends a signal to the command.
    pub(crate) async fn signal(&self, name: &str, inside: &Inside, signal: &str) -> Result<(), BackendError> {
        let words = self
            .program
            .shapes()
            .exec_short(name, &inside.signal(signal), self.program.state());
        self.ask(name, &words, 0, self.limits.look).await
    }

    /// Writes files into a running machine: (path, mode, content).
    pub(crate) async fn put(&self, name: &str, files: &[(String, u32, Vec<u8>)]) -> Result<(), BackendError> {
        for (number, (path, mode, content)) in files.iter().enumerate() {
            let copy = self
                .program
                .state()
                .join(format!("put-{}-{name}-{number}", std::process::id()));
            let written = std::fs::write(&copy, content);
            let copied = match written {
                Ok(()) => {
                    let shapes = self.program.shapes();
                    let mut words = shapes.copy_in(&copy, name, path, *mode);
                    words.extend(shapes.everywhere(self.program.state()));
                    self.ask(name, &words, 0, self.limits.create).await
                }
                Err(error) => Err(refused(format!("write {}", copy.display()), error.to_string())),
            };
            // It may not have been made.
            let _ = std::fs::remove_file(&copy);
            copied?;
        }
        Ok(())
    }

    /// Unpacks a tree below a directory of a machine whose command does not run yet. What is at the top of the archive becomes
    /// the user's own directory, and everything in it is written by the user: an archive can do nothing that the command
    /// could not.
    pub(crate) async fn unpack(
        &self,
        name: &str,
        inside: &Inside,
        directory: &str,
        archive: &[u8],
    ) -> Result<(), BackendError> {
        let call = format!("unpack below {directory} of {name}");
        let top = top_of(archive).map_err(|problem| refused(&*call, problem))?;
        let target = Path::new(directory).join(top).display().to_string();
        let late = || {
            let what = format!("no progress within {} s", self.limits.create.as_secs_f32());
            error(&*call, BackendErrorKind::TimedOut, what)
        };
        let failed = |error: io::Error| unexpected(&*call, error.to_string());
        let Wires { streams, ends } = wire::wires(false).map_err(failed)?;
        let started = self
            .begin(name, ends, false, &[], &inside.unpack(&target))
            .map_err(failed)?;
        // Held to the end: dropping it ends the client.
        let (ended, _stop) = self.complaining(name, started, streams.stderr);
        let mut stdin = streams.stdin;
        for part in archive.chunks(PART) {
            match tokio::time::timeout(self.limits.create, stdin.write_all(part)).await {
                Ok(Ok(())) => {}
                // It has ended, and says why.
                Ok(Err(_)) => break,
                Err(_) => return Err(late()),
            }
        }
        drop((stdin, streams.stdout));
        let ended = tokio::time::timeout(self.limits.create, ended)
            .await
            .map_err(|_| late())?;
        let ended = ended.map_err(|problem| unexpected(&*call, problem.to_string()))?;
        ended.map_err(|problem| refused(&*call, problem))
    }

    /// A directory of a machine as an archive, in which it has its own name.
    pub(crate) fn get(&self, name: &str, inside: &Inside, path: &str) -> Result<Output, BackendError> {
        let call = format!("get {path} of {name}");
        let failed = |error: io::Error| unexpected(&*call, error.to_string());
        let Wires { streams, ends } = wire::wires(false).map_err(failed)?;
        let started = self.begin(name, ends, false, &[], &inside.pack(path)).map_err(failed)?;
        drop(streams.stdin);
        let (end, stop) = self.complaining(name, started, streams.stderr);
        Ok(Box::pin(Packed {
            from: streams.stdout,
            end: Some(end),
            is_read: false,
            limit: self.limits.create,
            quiet: Box::pin(tokio::time::sleep(self.limits.create)),
            _stop: stop,
        }))
    }

    /// The end of a program of ours, which says on its standard error why it failed.
    fn complaining(
        &self,
        name: &str,
        started: Started,
        stderr: Output,
    ) -> (JoinHandle<Result<(), String>>, oneshot::Sender<()>) {
        let (maker, name) = (self.clone(), name.to_owned());
        let end = tokio::spawn(async move {
            let complaint = async {
                let mut complaint = Vec::new();
                // What cannot be read is not said.
                let _ = stderr.take(LONGEST_COMPLAINT).read_to_end(&mut complaint).await;
                complaint
            };
            // Both at once: the one ends when the other is asked for.
            let (complaint, code) = tokio::join!(complaint, maker.code(&name, started.ended));
            match code {
                Ok(0) => Ok(()),
                Ok(code) => Err(format!(
                    "exit code {code}: {}",
                    String::from_utf8_lossy(&complaint).trim()
                )),
                Err(error) => Err(error.to_string()),
            }
        });
        (end, started.stop)
    }
}

/// What an archive's tree is called.
fn top_of(archive: &[u8]) -> Result<PathBuf, String> {
    let mut archive = tar::Archive::new(archive);
    let entry = archive.entries().map_err(|error| error.to_string())?.next();
    let entry = entry
        .ok_or("the archive is empty")?
        .map_err(|error| error.to_string())?;
    let path = entry.path().map_err(|error| error.to_string())?;
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(top)), None) if entry.header().entry_type().is_dir() => Ok(top.into()),
        _ => Err(format!(
            "expected one directory at the top of the archive, found {}",
            path.display()
        )),
    }
}

/// The output of a program that is whole only when the program says so: its reader gets an error in the place of an end that
/// came too early.
struct Packed {
    from: Output,
    end: Option<JoinHandle<Result<(), String>>>,
    is_read: bool,
    limit: Duration,
    quiet: Pin<Box<Sleep>>,
    /// Dropping it ends the client.
    _stop: oneshot::Sender<()>,
}

impl Packed {
    fn late(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.quiet.as_mut().poll(context));
        let what = format!("the machine sent nothing for {} s", self.limit.as_secs_f32());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }
}

impl AsyncRead for Packed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_read {
            let before = buffer.filled().len();
            match this.from.as_mut().poll_read(context, buffer) {
                Poll::Pending => return this.late(context),
                Poll::Ready(Ok(())) if buffer.filled().len() > before || buffer.remaining() == 0 => {
                    this.quiet.as_mut().reset(Instant::now() + this.limit);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => this.is_read = true,
                failed => return failed,
            }
        }
        let Some(end) = &mut this.end else {
            return Poll::Ready(Ok(()));
        };
        let Poll::Ready(ended) = Pin::new(end).poll(context) else {
            return this.late(context);
        };
        this.end = None;
        let ended = ended.unwrap_or_else(|error| Err(error.to_string()));
        Poll::Ready(ended.map_err(io::Error::other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(path: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_tree_has_one_directory_at_its_top() {
        use tar::EntryType::{Directory, Regular, Symlink};
        assert_eq!(top_of(&archive("app/", Directory)), Ok("app".into()));
        for (path, kind) in [
            ("../app/", Directory),
            ("..", Directory),
            ("/app/", Directory),
            ("a/b/", Directory),
            (".", Directory),
            ("app", Regular),
            ("app", Symlink),
        ] {
            assert!(top_of(&archive(path, kind)).is_err(), "{path}");
        }
        assert!(top_of(b"").is_err());
        assert!(top_of(b"no archive").is_err());
    }
}
