//! `bottle exec`: another program in a bottle that runs.

use std::collections::BTreeMap;

use bottle_backend::{ExecSpec, Role};

use crate::args::ExecArgs;
use crate::backend::with_remains;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::leave::{Orders, Remains};
use crate::live;
use crate::sizes::follow_size;
use crate::streams;
use crate::terminal::{self, RawMode};

/// How long the last output may take to come after the program's end.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs it; its exit code.
pub async fn exec(args: &ExecArgs) -> Result<u8, Failure> {
    let env = environment(&args.env, |name| std::env::var(name).ok())?;
    let backend = with_remains().await?;
    let live = live::one(&*backend, args.name.as_deref()).await?;
    let tty = !args.no_tty && terminal::is_interactive();
    let mut spec = ExecSpec {
        command: args.command.clone(),
        env,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        tty,
    };
    if tty && let Ok(term) = std::env::var("TERM") {
        spec.env.entry("TERM".to_owned()).or_insert(term);
    }
    let orders = Orders::listen(Remains::default())?;
    let exec = backend.exec(Role::Guest, &live.guest, &spec).await?;
    let raw = tty.then(RawMode::enter).transpose()?;
    let sizes = tty.then(|| follow_size(backend.clone(), live.guest.clone(), Some(exec.id.clone())));
    let sizes = sizes.transpose()?;
    let mut joined = streams::join(exec.streams);
    let deaf = async {
        if (&mut joined.deaf).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let code = tokio::select! {
        code = exec.exit => Ok(code?.to_le_bytes()[0]),
        // The engine has no way to signal it; its input ends with us.
        _ = orders.first() => Ok(EXIT_INTERRUPTED),
        () = deaf => Ok(EXIT_INTERRUPTED),
    };
    if tokio::time::timeout(LAST_WORDS, joined.finish()).await.is_err() {
        tracing::warn!("the output did not end with the program");
    }
    if let Some(sizes) = sizes {
        sizes.abort();
    }
    drop(raw);
    code
}

/// `NAME=VALUE`, or `NAME` with the value that it has here.
fn environment(written: &[String], own: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for text in written {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), own(text)),
        };
        if name.is_empty() {
            return Err(Failure::Usage(format!(
                "--env: expected NAME=VALUE or NAME, found `{text}`"
            )));
        }
        let Some(value) = value else {
            return Err(Failure::Usage(format!(
                "--env {name}: it is not set here; give NAME=VALUE"
            )));
        };
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_given_or_taken_over() {
        let read = |written: &[&str]| {
            let written: Vec<String> = written.iter().map(ToString::to_string).collect();
            environment(&written, |name| (name == "SET").then(|| "here".to_owned())).map_err(|error| error.to_string())
        };
        let expected = [("A", "b=c"), ("EMPTY", ""), ("SET", "here")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(&["A=b=c", "SET", "EMPTY="]), Ok(BTreeMap::from(expected)));
        assert!(read(&["=x"]).unwrap_err().contains("found `=x`"));
        assert!(read(&["ABSENT"]).unwrap_err().contains("not set here"));
    }
}
