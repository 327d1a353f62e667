//! The smolvm program: found, asked for its version, called within a time limit.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_backend::{BackendError, BackendErrorKind, patient};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::booting::step_back;
use crate::own_failure::OwnFailure;
use crate::session;
use crate::shapes::{DECIDER_TOKEN, Shapes, Version, environment};

/// How long calls may take before they are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls that only look.
    pub look: Duration,
    /// The creation of a machine.
    pub create: Duration,
    /// Its start, to the readiness of its agent. Emulated machines take long.
    pub start: Duration,
    /// Its removal. Twice this, and what the end of its process may take, is less than the limit of a step of a teardown.
    pub delete: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            look: patient(Duration::from_secs(20)),
            create: patient(Duration::from_secs(60)),
            start: patient(Duration::from_secs(90)),
            delete: patient(Duration::from_secs(12)),
        }
    }
}

/// Output of a call beyond this is not kept.
const LONGEST_ANSWER: u64 = 4 << 20;
/// How long the rest of the output may take to come after the end of the program. A child of it may hold the pipes open.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Variables of the caller that smolvm gets: what it needs to run, and nothing that is the operator's secret or changes
/// where it looks for its parts.
const PASSED_ON: [&str; 5] = ["PATH", "LANG", "LC_ALL", "TERM", "LD_LIBRARY_PATH"];

/// A program that is taken for smolvm.
#[derive(Clone, Debug)]
struct Binary {
    path: PathBuf,
    /// Where its machines are.
    state: PathBuf,
    /// How long a machine may take to start.
    start: Duration,
}

/// A smolvm program of a version that is used.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    binary: Binary,
    version: Version,
    shapes: Shapes,
}

