//! HE-20 and HE-24: what a machine shares with its host, and the process of the host that it is.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bottle_plan::MountSource;
use bottle_policy::SHARED_DIR;
use bottle_smolvm::{Settings, USERS};
use probe_spec::{Action, ProcessCheck, RunnerCase, Vantage};

use super::{Observation, Together};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::facts::of_process;
use crate::selection::CaseCell;

/// Has the guest attack files of the host that everybody may write, in a share that is read-only. One agent attempts all cases.
pub async fn share(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let attacked = &target.shared.attacked_share;
    Ok(attacked.get_or_try_init(|| attacks(target, cell)).await?.of(cell))
}

async fn attacks(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let (mut together, cases) = Together::begin(cell);
    let mounts = &target.fixture.bottle.plan().guest.mounts;
    let source = mounts.iter().find(|mount| mount.target == SHARED_DIR);
    let Some(MountSource::Volume(volume)) = source.map(|mount| &mount.source) else {
        for observed in together.each() {
            observed.issued = false;
            observed.note("the bottle shares no volume with its guest");
        }
        return Ok(together);
    };
    let share = Settings::from_env().shared(volume);
    let mut planted = Vec::new();
    let mut actions = Vec::new();
    for case in &cases {
        let RunnerCase::ReadOnlyShare(how) = case.what else {
            continue;
        };
        let name = format!("probe-{}", &case.nonce.as_str()[2..10]);
        let place = Planted::new(share.join(&name))?;
        let before = place.listing()?;
        let directory = format!("{SHARED_DIR}/{name}");
        actions.push((case, case.nonce.clone(), Action::WriteShare { how, directory }));
        planted.push((case, place, before));
    }
    together.attempt(target.fixture, actions).await;
    for (case, place, before) in &planted {
        let after = place.listing()?;
        if let Some(observed) = together.member(case) {
            observed.findings.extend(differences(before, &after));
        }
    }
    Ok(together)
}

/// A directory of the host for one case, with a file. It goes when it is dropped.
struct Planted(PathBuf);

impl Planted {
    fn new(directory: PathBuf) -> Result<Self, SuiteError> {
        let planted = Self(directory);
        planted.tell(plant(&planted.0))?;
        Ok(planted)
    }

    fn listing(&self) -> Result<BTreeMap<String, String>, SuiteError> {
        self.tell(listing(&self.0))
    }

    fn tell<T>(&self, outcome: std::io::Result<T>) -> Result<T, SuiteError> {
        outcome.map_err(|source| SuiteError::Path {
            path: self.0.clone(),
            source,
        })
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        // Else it goes with the bottle's share.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn plant(directory: &Path) -> std::io::Result<()> {
    let (file, everybody) = (directory.join("marker"), std::fs::Permissions::from_mode);
    std::fs::create_dir(directory)?;
    std::fs::set_permissions(directory, everybody(0o777))?;
    std::fs::write(&file, "of the host")?;
    std::fs::set_permissions(&file, everybody(0o666))
}

/// What is in a directory: of each file its mode, attributes and content.
fn listing(directory: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let about = std::fs::symlink_metadata(&path)?;
        let content = if about.is_file() {
            String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()
        } else {
            String::new()
        };
        let mut attributes = [0; 4096];
        // A file system without attributes has none.
        let length = rustix::fs::llistxattr(&path, &mut attributes).unwrap_or_default();
        let attributes = String::from_utf8_lossy(&attributes[..length]).replace('\0', " ");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.insert(
            name,
            format!(
                "mode {:o}, attributes `{attributes}`, content `{content}`",
                about.mode()
            ),
        );
    }
    Ok(found)
}

fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    let told = |what: Option<&String>| what.cloned().unwrap_or_else(|| "nothing".to_owned());
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            format!(
                "the host's file {name} was {} and is {}",
                told(before.get(name)),
                told(after.get(name))
            )
        })
        .collect()
}

