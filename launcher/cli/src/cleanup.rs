//! `bottle cleanup`.

use bottle_backend::ResourceKind;
use bottle_launch::SweepReport;

use crate::args::CleanupArgs;
use crate::backend;
use crate::failure::Failure;
use crate::kept::{self, Kept};
use crate::plan::print;

/// Removes what dead launchers left and says what it was.
pub async fn cleanup(args: &CleanupArgs) -> Result<u8, Failure> {
    if let Some(name) = &args.kept {
        return forget(name);
    }
    let backend = backend::with_remains().await?;
    let report = backend::sweep_all(&*backend).await?;
    print(&told(&report))?;
    if report.failed.is_empty() {
        return Ok(0);
    }
    let failed = report.failed.iter().map(|(what, problem)| format!("{what}: {problem}"));
    Err(Failure::LeftBehind(failed.collect()))
}

/// Drops kept work.
fn forget(name: &str) -> Result<u8, Failure> {
    let known = kept::all();
    let dropped: Vec<Kept> = if name.is_empty() {
        known
    } else {
        match kept::find(name) {
            Some(kept) => vec![kept],
            None => {
                return Err(Failure::NothingKept {
                    name: name.to_owned(),
                    known: known.into_iter().map(|kept| kept.slug).collect(),
                });
            }
        }
    };
    let mut lines = String::new();
    for kept in &dropped {
        kept::forget(kept)?;
        lines.push_str(&format!("dropped the work of {}\n", kept.slug));
    }
    if dropped.is_empty() {
        lines.push_str("no work is kept\n");
    }
    print(&lines)
}

fn told(report: &SweepReport) -> String {
    let mut lines = Vec::new();
    for resource in &report.removed {
        let kind = match resource.kind {
            ResourceKind::Container => "container",
            ResourceKind::Network => "network",
            ResourceKind::Volume => "volume",
        };
        lines.push(format!("removed {kind} {}\n", resource.name));
    }
    lines.extend(
        report
            .directories
            .iter()
            .map(|path| format!("removed directory {}\n", path.display())),
    );
    if lines.is_empty() && report.failed.is_empty() {
        lines.push("nothing to remove\n".to_owned());
    }
    if report.alive > 0 {
        lines.push(format!(
            "{} objects belong to bottles that run, and stay\n",
            report.alive
        ));
    }
    if report.foreign > 0 {
        lines.push(format!(
            "{} objects belong to launchers that cannot be looked up from here, and stay\n",
            report.foreign
        ));
    }
    lines.concat()
}
