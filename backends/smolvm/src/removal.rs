//! The end of a machine, and of whatever of it is left.

use std::path::Path;

use bottle_backend::{BackendError, BackendErrorKind};

use crate::firewall;
use crate::machine::Maker;
use crate::processes::{self, Process};
use crate::program::{refused, unexpected};

impl Maker {
    /// Removes a machine, whoever made it, and whatever of it is left.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), BackendError> {
        let entry = self.journal.read(name)?;
        self.clear_of(name, entry.iter().filter_map(|entry| entry.process).collect())
            .await?;
        // Last: while its process is there, so are its rules.
        if let Some(table) = entry.as_ref().and_then(|entry| entry.firewall.as_ref()) {
            firewall::remove(table).await?;
        }
        self.journal.forget(name)
    }

    /// Removes a machine that did not come up; it stays noted.
    pub(crate) async fn clear(&self, name: &str) -> Result<(), BackendError> {
        self.clear_of(name, Vec::new()).await
    }

    /// Removes what smolvm has of a machine, and its processes: these, or those that are found when none is known. Each is tried,
    /// whatever came of the one before: a machine that is to go must not run on because its directory cannot be told.
    async fn clear_of(&self, name: &str, mut known: Vec<Process>) -> Result<(), BackendError> {
        let mut looked = Ok(());
        if known.is_empty() {
            match self.orphans(name).await {
                Ok(found) => known = found,
                Err(error) => looked = Err(error),
            }
        }
        let mut deleted = self.delete(name).await;
        let ended = processes::end(known)
            .await
            .map_err(|problem| refused(format!("remove machine {name}"), problem));
        if let (Err(error), Ok(())) = (&deleted, &ended) {
            tracing::info!(machine = name, %error, "its process has ended, so it is removed once more");
            deleted = self.delete(name).await;
        }
        looked.and(deleted).and(ended)
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        let words = self.program.shapes().delete(name);
        match self.program.call(words, self.limits.delete).await {
            Err(error) if error.kind != BackendErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Processes of a machine whose start was cut short: smolvm does not know of them, and its removal leaves them running.
    /// They are found by the machine's directory, so before it is gone.
    async fn orphans(&self, name: &str) -> Result<Vec<Process>, BackendError> {
        let words = self.program.shapes().data_dir(name);
        let said = match self.program.call(words, self.limits.look).await {
            Err(error) if error.kind == BackendErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let directory = Path::new(said.lines().map(str::trim).next_back().unwrap_or_default());
        if !directory.is_absolute() {
            let problem = format!("expected a directory, found `{}`", directory.display());
            return Err(unexpected("smolvm machine data-dir", problem));
        }
        // Its first word is the process id.
        let noted = std::fs::read_to_string(directory.join("agent.pid")).unwrap_or_default();
        let pid = noted.split_whitespace().next().and_then(|word| word.parse().ok());
        let mut found: Vec<Process> = pid.and_then(Process::of_machine).into_iter().collect();
        found.extend(processes::below(directory));
        found.sort();
        found.dedup();
        Ok(found)
    }
}
