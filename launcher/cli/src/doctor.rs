//! `bottle doctor`: whether bottles can be launched here, and whether their walls hold.

mod machine;
mod walls;

use std::sync::Arc;

use bottle_backend::Backend;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::backend::with_remains;
use crate::failure::{EXIT_NO_ENGINE, Failure};
use crate::plan::{json, print};
use crate::preflight::printable;
use crate::ps::aligned;

/// Something is wrong.
const EXIT_WRONG: u8 = 1;

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Was mended.
    Mended,
    /// Bottles work, but somebody should know.
    Note,
    /// Bottles do not work, or do not hold.
    Wrong,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// How to mend it.
    pub mend: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn good(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Good, subject, found, None)
    }

    /// Worth knowing.
    pub fn note(subject: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Level::Note, subject, found, Some(mend.into()))
    }

    /// Wrong.
    pub fn wrong(subject: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Level::Wrong, subject, found, Some(mend.into()))
    }

    /// Mended.
    pub fn mended(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Mended, subject, found, None)
    }

    fn new(level: Level, subject: impl Into<String>, found: impl Into<String>, mend: Option<String>) -> Self {
        Self {
            subject: subject.into(),
            level,
            found: found.into(),
            mend,
        }
    }
}

/// Looks at everything and tells.
pub async fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let mut findings = machine::without_engine(args.fix);
    let mut code = 0;
    match with_remains().await {
        Ok(engine) => {
            findings.extend(machine::of_engine(&engine, args.fix).await);
            findings.extend(proof(&engine, args, &findings).await);
        }
        Err(failure) => {
            code = failure.exit_code();
            let mend = "start Docker (20.10 or newer), or set DOCKER_HOST=unix:///path/to/docker.sock, or join the group \
                        that may use its socket";
            findings.push(Finding::wrong("engine", failure.to_string(), mend));
        }
    }
    let is_wrong = findings.iter().any(|finding| finding.level == Level::Wrong);
    if args.json {
        print(&json(&findings)?)?;
    } else {
        print(&told(&findings))?;
    }
    Ok(match code {
        EXIT_NO_ENGINE => EXIT_NO_ENGINE,
        _ if is_wrong => EXIT_WRONG,
        _ => 0,
    })
}

/// The walls, when a bottle can be launched at all.
async fn proof(engine: &Arc<dyn Backend>, args: &DoctorArgs, before: &[Finding]) -> Vec<Finding> {
    let is_hopeless = before.iter().any(|finding| finding.level == Level::Wrong);
    if args.no_walls {
        return Vec::new();
    }
    if is_hopeless {
        let mend = "mend what is wrong above first";
        return vec![Finding::note("walls", "not looked at", mend)];
    }
    match walls::walls(engine).await {
        Ok(findings) => findings,
        Err(failure) => vec![Finding::wrong(
            "walls",
            format!("the throw-away bottle could not be launched: {failure}"),
            "run `bottle --verbose doctor` and look at the last step before the failure",
        )],
    }
}

fn told(findings: &[Finding]) -> String {
    let rows: Vec<[String; 3]> = findings
        .iter()
        .map(|finding| {
            let word = match finding.level {
                Level::Good => "ok",
                Level::Mended => "mended",
                Level::Note => "note",
                Level::Wrong => "WRONG",
            };
            [word.to_owned(), finding.subject.clone(), printable(&finding.found)]
        })
        .collect();
    let table = aligned(&rows);
    let mut text = String::new();
    for (line, finding) in table.lines().zip(findings) {
        text.push_str(line);
        text.push('\n');
        if let Some(mend) = &finding.mend {
            text.push_str(&format!("        -> {}\n", printable(mend)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    text.push_str(&format!(
        "{} ok, {} mended, {} notes, {} wrong\n",
        count(Level::Good),
        count(Level::Mended),
        count(Level::Note),
        count(Level::Wrong)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_how_to_mend_them() {
        let findings = [
            Finding::good("engine", "docker 20.10.24"),
            Finding::mended("leftovers", "3 objects of dead launchers removed"),
            Finding::note(
                "kvm",
                "/dev/kvm is not there",
                "microVMs need it; docker bottles do not",
            ),
            Finding::wrong("disk", "12 MiB free", "free some"),
        ];
        insta::assert_snapshot!(told(&findings));
    }
}
