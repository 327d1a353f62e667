//! A program in a machine, as a process of `smolvm machine exec` with its streams.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};

use bottle_backend::{BackendError, BoxFuture, Input, Streams};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::oneshot;

use crate::own_failure::OwnFailure;
use crate::program::unexpected;

/// Room for standard error on its way.
const ROOM: usize = 64 * 1024;
/// A last line longer than this is no report of smolvm's.
const LONGEST_REPORT: usize = 16 * 1024;

/// Both ends of a program's streams, before it is started.
pub(crate) struct Wires {
    /// Ours.
    pub(crate) streams: Streams,
    /// Its own.
    pub(crate) ends: Ends,
}

/// The program's ends.
pub(crate) struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: DuplexStream,
    master: Option<OwnedFd>,
}

/// Makes the streams. With a terminal, smolvm gets one of ours: it then follows its size.
pub(crate) fn wires(tty: bool) -> io::Result<Wires> {
    let (stderr, ours) = tokio::io::duplex(ROOM);
    if tty {
        let (master, slave) = terminal()?;
        let streams = Streams {
            stdin: closing(pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?),
            stdout: Box::pin(pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?),
            stderr: Box::pin(ours),
        };
        let ends = Ends {
            stdin: slave.try_clone()?,
            stdout: slave,
            stderr,
            master: Some(master),
        };
        return Ok(Wires { streams, ends });
    }
    let (stdin, our_stdin) = io::pipe()?;
    let (our_stdout, stdout) = io::pipe()?;
    let streams = Streams {
        stdin: closing(pipe::Sender::from_owned_fd(our_stdin.into())?),
        stdout: Box::pin(pipe::Receiver::from_owned_fd(our_stdout.into())?),
        stderr: Box::pin(ours),
    };
    let ends = Ends {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr,
        master: None,
    };
    Ok(Wires { streams, ends })
}

/// An input that ends when it is shut down: a pipe's own writer only does when it is dropped.
struct Closing(Option<pipe::Sender>);

fn closing(sender: pipe::Sender) -> Input {
    Box::pin(Closing(Some(sender)))
}

impl Closing {
    fn open(&mut self) -> io::Result<Pin<&mut pipe::Sender>> {
        let open = self.0.as_mut().map(Pin::new);
        open.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Closing {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// A pseudo-terminal that changes nothing on the way: the guest's own does what a terminal does.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    // Where openpt(3) takes no such flag, a program that another thread starts in between inherits it.
    #[cfg(target_os = "linux")]
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags)?;
    #[cfg(not(target_os = "linux"))]
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut raw = tcgetattr(&slave)?;
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok((master, slave))
}

/// A terminal whose size can be told.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    master: Arc<OwnedFd>,
    /// Process id of the client that runs, 0 while none does.
    client: Arc<AtomicI32>,
}