/// Looks at the process that is the machine.
pub fn process(target: &Target<'_>, check: ProcessCheck) -> Result<Observation, SuiteError> {
    let stand_in = target.fixture.removed.lax_process.then(StandIn::start).transpose()?;
    let pid = match &stand_in {
        Some(stand_in) => i32::try_from(stand_in.0.id()).ok(),
        None => target.fixture.bottle.guest().pid,
    };
    let Some(pid) = pid else {
        return Ok(Observation::not_issued("smolvm names no process of the machine"));
    };
    let facts: BTreeMap<String, String> = of_process(pid).into_iter().collect();
    let Some(users) = facts.get("Uid") else {
        return Ok(Observation::not_issued(format!("process {pid} is not there")));
    };
    let mut observed = Observation {
        issued: true,
        ..Observation::default()
    };
    observed.alive.push(Vantage::HostProcess);
    observed.note(format!("process {pid}: {facts:?}"));
    let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
    match check {
        ProcessCheck::User if !rustix::process::geteuid().is_root() && stand_in.is_none() => {
            return Ok(Observation::not_issued(
                "smolvm gives machines users of their own only when root runs it",
            ));
        }
        ProcessCheck::User => observed.findings.extend(of_user(users, &fact("Groups"), kvm_group())),
        ProcessCheck::Capabilities => {
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                if fact(set).bytes().any(|digit| digit != b'0') {
                    observed.findings.push(format!("{set} is {}", fact(set)));
                }
            }
        }
        ProcessCheck::NoNewPrivileges if fact("NoNewPrivs") != "1" => {
            observed
                .findings
                .push(format!("no_new_privs is {}", fact("NoNewPrivs")));
        }
        ProcessCheck::NoNewPrivileges => {}
        ProcessCheck::Descriptors => match open_files(pid) {
            Ok(open) => {
                observed.note(format!("{} files are open", open.len()));
                let own = own_places();
                let strange = open.into_iter().filter(|(_, path)| !is_own(path, pid, &own));
                observed
                    .findings
                    .extend(strange.map(|(what, path)| format!("{what} leads to {}", path.display())));
            }
            Err(error) => return Ok(Observation::not_issued(format!("/proc/{pid}/fd: {error}"))),
        },
        ProcessCheck::Session => {
            let session = |pid| rustix::process::getsid(pid).ok();
            let of_it = session(rustix::process::Pid::from_raw(pid));
            observed.note(format!("session {of_it:?}"));
            if of_it == session(None) {
                observed.findings.push("it is in the launcher's session".to_owned());
            }
        }
    }
    Ok(observed)
}

/// What is wrong with the user: `users` are real, effective, saved and of files.
fn of_user(users: &str, groups: &str, kvm: Option<u32>) -> Vec<String> {
    let numbers = |text: &str| -> Vec<u32> { text.split(' ').filter_map(|number| number.parse().ok()).collect() };
    let mut wrong = Vec::new();
    let all = numbers(users);
    if all.len() != 4 || all.iter().any(|user| !USERS.contains(user) || *user != all[0]) {
        wrong.push(format!("it runs as {users}, not as a user of its own"));
    }
    let more: Vec<u32> = numbers(groups)
        .into_iter()
        .filter(|group| Some(*group) != kvm)
        .collect();
    if !more.is_empty() {
        wrong.push(format!("it is a member of the groups {more:?}"));
    }
    wrong
}

fn kvm_group() -> Option<u32> {
    std::fs::metadata("/dev/kvm").ok().map(|about| about.gid())
}

