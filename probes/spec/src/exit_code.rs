//! What the exit status of `bottle-conform` says.

use crate::Verdict;

/// Exit statuses of `bottle-conform`. 64, 69 and 130 are those of `sysexits.h` and of shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was asked for held (or is not applicable, residual within budget, or waived).
    Held = 0,
    /// At least one case is breached.
    Breached = 1,
    /// None is breached, but a part of at least one proof is missing.
    Inconclusive = 2,
    /// None is breached, but the suite itself failed for at least one case.
    HarnessError = 3,
    /// Not a single case was run.
    NothingRan = 4,
    /// All is well except that a waiver has expired.
    ExpiredWaiver = 5,
    /// The command line or a file given on it was not understood.
    Usage = 64,
    /// There is no backend to run on.
    NoBackend = 69,
    /// Interrupted by the operator.
    Interrupted = 130,
}

impl ExitCode {
    /// All of them, in numeric order.
    pub const ALL: &'static [Self] = &[
        Self::Held,
        Self::Breached,
        Self::Inconclusive,
        Self::HarnessError,
        Self::NothingRan,
        Self::ExpiredWaiver,
        Self::Usage,
        Self::NoBackend,
        Self::Interrupted,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for a help text.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Held => "everything held",
            Self::Breached => "at least one case is breached",
            Self::Inconclusive => "at least one case is inconclusive, none is breached",
            Self::HarnessError => "the suite itself failed for at least one case, none is breached",
            Self::NothingRan => "nothing ran",
            Self::ExpiredWaiver => "a waiver has expired",
            Self::Usage => "the command line was not understood",
            Self::NoBackend => "no backend is available",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The exit status for these verdicts.
///
/// A breach outweighs everything; then the suite's own failure (it may hide a breach); then missing proof; then waivers that
/// have expired. Cells that are not applicable do not count as having run.
pub fn exit_code(verdicts: impl IntoIterator<Item = Verdict>, expired_waivers: usize) -> ExitCode {
    let mut worst = ExitCode::NothingRan;
    for verdict in verdicts {
        let code = match verdict {
            Verdict::NotApplicable => continue,
            Verdict::Held | Verdict::Residual | Verdict::Waived => ExitCode::Held,
            Verdict::Inconclusive => ExitCode::Inconclusive,
            Verdict::Error => ExitCode::HarnessError,
            Verdict::Breached => return ExitCode::Breached,
        };
        if rank(code) > rank(worst) {
            worst = code;
        }
    }
    match worst {
        ExitCode::Held if expired_waivers > 0 => ExitCode::ExpiredWaiver,
        other => other,
    }
}

fn rank(code: ExitCode) -> u8 {
    match code {
        ExitCode::NothingRan => 0,
        ExitCode::Held => 1,
        ExitCode::Inconclusive => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use Verdict::*;

    #[rstest]
    #[case(&[], 0, ExitCode::NothingRan)]
    #[case(&[NotApplicable, NotApplicable], 0, ExitCode::NothingRan)]
    #[case(&[NotApplicable, Held], 0, ExitCode::Held)]
    #[case(&[Waived, Residual], 0, ExitCode::Held)]
    #[case(&[Held], 1, ExitCode::ExpiredWaiver)]
    #[case(&[Held, Inconclusive], 1, ExitCode::Inconclusive)]
    #[case(&[Inconclusive, Error, Held], 0, ExitCode::HarnessError)]
    #[case(&[Error, Inconclusive], 0, ExitCode::HarnessError)]
    #[case(&[Error, Breached, Inconclusive], 2, ExitCode::Breached)]
    fn precedence(#[case] verdicts: &[Verdict], #[case] expired: usize, #[case] code: ExitCode) {
        assert_eq!(exit_code(verdicts.iter().copied(), expired), code);
    }

    #[test]
    fn numbers_of_record() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 64, 69, 130]);
    }
}
