//! The watchdog's decision: pure, so that every case of it is tested.

use std::time::Duration;

/// Limits of one try.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From QEMU's start until the machine's shell may be used.
    pub boot: Duration,
    /// Longest time in which the console says nothing; the machine writes there every few seconds.
    pub silence: Duration,
    /// From the command's start to its end.
    pub command: Duration,
}

/// What is seen of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Whether QEMU runs.
    pub alive: bool,
    /// How long the machine has been booting, or the command has been running.
    pub phase: Phase,
    /// Since the console last grew.
    pub silent: Duration,
}

/// Where a try is.
#[derive(Debug, Clone, Copy)]
pub enum Phase {
    /// The machine boots.
    Boot(Duration),
    /// The command runs.
    Command(Duration),
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Wait on.
    Wait,
    /// The machine is no good: end it and try once more.
    Broken(&'static str),
    /// The command took longer than it may; trying again would take as long.
    TimedOut,
}

/// Judges what is seen. A dead or silent machine goes before a command that is over its time: there the machine is to blame.
pub fn decide(seen: Seen, limits: Limits) -> Watch {
    if !seen.alive {
        return Watch::Broken("QEMU ended by itself");
    }
    if seen.silent > limits.silence {
        return Watch::Broken("the machine stands still: its console is silent");
    }
    match seen.phase {
        Phase::Boot(since) if since > limits.boot => Watch::Broken("the machine did not boot in time"),
        Phase::Command(since) if since > limits.command => Watch::TimedOut,
        Phase::Boot(_) | Phase::Command(_) => Watch::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        boot: Duration::from_secs(100),
        silence: Duration::from_secs(50),
        command: Duration::from_secs(1000),
    };

    fn at(alive: bool, phase: Phase, silent: u64) -> Watch {
        decide(
            Seen {
                alive,
                phase,
                silent: Duration::from_secs(silent),
            },
            LIMITS,
        )
    }

    fn boot(seconds: u64) -> Phase {
        Phase::Boot(Duration::from_secs(seconds))
    }

    fn command(seconds: u64) -> Phase {
        Phase::Command(Duration::from_secs(seconds))
    }

    #[test]
    fn within_its_limits_a_machine_is_left_alone() {
        assert_eq!(at(true, boot(100), 50), Watch::Wait);
        assert_eq!(at(true, command(1000), 50), Watch::Wait);
    }

    #[test]
    fn a_dead_a_silent_and_a_slow_machine_are_broken() {
        assert!(matches!(at(false, boot(1), 0), Watch::Broken(_)));
        assert!(matches!(at(false, command(1), 0), Watch::Broken(_)));
        assert!(matches!(at(true, command(1), 51), Watch::Broken(_)));
        assert!(matches!(at(true, boot(101), 1), Watch::Broken(_)));
    }

    #[test]
    fn a_slow_command_in_a_live_machine_is_not_tried_again() {
        assert_eq!(at(true, command(1001), 1), Watch::TimedOut);
    }

    #[test]
    fn a_machine_that_stands_still_is_to_blame_for_the_slow_command() {
        assert!(matches!(at(true, command(1001), 51), Watch::Broken(_)));
        assert!(matches!(at(false, command(1001), 0), Watch::Broken(_)));
    }
}