/// Open files, working directory and root of a process, and where they lead.
fn open_files(pid: i32) -> std::io::Result<Vec<(String, PathBuf)>> {
    let place = PathBuf::from(format!("/proc/{pid}"));
    let mut open = Vec::new();
    for what in ["cwd", "root"] {
        open.push((what.to_owned(), std::fs::read_link(place.join(what))?));
    }
    for entry in std::fs::read_dir(place.join("fd"))? {
        let entry = entry?;
        // One that was closed meanwhile leads nowhere.
        if let Ok(path) = std::fs::read_link(entry.path()) {
            open.push((format!("descriptor {}", entry.file_name().to_string_lossy()), path));
        }
    }
    Ok(open)
}

/// Directories of smolvm and of what the bottle gives a machine.
fn own_places() -> Vec<PathBuf> {
    let settings = Settings::from_env();
    let mut places = vec![settings.state.clone(), settings.cache.clone()];
    let real = settings
        .find_program()
        .ok()
        .and_then(|program| program.canonicalize().ok());
    places.extend(real.and_then(|program| program.parent().map(Path::to_owned)));
    places
}

fn is_own(path: &Path, pid: i32, places: &[PathBuf]) -> bool {
    const KINDS: [&str; 4] = ["anon_inode:", "socket:", "pipe:", "/memfd:"];
    const FILES: [&str; 4] = ["/", "/dev/null", "/dev/kvm", "/dev/net/tun"];
    let text = path.to_string_lossy();
    KINDS.iter().any(|kind| text.starts_with(kind))
        || FILES.contains(&text.as_ref())
        || path.starts_with(format!("/proc/{pid}"))
        || places.iter().any(|place| path.starts_with(place))
}

/// What stands for the process of a machine in K-VMM-LAX. It ends with the look at it.
struct StandIn(Child);

impl StandIn {
    fn start() -> Result<Self, SuiteError> {
        let outside = std::env::temp_dir();
        let failed = |source| SuiteError::Path {
            path: outside.clone(),
            source,
        };
        let directory = std::fs::File::open(&outside).map_err(failed)?;
        let child = Command::new("sleep")
            .arg("60")
            .stdin(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Self).map_err(failed)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("2000001 2000001 2000001 2000001", "104", &[])]
    #[case("2000001 2000001 2000001 2000001", "", &[])]
    #[case("2000001 0 2000001 2000001", "", &["it runs as 2000001 0 2000001 2000001, not as a user of its own"])]
    #[case("0 0 0 0", "0 27", &["it runs as 0 0 0 0, not as a user of its own", "it is a member of the groups [0, 27]"])]
    #[case("", "", &["it runs as , not as a user of its own"])]
    fn a_machine_is_a_user_of_its_own(#[case] users: &str, #[case] groups: &str, #[case] expected: &[&str]) {
        assert_eq!(of_user(users, groups, Some(104)), expected);
    }

    #[rstest]
    #[case("anon_inode:[eventfd]", true)]
    #[case("/proc/7/fd", true)]
    #[case("/proc/70/fd", false)]
    #[case("/var/lib/bottle/smolvm/machines/x", true)]
    #[case("/var/lib/bottle/smolvm-x", false)]
    #[case("/", true)]
    #[case("/home/me/project", false)]
    fn files_of_others_are_told_from_a_machines(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(is_own(Path::new(path), 7, &["/var/lib/bottle/smolvm".into()]), expected);
    }

    #[test]
    fn a_change_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("place");
        plant(&place).unwrap();
        let before = listing(&place).unwrap();
        assert!(differences(&before, &listing(&place).unwrap()).is_empty());
        std::fs::rename(place.join("marker"), place.join("renamed")).unwrap();
        let after = listing(&place).unwrap();
        assert_eq!(differences(&before, &after).len(), 2, "{after:?}");
    }

    #[test]
    fn the_stand_in_is_everything_that_a_machine_is_not() {
        let stand_in = StandIn::start().unwrap();
        let pid = i32::try_from(stand_in.0.id()).unwrap();
        let open = open_files(pid).unwrap();
        assert!(open.iter().any(|(_, path)| *path == std::env::temp_dir()), "{open:?}");
    }
}