impl Terminal {
    /// Tells the size, and the client that it changed: it is not the terminal's session, so the kernel does not.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&*self.master, size)?;
        let Some(client) = Pid::from_raw(self.client.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        match kill_process(client, Signal::WINCH) {
            // It has ended.
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Asked when smolvm itself failed and the program had said nothing: the client to start in the place of the one that ended, if
/// any. It gets the same streams, from which the one before must have taken nothing.
pub(crate) type Again = Box<dyn Fn(OwnFailure) -> BoxFuture<'static, Option<Command>> + Send + Sync>;

/// A program that was started.
pub(crate) struct Started {
    /// Its terminal, when it has one.
    pub(crate) terminal: Option<Terminal>,
    /// How the client ended, and a last line of standard error that may be smolvm's own report; what is left of standard
    /// error goes to the stream beforehand.
    pub(crate) ended: oneshot::Receiver<Ended>,
    /// Ends the client when it is dropped or sent to.
    pub(crate) stop: oneshot::Sender<()>,
    /// Told when the program begins, where that is announced.
    pub(crate) begun: Option<oneshot::Receiver<()>>,
}

/// A line of standard error with which a program begins, which is for us alone, and who is told when it came. Lines before it are
/// smolvm's.
struct Announcement {
    line: &'static str,
    tell: oneshot::Sender<()>,
}

impl Announcement {
    /// Where it is, with the end of its line.
    fn find(&self, said: &[u8]) -> Option<std::ops::Range<usize>> {
        let mut begin = 0;
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            let end = begin + line.len();
            if line.strip_suffix(b"\n") == Some(self.line.as_bytes()) {
                return Some(begin..end);
            }
            begin = end;
        }
        None
    }
}

/// How a client ended.
pub(crate) struct Ended {
    pub(crate) status: io::Result<std::process::ExitStatus>,
    held: Vec<u8>,
    /// Whether a program that is announced never was.
    is_unannounced: bool,
    stderr: DuplexStream,
}

impl Ended {
    /// What it says of itself, when it failed and its last line is such a report.
    pub(crate) fn own_failure(&self) -> Option<OwnFailure> {
        let code = self.status.as_ref().ok().and_then(std::process::ExitStatus::code);
        let line = std::str::from_utf8(&self.held[last_line(&self.held)..]).ok()?.trim();
        (code == Some(1)).then(|| OwnFailure::of_json(line))?
    }

    /// What was said by a client that ended before its program began, where that is announced.
    pub(crate) fn before_its_program(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.is_unannounced.then(|| String::from_utf8_lossy(&self.held))
    }

    /// The exit code of the command: the last line was its own.
    pub(crate) async fn of_the_command(mut self, call: &str) -> Result<i64, BackendError> {
        // Nobody may be reading any more.
        let _ = self.stderr.write_all(&self.held).await;
        let status = self.status.map_err(|error| unexpected(call, error.to_string()))?;
        match status.code() {
            Some(code) => Ok(i64::from(code)),
            None => Err(unexpected(call, format!("the client in smolvm was ended ({status})"))),
        }
    }
}

/// Starts a client on these ends. `announcement`: a line of standard error with which its program begins.
pub(crate) fn start(
    command: Command,
    ends: Ends,
    announcement: Option<&'static str>,
    again: Again,
) -> io::Result<Started> {
    let Ends {
        stdin,
        stdout,
        mut stderr,
        master,
    } = ends;
    let mut child = spawn(command, &stdin, &stdout)?;
    let client = Arc::new(AtomicI32::new(id(&child)));
    let terminal = master.map(|master| Terminal {
        master: Arc::new(master),
        client: client.clone(),
    });
    let (stop, mut stopped) = oneshot::channel();
    let (tell, ended) = oneshot::channel();
    let announced = announcement.map(|line| {
        let (tell, begun) = oneshot::channel();
        (Announcement { line, tell }, begun)
    });
    let (mut announcement, begun) = announced.unzip();
    tokio::spawn(async move {
        loop {
            let passing = tokio::spawn(pass_on(child.stderr.take(), announcement, stderr));
            let (status, is_stopped) = until(&mut child, &mut stopped).await;
            client.store(0, Ordering::Relaxed);
            let Ok(passed) = passing.await else { return };
            let may_start_again = !is_stopped && !passed.any;
            let mut end = Ended {
                status,
                held: passed.held,
                is_unannounced: passed.awaited.is_some(),
                stderr: passed.to,
            };
            announcement = passed.awaited;
            if let Some(own) = end.own_failure().filter(|_| may_start_again) {
                let next = tokio::select! {
                    biased;
                    _ = &mut stopped => None,
                    next = again(own) => next,
                };
                match next.map(|command| spawn(command, &stdin, &stdout)) {
                    Some(Ok(started)) => {
                        client.store(id(&started), Ordering::Relaxed);
                        (child, stderr) = (started, end.stderr);
                        continue;
                    }
                    Some(Err(error)) => end.status = Err(error),
                    None => {}
                }
            }
            // With our copies of the program's ends open there would never be an end of its output.
            drop((stdin, stdout));
            // Nobody may be waiting.
            let _ = tell.send(end);
            return;
        }
    });
    Ok(Started {
        terminal,
        ended,
        stop,
        begun,
    })
}

fn spawn(mut command: Command, stdin: &OwnedFd, stdout: &OwnedFd) -> io::Result<Child> {
    command
        .stdin(stdin.try_clone()?)
        .stdout(stdout.try_clone()?)
        .stderr(Stdio::piped());
    command.spawn()
}

fn id(child: &Child) -> i32 {
    child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default()
}

/// Waits for the end, or makes it; whether it was made.
async fn until(child: &mut Child, stopped: &mut oneshot::Receiver<()>) -> (io::Result<std::process::ExitStatus>, bool) {
    tokio::select! {
        biased;
        status = child.wait() => return (status, false),
        _ = stopped => {}
    }
    let status = match child.start_kill() {
        Ok(()) => child.wait().await,
        Err(error) => Err(error),
    };
    (status, true)
}

/// What came of a standard error.
struct Passed {
    /// A last line that may be smolvm's own report; all of it where the announcement did not come.
    held: Vec<u8>,
    /// Whether there was anything else.
    any: bool,
    /// The announcement that did not come.
    awaited: Option<Announcement>,
    to: DuplexStream,
}

/// Passes standard error on as it comes, but holds a last line back that may be smolvm's own report, and everything until the
/// announcement.
async fn pass_on(errors: Option<ChildStderr>, awaited: Option<Announcement>, to: DuplexStream) -> Passed {
    let mut passed = Passed {
        held: Vec::new(),
        any: false,
        awaited,
        to,
    };
    let Some(mut errors) = errors else {
        return passed;
    };
    let mut part = vec![0; 8192];
    while let Ok(count @ 1..) = errors.read(&mut part).await {
        let held = &mut passed.held;
        held.extend_from_slice(&part[..count]);
        if let Some(awaited) = passed.awaited.take() {
            if let Some(found) = awaited.find(held) {
                held.drain(found);
                passed.any = true;
                // Nobody may be waiting.
                let _ = awaited.tell.send(());
            } else {
                // Its end is what tells most.
                held.drain(..held.len().saturating_sub(LONGEST_REPORT));
                passed.awaited = Some(awaited);
                continue;
            }
        }
        let line = last_line(held);
        let keep = if may_be_report(&held[line..]) && held.len() - line <= LONGEST_REPORT {
            line
        } else {
            held.len()
        };
        // Read all the same when nobody listens: the client must not hang on a full pipe.
        let _ = passed.to.write_all(&held[..keep]).await;
        held.drain(..keep);
        passed.any |= keep > 0;
    }
    passed
}

/// Where the last line begins; an end of line at the very end belongs to it.
fn last_line(bytes: &[u8]) -> usize {
    let end = bytes.len().saturating_sub(usize::from(bytes.last() == Some(&b'\n')));
    bytes[..end]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

fn may_be_report(line: &[u8]) -> bool {
    const BEGIN: &[u8] = b"{\"error\":";
    !line.is_empty() && (line.starts_with(BEGIN) || BEGIN.starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No client is started in the place of another.
    fn never() -> Again {
        Box::new(|_| Box::pin(async { None }))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// The command's code, or smolvm's own failure; output; errors.
    async fn run(script: &str, input: &[u8]) -> (Result<i64, OwnFailure>, String, String) {
        run_again(script, None, input).await
    }

    /// The same with a client that may take the place of one that failed.
    async fn run_again(
        script: &str,
        again: Option<&'static str>,
        input: &[u8],
    ) -> (Result<i64, OwnFailure>, String, String) {
        let Wires { streams, ends } = wires(false).unwrap();
        let again: Again = Box::new(move |_| Box::pin(async move { again.map(shell) }));
        let started = start(shell(script), ends, None, again).unwrap();
        let (mut stdin, mut stdout, mut stderr) = (streams.stdin, streams.stdout, streams.stderr);
        stdin.write_all(input).await.unwrap();
        // Kept: that it is shut down is its end.
        stdin.shutdown().await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = async {
            let ended = started.ended.await.unwrap();
            match ended.own_failure() {
                Some(own) => Err(own),
                None => Ok(ended.of_the_command("run").await.unwrap()),
            }
        };
        let (outcome, _, _) = tokio::join!(outcome, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        assert!(stdin.write_all(b"x").await.is_err());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (outcome, text(out), text(err))
    }

    #[tokio::test]
    async fn streams_and_status_of_a_program() {
        let (code, out, err) = run("cat; echo oops >&2; exit 7", b"in\n").await;
        assert_eq!((code, out.as_str(), err.as_str()), (Ok(7), "in\n", "oops\n"));
    }

    #[tokio::test]
    async fn its_own_report_is_held_back_and_other_lines_are_not() {
        let report = r#"echo before >&2; printf '{"error":{"code":"SMOLVM_ERROR","message":"gone"}}\n' >&2; exit 1"#;
        let (outcome, _, err) = run(report, b"").await;
        assert_eq!(outcome.unwrap_err().message, "gone");
        assert_eq!(err, "before\n");
        // The same with another code, and JSON of another shape, are the command's own words.
        let (outcome, _, err) = run(&report.replace("exit 1", "exit 2"), b"").await;
        assert_eq!(outcome, Ok(2));
        assert!(err.ends_with("}}\n"), "{err}");
        let other = r#"printf '{"error":{"code":"invalid_key","message":"no","type":"x"}}' >&2; exit 1"#;
        let (outcome, _, err) = run(other, b"").await;
        assert_eq!(outcome, Ok(1));
        assert!(err.ends_with("}}"), "{err}");
    }

    const REPORT: &str = r#"echo '{"error":{"code":"SMOLVM_ERROR","message":"busy"}}' >&2; exit 1"#;

    #[tokio::test]
    async fn a_client_in_the_place_of_one_that_failed_has_its_streams() {
        let (code, out, err) = run_again(REPORT, Some("cat; echo oops >&2; exit 7"), b"in\n").await;
        assert_eq!((code, out.as_str(), err.as_str()), (Ok(7), "in\n", "oops\n"));
    }

    #[tokio::test]
    async fn a_program_that_has_said_something_is_not_run_again() {
        let first = format!("echo begun >&2; {REPORT}");
        let (outcome, out, err) = run_again(&first, Some("echo again"), b"").await;
        assert_eq!((out.as_str(), err.as_str()), ("", "begun\n"));
        assert_eq!(outcome.unwrap_err().message, "busy");
    }

    /// Whether it was announced, what was said before if not, and what came out of its standard error.
    async fn announced(script: &str) -> (bool, Option<String>, String) {
        let Wires { streams, ends } = wires(false).unwrap();
        let started = start(shell(script), ends, Some("program: begun"), never()).unwrap();
        let mut stderr = streams.stderr;
        let mut err = String::new();
        let outcome = async {
            let ended = started.ended.await.unwrap();
            let before = ended.before_its_program().map(std::borrow::Cow::into_owned);
            let _ = ended.of_the_command("run").await;
            before
        };
        let (before, _) = tokio::join!(outcome, stderr.read_to_string(&mut err));
        (started.begun.unwrap().await.is_ok(), before, err)
    }

    #[rstest::rstest]
    #[case::at_once("echo program: begun >&2; echo oops >&2", None, "oops\n")]
    #[case::after_others("echo smolvm >&2; echo program: begun >&2; echo oops >&2", None, "smolvm\noops\n")]
    #[case::twice("echo program: begun >&2; echo program: begun >&2", None, "program: begun\n")]
    #[case::in_pieces(
        "for part in prog ram: ' beg' 'un\n' oop 's\n'; do printf \"$part\" >&2; sleep 0.02; done",
        None,
        "oops\n"
    )]
    #[case::alone("echo program: begun >&2", None, "")]
    #[case::never("echo no such machine >&2; exit 1", Some("no such machine\n"), "no such machine\n")]
    #[case::not_the_line(
        "printf 'x program: begun\nprogram: begun' >&2",
        Some("x program: begun\nprogram: begun"),
        "x program: begun\nprogram: begun"
    )]
    #[case::silence("exit 1", Some(""), "")]
    #[tokio::test]
    async fn a_program_that_is_announced_is_told_from_one_that_never_began(
        #[case] script: &str,
        #[case] before: Option<&str>,
        #[case] err: &str,
    ) {
        let (is_told, said, heard) = announced(script).await;
        assert_eq!((said.as_deref(), heard.as_str()), (before, err));
        assert_eq!(is_told, before.is_none());
    }

    #[tokio::test]
    async fn of_much_that_is_said_in_the_place_of_a_beginning_the_end_is_kept() {
        let script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1";
        let (is_told, said, _) = announced(script).await;
        let said = said.unwrap();
        assert!(!is_told && said.ends_with("xlast\n"));
        assert_eq!(said.len(), LONGEST_REPORT);
    }

    #[tokio::test]
    async fn a_client_that_is_stopped_is_not_followed_by_another() {
        let Wires { streams, ends } = wires(false).unwrap();
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let again: Again = Box::new(move |_| {
            ask.send(()).unwrap();
            Box::pin(std::future::pending())
        });
        let started = start(shell(REPORT), ends, None, again).unwrap();
        asked.recv().await.unwrap();
        drop(started.stop);
        assert_eq!(started.ended.await.unwrap().own_failure().unwrap().message, "busy");
        drop(streams);
    }

    #[tokio::test]
    async fn a_terminal_of_ours_has_the_size_that_it_is_told() {
        let Wires { streams, ends } = wires(true).unwrap();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done",
        ]);
        let started = start(command, ends, None, never()).unwrap();
        let mut stdout = streams.stdout;
        let mut seen = Vec::new();
        let mut part = [0; 256];
        while !seen.ends_with(b"ready\n") {
            let count = stdout.read(&mut part).await.unwrap();
            seen.extend_from_slice(&part[..count]);
        }
        started.terminal.unwrap().resize(101, 33).unwrap();
        while let Ok(count @ 1..) = stdout.read(&mut part).await {
            seen.extend_from_slice(&part[..count]);
        }
        assert!(String::from_utf8_lossy(&seen).contains("33 101"));
        assert_eq!(started.ended.await.unwrap().status.unwrap().code(), Some(3));
        drop(streams.stdin);
    }

    #[tokio::test]
    async fn a_client_that_is_stopped_is_gone() {
        let Wires { ends, streams } = wires(false).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let started = start(command, ends, None, never()).unwrap();
        drop(started.stop);
        let ended = started.ended.await.unwrap();
        assert!(ended.of_the_command("x").await.is_err());
        drop(streams);
    }

    #[test]
    fn last_lines() {
        assert_eq!(last_line(b"a\nb\n"), 2);
        assert_eq!(last_line(b"a\nb"), 2);
        assert_eq!(last_line(b"a"), 0);
        assert_eq!(last_line(b""), 0);
        assert!(may_be_report(b"{\"err") && may_be_report(b"{\"error\":{") && !may_be_report(b"{\"errors\""));
    }
}
