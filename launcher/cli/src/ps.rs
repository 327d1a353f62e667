//! `bottle ps` and `bottle ca`.

use std::fmt::Write as _;

use bottle_plan::Topology;
use bottle_policy::BundleEvent;

use crate::args::{CaArgs, PsArgs};
use crate::backend::with_remains;
use crate::failure::Failure;
use crate::journal::Entry;
use crate::kept::{self, Kept};
use crate::live::{self, Live};
use crate::plan::{json, print};
use crate::preflight::{printable, shown_command};

/// One bottle, for programs.
#[derive(serde::Serialize)]
struct Row {
    slug: String,
    bottle: String,
    agent: Option<String>,
    backend: Option<bottle_plan::BackendKind>,
    topology: Option<Topology>,
    state: &'static str,
    owner_pid: Option<i32>,
    age_seconds: Option<u64>,
    command: Option<Vec<String>>,
    guest_id: Option<String>,
}

impl From<&Live> for Row {
    fn from(live: &Live) -> Self {
        let plan = live.plan.as_ref();
        Self {
            slug: live.slug.clone(),
            bottle: live.bottle().to_owned(),
            agent: plan
                .and_then(|plan| plan.agent.as_ref())
                .map(|agent| agent.name.clone()),
            backend: plan.map(|plan| plan.backend),
            topology: plan.map(|plan| plan.topology),
            state: live.state(),
            owner_pid: Some(live.owner.pid),
            age_seconds: Some(live.age()),
            command: plan.map(|plan| plan.guest.command.clone()),
            guest_id: Some(live.guest.clone()),
        }
    }
}

impl From<Kept> for Row {
    fn from(kept: Kept) -> Self {
        Self {
            slug: kept.slug,
            bottle: kept.bottle,
            agent: kept.agent,
            backend: None,
            topology: Some(kept.topology),
            state: "kept",
            owner_pid: None,
            age_seconds: None,
            command: None,
            guest_id: None,
        }
    }
}

/// Lists bottles.
pub async fn ps(args: &PsArgs) -> Result<u8, Failure> {
    let live = live::all(&*with_remains().await?).await?;
    let mut rows: Vec<Row> = live.iter().map(Row::from).collect();
    let is_running = |kept: &Kept| live.iter().any(|live| live.slug == kept.slug);
    rows.extend(kept::all().into_iter().filter(|kept| !is_running(kept)).map(Row::from));
    if args.json {
        return print(&json(&rows)?);
    }
    print(&table(&rows))
}

fn table(rows: &[Row]) -> String {
    let header = ["SLUG", "AGENT", "TOPOLOGY", "STATE", "AGE", "COMMAND"].map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let topology = match row.topology {
            Some(Topology::Sealed) => "sealed",
            Some(Topology::Routed) => "routed",
            None => "-",
        };
        [
            row.slug.clone(),
            row.agent.clone().unwrap_or_else(|| "-".to_owned()),
            topology.to_owned(),
            row.state.to_owned(),
            row.age_seconds.map_or("-".to_owned(), age),
            row.command.as_deref().map_or("-".to_owned(), short_command),
        ]
    });
    aligned(&std::iter::once(header).chain(lines).collect::<Vec<_>>())
}

fn short_command(command: &[String]) -> String {
    const LONGEST: usize = 40;
    let text = printable(&shown_command(command));
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 4).chain(" ...".chars()).collect()
}

/// Columns with two blanks between them.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Prints the certificate of a bottle's own authority.
pub async fn ca(args: &CaArgs) -> Result<u8, Failure> {
    let live = live::one(&*with_remains().await?, args.name.as_deref()).await?;
    let mut tail = live.journal()?;
    while let Some(line) = tail.next().map_err(Failure::system("reading the bottle's journal"))? {
        if let Ok(Entry::Event {
            event: BundleEvent::Ready { ca_pem, .. },
            ..
        }) = serde_json::from_slice(&line)
        {
            return print(&ca_pem);
        }
    }
    Err(Failure::Usage(format!("the bundle of {} is not ready yet", live.slug)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let row = |slug: &str, agent: Option<&str>, age_seconds, command: &[&str]| Row {
            slug: slug.to_owned(),
            bottle: "dev".to_owned(),
            agent: agent.map(str::to_owned),
            backend: None,
            topology: agent.map(|_| Topology::Sealed),
            state: "running",
            owner_pid: Some(1),
            age_seconds: Some(age_seconds),
            command: agent.map(|_| command.iter().map(ToString::to_string).collect()),
            guest_id: None,
        };
        let rows = [
            row(
                "dev-abcdefgh",
                Some("reviewer"),
                7300,
                &["claude", "--append-system-prompt-file", "/home/bottle/x"],
            ),
            row("a-very-long-name-abcdefgh", None, 5, &[]),
        ];
        insta::assert_snapshot!(table(&rows));
    }

    #[test]
    fn ages() {
        let told: Vec<String> = [0, 119, 120, 7199, 7200, 172_800].map(age).to_vec();
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
