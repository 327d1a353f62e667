//! Who made what: the labels by which a dead launcher's remains are told from those of a live one.

use std::collections::BTreeMap;

use bottle_backend::Labels;
use bottle_plan::{LABEL_OWNER_PID, LABEL_OWNER_START, LABEL_ROLE, LABEL_RUN, LABEL_SLUG};

/// Label: where the owner's process id means something (`BOOT-ID/PID-NAMESPACE`), so that a process of another machine,
/// container or boot is never mistaken for one of ours.
pub const LABEL_OWNER_WHERE: &str = "bottle.owner-where";
/// Label: when it was made, in seconds since 1970.
pub const LABEL_MADE: &str = "bottle.made";

/// A launcher process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Process id.
    pub pid: i32,
    /// `/proc/PID/stat` field 22; 0 where there is no `/proc`.
    pub start: u64,
    /// [`LABEL_OWNER_WHERE`].
    pub place: String,
}

/// Whether an owner lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It does.
    Alive,
    /// It is gone, or its id is now another process's.
    Dead,
    /// It is from another machine, boot or process namespace, and cannot be looked up from here.
    Foreign,
}

impl Owner {
    /// This process.
    pub fn current() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self {
            pid,
            start: start_of(pid).unwrap_or(0),
            place: place(),
        }
    }

    /// The owner in these labels; `None` when they are not complete.
    pub fn of(labels: &Labels) -> Option<Self> {
        let place = labels.get(LABEL_OWNER_WHERE)?.clone();
        Self::read(labels.get(LABEL_OWNER_PID)?, labels.get(LABEL_OWNER_START)?, place)
    }

    /// The owner in what was written down of it; `None` where that is no process's.
    pub(crate) fn read(pid: &str, start: &str, place: String) -> Option<Self> {
        Some(Self {
            pid: pid.parse().ok().filter(|pid| *pid > 0)?,
            start: start.parse().ok()?,
            place,
        })
    }

    /// Whether it lives.
    pub fn state(&self) -> OwnerState {
        if self.place != place() {
            return OwnerState::Foreign;
        }
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else {
            return OwnerState::Dead;
        };
        // EPERM means that it exists.
        if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return OwnerState::Dead;
        }
        match start_of(self.pid) {
            Some(start) if start != self.start => OwnerState::Dead,
            // A zombie still has its entry; it is dead all the same.
            Some(_) if is_zombie(self.pid) => OwnerState::Dead,
            _ => OwnerState::Alive,
        }
    }
}

/// Labels of this process's things that belong to `run`, without slug and role. Whatever a runner makes beside bottles
/// (witnesses) gets them too, so that the sweep finds it.
pub fn owner_labels(run: &str) -> Labels {
    let owner = Owner::current();
    let made = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    BTreeMap::from([
        (LABEL_RUN.to_owned(), run.to_owned()),
        (LABEL_OWNER_PID.to_owned(), owner.pid.to_string()),
        (LABEL_OWNER_START.to_owned(), owner.start.to_string()),
        (LABEL_OWNER_WHERE.to_owned(), owner.place),
        (LABEL_MADE.to_owned(), made.to_string()),
    ])
}

/// [`owner_labels`] with slug and role.
pub fn labels(slug: &str, run: &str, role: &str) -> Labels {
    let mut labels = owner_labels(run);
    labels.insert(LABEL_SLUG.to_owned(), slug.to_owned());
    labels.insert(LABEL_ROLE.to_owned(), role.to_owned());
    labels
}

fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid")
        .map(|link| link.display().to_string())
        .unwrap_or_default();
    if boot.is_empty() {
        // No `/proc` (macOS): the host's name is the best that every process of the machine agrees on.
        return format!("host {}", rustix::system::uname().nodename().to_string_lossy());
    }
    format!("{}/{namespace}", boot.trim())
}

/// Fields of `/proc/PID/stat` from the third on. The second, the program's name, may contain blanks and parentheses.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 1..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn start_of(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z" || state == "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_is_in_its_own_labels() {
        let labels = labels("slug", "run", "guest");
        let owner = Owner::of(&labels).unwrap();
        assert_eq!(owner, Owner::current());
        assert_eq!(owner.state(), OwnerState::Alive);
    }

    #[test]
    fn a_reused_id_is_another_process() {
        let owner = Owner {
            start: Owner::current().start + 1,
            ..Owner::current()
        };
        assert_eq!(owner.state(), OwnerState::Dead);
    }

    #[test]
    fn an_ended_process_is_dead_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let owner = Owner {
            pid,
            start: start_of(pid).unwrap(),
            place: place(),
        };
        while !is_zombie(pid) {
            std::thread::yield_now();
        }
        assert_eq!(owner.state(), OwnerState::Dead);
        child.wait().unwrap();
        assert_eq!(owner.state(), OwnerState::Dead);
    }

    #[test]
    fn another_machine_cannot_be_judged() {
        let owner = Owner {
            place: "elsewhere".to_owned(),
            ..Owner::current()
        };
        assert_eq!(owner.state(), OwnerState::Foreign);
    }

    #[test]
    fn incomplete_labels_have_no_owner() {
        let mut labels = owner_labels("run");
        labels.remove(LABEL_OWNER_WHERE);
        assert_eq!(Owner::of(&labels), None);
    }
}
