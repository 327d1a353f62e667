//! Where a run's events end up: the report, the evidence file, progress.

use std::fs::File;
use std::path::{Path, PathBuf};

use bottle_reports::{Event, EvidenceWriter, Report, to_json, to_junit};
use indicatif::ProgressBar;
use probe_spec::ExitCode;
use tokio::sync::mpsc;

use super::CommandError;
use crate::waivers::Waivers;

/// Takes events as they come. Evidence is on disk before the next event is taken.
pub struct Collector {
    report: Report,
    evidence: EvidenceWriter<File>,
    path: PathBuf,
    bar: ProgressBar,
    waivers: Waivers,
}

impl Collector {
    /// Makes the output directory and opens the evidence file in it, emptied.
    pub fn open(out: &Path, bar: ProgressBar, waivers: Waivers) -> Result<Self, CommandError> {
        let path = out.join("evidence.jsonl");
        let failed = |source| CommandError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(out).map_err(failed)?;
        let file = File::create(&path).map_err(failed)?;
        Ok(Self {
            report: Report::default(),
            evidence: EvidenceWriter::new(file),
            path,
            bar,
            waivers,
        })
    }

    /// Takes one event. A verdict is told as the waivers leave it; the evidence file keeps what was seen.
    pub fn take(&mut self, mut event: Event) -> Result<(), CommandError> {
        if let Event::CaseJudged(case) = &mut event {
            self.waivers.apply(case);
            self.bar.inc(1);
            self.bar.set_message(format!("{} {}", case.cell.probe, case.cell.case));
            if let Some(evidence) = &case.evidence {
                let failed = |source| CommandError::Write {
                    path: self.path.clone(),
                    source,
                };
                self.evidence.write(evidence).map_err(failed)?;
            }
        }
        self.report.apply(event);
        Ok(())
    }

    /// Takes events until their senders are gone.
    pub async fn take_all(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<(), CommandError> {
        while let Some(event) = events.recv().await {
            self.take(event)?;
        }
        Ok(())
    }

    /// The report so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Ends the progress bar and hands the report over.
    pub fn finish(self) -> Report {
        self.bar.finish_and_clear();
        self.report
    }
}

/// Writes junit.xml and report.json.
pub fn write_reports(report: &Report, code: ExitCode, out: &Path) -> Result<(), CommandError> {
    for (name, text) in [
        ("junit.xml", to_junit(report)?),
        ("report.json", to_json(report, code.code())?),
    ] {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|source| CommandError::Write { path, source })?;
    }
    Ok(())
}