impl Program {
    /// Finds the program: the one that was named, or the first on the path.
    pub(crate) async fn find(named: Option<&Path>, state: &Path, limits: &Limits) -> Result<Self, BackendError> {
        const CALL: &str = "smolvm --version";
        let binary = Binary {
            path: locate(named)?,
            state: state.to_owned(),
            start: limits.start,
        };
        let command = binary.command(&Shapes::version());
        let said = binary.run(CALL, command, limits.look, Place::Any).await?;
        if said.code != Some(0) {
            return Err(failed(CALL, &said.status, &said.stderr));
        }
        let version = Version::read(&said.stdout).ok_or_else(|| {
            let found = first_line(&said.stdout);
            unexpected(
                CALL,
                format!(
                    "expected `smolvm VERSION`, found `{found}`: is {} smolvm?",
                    binary.path.display()
                ),
            )
        })?;
        let shapes =
            Shapes::of(version).ok_or_else(|| error(CALL, BackendErrorKind::Unreachable, Shapes::too_old(version)))?;
        Ok(Self {
            binary,
            version,
            shapes,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.binary.path
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn shapes(&self) -> Shapes {
        self.shapes
    }

    pub(crate) fn state(&self) -> &Path {
        &self.binary.state
    }

    /// Makes a call; its standard output.
    pub(crate) async fn call(&self, words: Vec<String>, limit: Duration) -> Result<String, BackendError> {
        let words: Vec<String> = words.into_iter().chain(self.shapes.everywhere(self.state())).collect();
        let name = name_of(&words);
        let said = self.binary.run(&name, self.command(&words), limit, Place::Any).await?;
        said.success(&name)
    }

    /// Makes a call that starts a machine, behind the machine in the queue for the processor; see [`step_back`]. `token` is
    /// what it proves itself with to who decides about connections.
    pub(crate) async fn call_behind(
        &self,
        words: Vec<String>,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<String, BackendError> {
        let words: Vec<String> = words.into_iter().chain(self.shapes.everywhere(self.state())).collect();
        let name = name_of(&words);
        let mut command = self.command(&words);
        command.envs(token.map(|token| (DECIDER_TOKEN, token)));
        let said = self.binary.run(&name, command, limit, Place::BehindItsMachine).await?;
        said.success(&name)
    }

    /// Makes a call that has its options already and must end with this exit code.
    pub(crate) async fn call_for(&self, words: &[String], code: i32, limit: Duration) -> Result<(), BackendError> {
        let name = name_of(words);
        let said = self.binary.run(&name, self.command(words), limit, Place::Any).await?;
        if said.code == Some(code) {
            Ok(())
        } else {
            Err(failed(&name, &said.status, &said.stderr))
        }
    }

    /// The program with these words, its environment set, nothing started.
    pub(crate) fn command(&self, words: &[String]) -> Command {
        self.binary.command(words)
    }
}

impl Binary {
    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(words).env_clear();
        command.envs(
            PASSED_ON
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command.envs(environment(self.start));
        // It opens up its home directory for the users of its machines: ours, not the operator's.
        command.env("HOME", &self.state);
        // Its machines keep where it runs as their working directory: not the operator's project.
        command.current_dir("/");
        command.kill_on_drop(true);
        if words.starts_with(&["machine".to_owned(), "start".to_owned()]) {
            session::lead(&mut command);
        } else {
            // A group of its own: Ctrl-C at our terminal is for us to pass on.
            command.process_group(0);
        }
        command
    }

    async fn run(&self, name: &str, mut command: Command, limit: Duration, place: Place) -> Result<Said, BackendError> {
        let begun = std::time::Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|problem| {
            let what = format!("{} cannot be started: {problem}", self.path.display());
            error(name, BackendErrorKind::Unreachable, what)
        })?;
        let stdout = Kept::read(child.stdout.take());
        let stderr = Kept::read(child.stderr.take());
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let stepping = id
            .filter(|_| place == Place::BehindItsMachine)
            .map(|id| tokio::spawn(step_back(id)));
        let ended = tokio::time::timeout(limit, child.wait()).await;
        if let Some(stepping) = stepping {
            stepping.abort();
        }
        let Ok(ended) = ended else {
            // Dropping the child kills it; its end is awaited so that it is not there any more when things are undone.
            let _ = child.kill().await;
            let what = format!(
                "not done within {} s, so it was ended{}; look at the machine's load, and run the same by hand to see more",
                limit.as_secs_f32(),
                said_so_far(&stderr.text())
            );
            return Err(error(name, BackendErrorKind::TimedOut, what));
        };
        let status = ended.map_err(|problem| unexpected(name, problem.to_string()))?;
        let said = Said {
            code: status.code(),
            status: status.to_string(),
            stdout: stdout.finish().await,
            stderr: stderr.finish().await,
        };
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(call = name, millis, status = said.status, "smolvm");
        Ok(said)
    }
}

/// Where in the queue for the processor a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// As whoever calls.
    Any,
    /// Behind the machine that it starts.
    BehindItsMachine,
}

fn name_of(words: &[String]) -> String {
    format!("smolvm {}", words.iter().take(2).cloned().collect::<Vec<_>>().join(" "))
}

/// The error of a call that ended so and said this on standard error.
pub(crate) fn failed(name: &str, status: &str, said: &str) -> BackendError {
    let own = OwnFailure::in_text(said);
    let kind = own.as_ref().map_or(BackendErrorKind::Refused, OwnFailure::kind);
    let what = match own {
        Some(own) => own.message,
        None if said.trim().is_empty() => format!("it ended with {status} and said nothing"),
        None => format!("it ended with {status} and said: {}", last_lines(said)),
    };
    error(name, kind, what)
}

/// The program that was named, or the first on the path.
pub(crate) fn locate(named: Option<&Path>) -> Result<PathBuf, BackendError> {
    const CALL: &str = "look for smolvm";
    const NEXT: &str = "install it, or name it with --smolvm or BOTTLE_SMOLVM";
    let is_program = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if let Some(path) = named {
        if is_program(path) {
            // Noted for others, whose working directory is another.
            return Ok(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        }
        let what = format!("expected a program at {}, found none: {NEXT}", path.display());
        return Err(error(CALL, BackendErrorKind::Unreachable, what));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("smolvm"))
        .find(|path| is_program(path))
        .ok_or_else(|| {
            let what = format!("no program `smolvm` is on the path: {NEXT}");
            error(CALL, BackendErrorKind::Unreachable, what)
        })
}

/// What a call came to.
struct Said {
    code: Option<i32>,
    status: String,
    stdout: String,
    stderr: String,
}

impl Said {
    fn success(self, name: &str) -> Result<String, BackendError> {
        if self.code == Some(0) {
            Ok(self.stdout)
        } else {
            Err(failed(name, &self.status, &self.stderr))
        }
    }
}

/// A stream that is being read to its end, up to a size.
struct Kept {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: Option<JoinHandle<()>>,
}

impl Kept {
    fn read(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = bytes.clone();
        let task = stream.map(|mut stream| {
            tokio::spawn(async move {
                let mut part = [0; 8192];
                let mut whole = 0;
                while let Ok(count @ 1..) = stream.read(&mut part).await {
                    whole += count as u64;
                    if whole <= LONGEST_ANSWER {
                        into.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend_from_slice(&part[..count]);
                    }
                }
            })
        });
        Self { bytes, task }
    }

    async fn finish(mut self) -> String {
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(patient(LAST_WORDS), &mut task).await.is_err()
        {
            task.abort();
        }
        self.text()
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn said_so_far(stderr: &str) -> String {
    if stderr.trim().is_empty() {
        String::new()
    } else {
        format!(" (it had said: {})", last_lines(stderr))
    }
}

/// The end of a text, on one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let kept = lines[lines.len().saturating_sub(5)..].join(" | ");
    kept.chars().take(600).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// An error of a call.
pub(crate) fn error(call: impl Into<String>, kind: BackendErrorKind, problem: impl Into<String>) -> BackendError {
    BackendError {
        call: call.into(),
        problem: problem.into(),
        kind,
    }
}

/// An answer that is not understood.
pub(crate) fn unexpected(call: impl Into<String>, problem: impl Into<String>) -> BackendError {
    error(call, BackendErrorKind::Unexpected, problem)
}

/// A refusal of ours.
pub(crate) fn refused(call: impl Into<String>, problem: impl Into<String>) -> BackendError {
    error(call, BackendErrorKind::Refused, problem)
}
