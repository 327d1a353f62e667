//! The exit status of a run as a whole. The numbers and what they mean are [`probe_spec::ExitCode`]'s.

use bottle_reports::Standing;
use probe_spec::ExitCode;

/// The exit status of a run that stands like this.
pub fn of(standing: Standing) -> ExitCode {
    match standing {
        Standing::Held => ExitCode::Held,
        Standing::Breached => ExitCode::Breached,
        Standing::Inconclusive => ExitCode::Inconclusive,
        Standing::Error => ExitCode::HarnessError,
        Standing::ExpiredWaiver => ExitCode::ExpiredWaiver,
        Standing::NothingRan => ExitCode::NothingRan,
        Standing::Interrupted => ExitCode::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Standing::Held, 0)]
    #[case(Standing::Breached, 1)]
    #[case(Standing::Inconclusive, 2)]
    #[case(Standing::Error, 3)]
    #[case(Standing::NothingRan, 4)]
    #[case(Standing::ExpiredWaiver, 5)]
    #[case(Standing::Interrupted, 130)]
    fn numbers_of_record(#[case] standing: Standing, #[case] code: u8) {
        assert_eq!(of(standing).code(), code);
    }
}
