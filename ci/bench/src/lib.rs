//! What the benchmarks share: order statistics and the way figures are printed. Every figure stands beside what one would
//! use instead, measured in the same run, and is read as a ratio.
#![warn(missing_docs)]

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bottle_docker::{BuiltImage, program_image};

use comfy_table::{Table, presets};

/// The shell of guests: what Debian's `busybox-static` installs.
pub const BUSYBOX: &str = "/bin/busybox";

/// An image with one static program.
pub fn image(program: &Path, repository: &str, path: &str) -> anyhow::Result<BuiltImage> {
    let bytes =
        std::fs::read(program).with_context(|| format!("expected a static program at {}", program.display()))?;
    Ok(program_image(repository, path, &bytes, None)?)
}

/// Samples of a duration.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds those of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which this share (0 to 1) of the samples lies; zero when there is none.
    pub fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.0.get(at.min(last)).copied().unwrap_or_default()
    }

    /// The median.
    pub fn median(&mut self) -> Duration {
        self.quantile(0.5)
    }
}

/// Milliseconds with three significant digits.
pub fn milliseconds(duration: Duration) -> String {
    let value = duration.as_secs_f64() * 1e3;
    match value {
        value if value >= 100.0 => format!("{value:.0} ms"),
        value if value >= 10.0 => format!("{value:.1} ms"),
        value if value >= 1.0 => format!("{value:.2} ms"),
        value => format!("{:.1} us", value * 1e3),
    }
}

/// Prints a table that can stand in the README.
pub fn print(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    println!("\n{title} ({})\n\n{table}", machine());
}

/// The machine's size, without which a figure says nothing.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or_else(
            || "unknown memory".to_owned(),
            |kib| format!("{} GiB", kib.div_ceil(1 << 20)),
        );
    format!("{cores} cores, {memory}")
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_samples() {
        let mut samples = Samples::default();
        for ms in (1..=101).rev() {
            samples.push(Duration::from_millis(ms));
        }
        assert_eq!(samples.median(), Duration::from_millis(51));
        assert_eq!(samples.quantile(0.99), Duration::from_millis(100));
        assert_eq!(samples.quantile(1.0), Duration::from_millis(101));
    }
}
