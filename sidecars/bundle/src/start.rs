//! The two lines on standard input with which a bundle starts.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use bottle_policy::{BundleConfig, CONFIG_VERSION, Controls, Daemon, MAX_CONFIG_LINE, Rules, Tokens};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Time in which both lines must have come.
pub const START_WITHIN: Duration = Duration::from_secs(10);
const STACK: usize = 64 * 1024;

/// Why a bundle did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lines did not come in time.
    #[error("expected the {0} on standard input within {within} s, found nothing: write both lines right after the \
             container starts", within = START_WITHIN.as_secs())]
    TimedOut(&'static str),
    /// Standard input ended.
    #[error("expected the {0} as a line on standard input, found the end of the input")]
    Ended(&'static str),
    /// Standard input failed.
    #[error("cannot read the {0} from standard input: {1}")]
    Read(&'static str, io::Error),
    /// A line is too long.
    #[error("expected the {0} in at most {MAX_CONFIG_LINE} bytes, found a longer line")]
    TooLong(&'static str),
    /// A line is not the document that it should be. Of the tokens, only the place of the error is told.
    #[error("the line with the {0} is not understood: {1}")]
    Malformed(&'static str, String),
    /// Another version of the document.
    #[error(
        "expected configuration version {CONFIG_VERSION}, found {0}: the launcher and the bundle are of different \
             builds"
    )]
    Version(u32),
    /// A value that cannot work.
    #[error("the configuration is refused: {0}")]
    Refused(String),
}

/// A bundle's input, read on a thread of its own: standard input has no other way not to hold up everything else.
pub struct Input {
    lines: mpsc::Receiver<Result<Zeroizing<Vec<u8>>, io::Error>>,
    ended: oneshot::Receiver<()>,
}

impl Input {
    /// Starts reading.
    pub fn open() -> io::Result<Self> {
        let (line_sender, lines) = mpsc::channel(2);
        let (end_sender, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("input".into())
            .stack_size(STACK)
            .spawn(move || {
                read_input(&line_sender);
                drop(line_sender);
                let _ = end_sender.send(());
            })?;
        Ok(Self { lines, ended })
    }

    /// Reads and checks the configuration and the tokens. On error, the slug is told if it was understood.
    pub async fn start(&mut self) -> Result<(BundleConfig, Tokens), (String, StartError)> {
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        let nameless = |error| (String::new(), error);
        let line = self.line("configuration", deadline).await.map_err(nameless)?;
        let config: BundleConfig = serde_json::from_slice(&line)
            .map_err(|error| nameless(StartError::Malformed("configuration", error.to_string())))?;
        let named = |error| (config.bottle.clone(), error);
        check(&config).map_err(named)?;
        let line = self.line("tokens", deadline).await.map_err(named)?;
        // The message of the parser can quote what it found.
        let tokens: Tokens = serde_json::from_slice(&line).map_err(|error| {
            named(StartError::Malformed(
                "tokens",
                format!(
                    "expected {{\"tokens\": {{NAME: VALUE}}}}, found an error at column {}",
                    error.column()
                ),
            ))
        })?;
        check_tokens(&config, &tokens).map_err(named)?;
        Ok((config, tokens))
    }

    /// Waits for the end of the input; what comes before it is thrown away.
    pub async fn ended(self) {
        drop(self.lines);
        let _ = self.ended.await;
    }

    async fn line(
        &mut self,
        what: &'static str,
        deadline: tokio::time::Instant,
    ) -> Result<Zeroizing<Vec<u8>>, StartError> {
        let line = tokio::time::timeout_at(deadline, self.lines.recv())
            .await
            .map_err(|_| StartError::TimedOut(what))?;
        let line = line
            .ok_or(StartError::Ended(what))?
            .map_err(|error| StartError::Read(what, error))?;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if line.len() > MAX_CONFIG_LINE => Err(StartError::TooLong(what)),
            _ => Err(StartError::Ended(what)),
        }
    }
}

/// Sends two lines, then waits for the end.
fn read_input(lines: &mpsc::Sender<Result<Zeroizing<Vec<u8>>, io::Error>>) {
    // Not `io::stdin()`: its buffer would keep the tokens.
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else {
        return;
    };
    let mut input = io::BufReader::with_capacity(16 * 1024, std::fs::File::from(input));
    for _ in 0..2 {
        // One reservation: a vector that grew would leave copies behind. Untouched pages cost nothing.
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_CONFIG_LINE + 1));
        let read = (&mut input)
            .take(MAX_CONFIG_LINE as u64 + 1)
            .read_until(b'\n', &mut line);
        let over = read.is_err() || line.last() != Some(&b'\n');
        if lines.blocking_send(read.map(|_| line)).is_err() || over {
            break;
        }
    }
    let mut rest = [0; 4096];
    loop {
        match input.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn check(config: &BundleConfig) -> Result<(), StartError> {
    let refused = |reason: String| Err(StartError::Refused(reason));
    if config.version != CONFIG_VERSION {
        return Err(StartError::Version(config.version));
    }
    if config.bottle.is_empty() {
        return refused("`bottle` is to be the bottle's slug, found nothing".into());
    }
    let distinct: BTreeSet<_> = config.daemons.iter().collect();
    if distinct.len() != config.daemons.len() {
        return refused(format!("each daemon is to be listed once, found {:?}", config.daemons));
    }
    if config.daemons.contains(&Daemon::Pipelock) && config.listen.is_empty() {
        return refused("pipelock is to run, but `listen` is empty".into());
    }
    if let Err(error) = Rules::new(&config.policy, &config.routes, Controls::all()) {
        return refused(error.to_string());
    }
    if config.daemons.contains(&Daemon::Relay) != config.relay.is_some() {
        return refused("the daemon `relay` and the key `relay` go together, found one without the other".into());
    }
    let relayed = config.relay.as_ref().map(|relay| ("relay.directory", &relay.directory));
    let published = config.publish.as_ref().map(|path| ("publish", path));
    for (key, path) in relayed.into_iter().chain(published) {
        if !path.starts_with('/') {
            return refused(format!("`{key}` is to be an absolute path, found {path:?}"));
        }
    }
    Ok(())
}

fn check_tokens(config: &BundleConfig, tokens: &Tokens) -> Result<(), StartError> {
    for route in &config.routes {
        if !tokens.tokens.contains_key(&route.token) {
            let (host, token) = (&route.host, &route.token);
            return Err(StartError::Refused(format!(
                "the route to {host} needs the token {token}, which was not handed over"
            )));
        }
    }
    if config.relay.is_some() != tokens.relay.is_some() {
        return Err(StartError::Refused(
            "the key `relay` of the configuration and the relay's secret go together, found one without the other"
                .into(),
        ));
    }
    Ok(())
}
