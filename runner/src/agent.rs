//! One batch of the probe agent: an exec in a guest that answers a list of cases.

use std::time::Duration;

use bottle_backend::{Backend, ExecSpec, Output, Role, patient};
use probe_spec::{AgentEnd, AgentList, AgentReady, Nonce};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

/// How long the agent may take to be ready, or to end after its last line.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Longest line that is read.
const LINE_LIMIT: u64 = 1 << 20;
/// Most lines that are read: an agent that says more is broken.
const LINES_LIMIT: usize = 20_000;

/// What one agent process did.
pub struct AgentRun {
    /// Its lines after the first.
    pub lines: Vec<Vec<u8>>,
    /// How it ended.
    pub end: AgentEnd,
    /// What the host read about its process.
    pub facts: Vec<(String, String)>,
}

impl AgentRun {
    fn not_started(why: String) -> Self {
        Self {
            lines: Vec::new(),
            end: AgentEnd::NotStarted(why),
            facts: Vec::new(),
        }
    }
}

/// Where agents are started.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// What has it.
    pub backend: &'a dyn Backend,
    /// A bottle's guest, or (as `Role::Bundle`: always a container of the engine) a control guest.
    pub role: Role,
    /// Its id.
    pub id: &'a str,
    /// What the agent is started through.
    pub prefix: &'a [String],
}

/// Has an agent attempt a list, within a limit that is already as long as it is on this machine. Never fails: what goes wrong is
/// how the agent ended.
pub async fn attempt(place: Place<'_>, list: &AgentList, batch: &Nonce, limit: Duration) -> AgentRun {
    let own = ["/bottle-probe", "list", "--batch", batch.as_str()].map(str::to_owned);
    let command = place.prefix.iter().cloned().chain(own).collect();
    let spec = ExecSpec {
        command,
        ..ExecSpec::default()
    };
    let exec = match place.backend.exec(place.role, place.id, &spec).await {
        Ok(exec) => exec,
        Err(error) => return AgentRun::not_started(error.to_string()),
    };
    let mut stdin = exec.streams.stdin;
    let mut lines = Lines::new(exec.streams.stdout);
    let words = tokio::spawn(last_words(exec.streams.stderr));
    let first = tokio::time::timeout(patient(READY_WITHIN), lines.next())
        .await
        .ok()
        .flatten();
    let ready: Option<AgentReady> = first.as_deref().and_then(|line| serde_json::from_slice(line).ok());
    if ready.is_none() {
        let said = first
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .unwrap_or_default();
        end_process(batch);
        let words = tokio::time::timeout(patient(Duration::from_secs(1)), words).await;
        let words = words.map(Result::unwrap_or_default).unwrap_or_default();
        // Where the backend failed and not the agent, this is who knows.
        let end = match tokio::time::timeout(patient(Duration::from_secs(1)), exec.exit).await {
            Ok(Ok(code)) => format!("it ended with {code}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not end".to_owned(),
        };
        return AgentRun::not_started(format!(
            "expected its ready line, found `{said}`; it said `{words}`; {end}"
        ));
    }
    let facts = crate::facts::of_agent(batch);
    let json = serde_json::to_vec(list).unwrap_or_default();
    let deadline = Instant::now() + limit;
    let mut heard = Vec::new();
    let told = async {
        // An agent that ends early closes its input; its lines then tell.
        let _ = stdin.write_all(&json).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
    };
    let read = async {
        while let Some(line) = lines.next().await {
            heard.push(line);
            if heard.len() >= LINES_LIMIT {
                break;
            }
        }
    };
    let in_time = tokio::time::timeout_at(deadline, async { tokio::join!(told, read) })
        .await
        .is_ok();
    let end = if in_time {
        match tokio::time::timeout(patient(READY_WITHIN), exec.exit).await {
            Ok(Ok(0)) if heard.len() >= list.cases.len() => AgentEnd::Clean,
            // It says that it is done, and is not: its missing lines are faults.
            Ok(Ok(0)) => AgentEnd::Clean,
            Ok(Ok(code)) => AgentEnd::Crashed(code),
            Ok(Err(error)) => AgentEnd::Unseen(error.to_string()),
            Err(_) => AgentEnd::TimedOut,
        }
    } else {
        AgentEnd::TimedOut
    };
    if end == AgentEnd::TimedOut {
        end_process(batch);
    }
    words.abort();
    AgentRun {
        lines: heard,
        end,
        facts,
    }
}

/// Ends an agent that does not end by itself. It is ours: only its process has this batch's nonce as argument.
fn end_process(batch: &Nonce) {
    if let Some(pid) = crate::facts::pid_of_agent(batch).and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// What a program said of its own end: the beginning of its standard error.
pub async fn last_words(stderr: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.take(4096).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Lines of bounded length.
struct Lines {
    reader: BufReader<Output>,
}

impl Lines {
    fn new(output: Output) -> Self {
        Self {
            reader: BufReader::new(output),
        }
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader)
                .take(LINE_LIMIT)
                .read_until(b'\n', &mut line)
                .await
                .ok()?;
            if read == 0 {
                return None;
            }
            let line = line.trim_ascii().to_vec();
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}
