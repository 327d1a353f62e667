//! What a bottle stands on goes away: its terminal, its disk, its engine.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bottle_backend::{Backend, Labels};
use bottle_plan::{LABEL_OWNER_PID, LABEL_SLUG, VolumePlan};
use rstest::rstest;
use rustix::process::Signal;
use rustix::termios::tcgetattr;

use crate::run::terminal;
use crate::second::SecondEngine;
use crate::site::{Launched, Listener, Site, code, load_shell_image, on_engine, send, text, wait_code};

/// Within what time of the next command everything of a dead bottle must be gone.
const BOUND: Duration = Duration::from_secs(10);

#[rstest]
#[case("sleep 600")]
// The agent does not notice, or does not care.
#[case("trap '' HUP; while :; do sleep 1; done")]
fn a_closed_terminal_ends_the_bottle(#[case] then: &str) {
    let Some(site) = Site::new() else { return };
    let (ours, theirs) = terminal();
    let mut command = site.run_on_terminal();
    command.args(["sh", "-c", &format!("echo is-$((1+1)); {then}")]);
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
    drop(theirs);
    let mut screen = File::from(ours);
    let mut seen = Vec::new();
    while !text(&seen).contains("is-2") {
        let mut buffer = [0; 256];
        let count = screen.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    let slug = site.slug();
    let begun = Instant::now();
    // Nobody has the other end any more.
    drop((screen, command));
    wait_code(&mut child);
    assert!(
        begun.elapsed() < BOUND + Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let left = on_engine(async |docker| docker.inventory(LABEL_SLUG, Some(&slug)).await.unwrap());
    assert_eq!(left, []);
    assert_eq!(std::fs::read_dir(site.state().join("bottles")).unwrap().count(), 0);
}

/// A bottle on a terminal that is raw by now.
struct OnTerminal {
    child: Launched,
    /// What its operator sees; the terminal is there as long as this is.
    _screen: Listener,
    terminal: File,
    before: String,
}

impl OnTerminal {
    fn start(site: &Site) -> Self {
        let (ours, theirs) = terminal();
        let before = settings(&theirs);
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let mut command = site.run_on_terminal();
        // What is shown before the launch has the command as it was written.
        command.args(["sh", "-c", "echo is-$((1+1)); sleep 600"]);
        let child = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
        let mut screen = Listener::new(File::from(ours));
        screen.wait_for("is-2");
        assert_ne!(settings(&theirs), before);
        Self {
            child,
            _screen: screen,
            terminal: theirs,
            before,
        }
    }
}

fn settings(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

#[test]
fn a_hang_up_restores_a_terminal_that_is_still_there() {
    let Some(site) = Site::new() else { return };
    let mut on = OnTerminal::start(&site);
    send(&on.child, Signal::HUP);
    wait_code(&mut on.child);
    assert_eq!(settings(&on.terminal), on.before);
    site.nothing_is_left(on.child.id());
}

#[test]
fn a_terminal_is_restored_after_a_launcher_that_was_killed() {
    let Some(site) = Site::new() else { return };
    let mut on = OnTerminal::start(&site);
    let begun = Instant::now();
    on.child.kill().unwrap();
    on.child.wait().unwrap();
    while settings(&on.terminal) != on.before {
        assert!(begun.elapsed() < BOUND);
        std::thread::sleep(Duration::from_millis(20));
    }
    site.clean_up(on.child.id());
}

/// `bottle run` of a script with its state directory on a file system of so many KiB, of which so many are taken. The file
/// system is in a mount namespace of its own, and goes with it.
fn on_small_disk(site: &Site, kibibytes: u32, taken: u32, script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: a file system of the test's own needs root");
        return None;
    }
    std::fs::create_dir_all(site.state()).unwrap();
    let mut command = Command::new("unshare");
    site.prepare(&mut command).args(["--mount", "sh", "-c"]).arg(format!(
        "mount -t tmpfs -o mode=700,size={kibibytes}k none state && head -c {taken}k /dev/zero > state/taken; \
         {bottle} run -y -b dev -- sh -c '{script}'; code=$?; ls state/bottles; exit $code",
        bottle = env!("CARGO_BIN_EXE_bottle")
    ));
    Some(command.output().unwrap())
}

#[test]
fn a_full_disk_under_the_state_directory_fails_the_launch_and_says_what_to_do() {
    let Some(site) = Site::new() else { return };
    let Some(output) = on_small_disk(&site, 64, 56, "true") else {
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(code(&output), 70, "{said}");
    for expected in [
        "state directory, ",
        "No space left on device",
        "free some of that disk, or set BOTTLE_STATE_DIR",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said:?}");
    }
    assert_eq!(text(&output.stdout), "", "its directory is gone");
}

#[test]
fn a_disk_that_fills_up_while_the_command_runs_costs_the_journal_only() {
    let Some(site) = Site::new() else { return };
    let script =
        "i=0; while [ $i -lt 300 ]; do wget -qO- http://denied.test/ 2>/dev/null; i=$((i+1)); done; echo done; exit 5";
    let Some(output) = on_small_disk(&site, 80, 0, script) else {
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (5, "done\n".to_owned()),
        "{said}"
    );
    assert!(
        said.contains("No space left on device") && said.contains("no more events are written"),
        "{said}"
    );
    assert!(said.contains("300"), "all refusals are counted: {said}");
}

/// A volume of nobody's, with a name like a bottle's own.
fn foreign(engine: &SecondEngine) -> String {
    let plan = VolumePlan {
        name: "bottle-dev-foreign-shared".to_owned(),
        role: "shared".to_owned(),
        tmpfs_bytes: None,
    };
    engine.on(async |docker| docker.create_volume(&plan, &Labels::new()).await.unwrap());
    plan.name
}

#[test]
fn an_engine_without_space_fails_the_launch_and_says_what_to_do() {
    let Some(engine) = SecondEngine::start(Some(64)) else {
        return;
    };
    let Some(site) = Site::new() else { return };
    engine.on(async |docker| load_shell_image(&docker).await);
    // Room for less than the bundle's image.
    let free = rustix::fs::statvfs(engine.data()).unwrap();
    let free = free.f_bavail * free.f_frsize;
    let taken = File::create(engine.data().join("taken")).unwrap();
    rustix::fs::fallocate(
        &taken,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.saturating_sub(4 << 20),
    )
    .unwrap();
    let output = site
        .run_shell("sealed", "true")
        .env("DOCKER_HOST", engine.host())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(code(&output), 70, "{said}");
    for expected in [
        "loading the bundle's image",
        "no space left on device",
        "free some of it",
    ] {
        assert!(said.to_lowercase().contains(expected), "{expected:?} in {said:?}");
    }
    let left = engine.on(async |docker| docker.inventory(LABEL_OWNER_PID, None).await.unwrap());
    assert_eq!(left, []);
    assert_eq!(std::fs::read_dir(site.state().join("bottles")).unwrap().count(), 0);
    // With room again, the same command works.
    drop(taken);
    std::fs::remove_file(engine.data().join("taken")).unwrap();
    let output = site
        .run_shell("sealed", "exit 3")
        .env("DOCKER_HOST", engine.host())
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
}

#[rstest]
// Stopped as by an update, and killed as by the kernel.
#[case(Signal::TERM)]
#[case(Signal::KILL)]
fn an_engine_restarted_under_a_live_bottle_leaves_nothing_of_it(#[case] signal: Signal) {
    let Some(mut engine) = SecondEngine::start(None) else {
        return;
    };
    let Some(site) = Site::new() else { return };
    engine.on(async |docker| load_shell_image(&docker).await);
    let foreign = foreign(&engine);
    let mut child = Launched::start(
        site.run_shell("sealed", "echo ready; sleep 600")
            .env("DOCKER_HOST", engine.host()),
    );
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    engine.down(signal);
    engine.up();
    // Its bottle is gone or not its own to watch any more: it must not stay for ever, nor report success.
    let ended = wait_code(&mut child);
    assert_ne!(ended, 0);
    let begun = Instant::now();
    loop {
        let listed = site.bottle(&["ps"]).env("DOCKER_HOST", engine.host()).output().unwrap();
        assert_eq!(code(&listed), 0, "{}", text(&listed.stderr));
        let left = engine.on(async |docker| docker.inventory(LABEL_OWNER_PID, None).await.unwrap());
        let directories = std::fs::read_dir(site.state().join("bottles")).unwrap().count();
        if left.is_empty() && directories == 0 {
            break;
        }
        assert!(begun.elapsed() < BOUND, "{left:?}, {directories} directories");
    }
    let stays = engine.data().join("volumes").join(foreign);
    assert!(stays.is_dir(), "somebody else's volume is gone: {}", stays.display());
}

/// Every spelling in which a text may stand on a disk: raw, in hex, and in base64 at each of its three phases.
fn spellings(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let base64 = (0..3).map(|phase| {
        let encoded = base64(&[&b"xx"[..phase], secret.as_bytes()].concat());
        // What is the same whatever stands before and after.
        encoded[4..encoded.len() - 4].to_owned()
    });
    [secret.to_owned(), hex.to_uppercase(), hex]
        .into_iter()
        .chain(base64)
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|group| {
            let bits = (0..3).fold(0u32, |bits, at| {
                bits << 8 | u32::from(group.get(at).copied().unwrap_or(0))
            });
            (0..=group.len()).map(move |at| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]))
        })
        .collect()
}

/// Files below these directories that have one of the texts.
fn found(texts: &[String], places: &[&Path]) -> Vec<String> {
    let mut command = Command::new("grep");
    command.args([
        "--recursive",
        "--text",
        "--files-with-matches",
        "--fixed-strings",
        "--no-messages",
        "--devices=skip",
    ]);
    texts.iter().for_each(|text| {
        command.arg("-e").arg(text);
    });
    let output = command.args(places).output().unwrap();
    // 2: a file went while it was looked at.
    assert!(output.status.code().is_some(), "{output:?}");
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn no_token_and_no_key_is_on_any_disk_while_a_bottle_runs_or_afterwards() {
    let Some(engine) = SecondEngine::start(None) else {
        return;
    };
    let Some(site) = Site::new() else { return };
    engine.on(async |docker| load_shell_image(&docker).await);
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let token = format!("sentinel{}", random.trim().replace('-', ""));
    let manifest = std::fs::read_to_string(site.directory.path().join("bottle.yaml")).unwrap();
    let routed = manifest.replace("image: x\n", &format!("image: {}\n", crate::site::shell_image()));
    std::fs::write(site.directory.path().join("bottle.yaml"), routed).unwrap();
    let temporary = site.directory.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let script = "wget -qO- http://a.test/ 2>/dev/null; wget -qO- https://a.test/ 2>/dev/null; echo ready; read line";
    let record = site.directory.path().join("record");
    let mut command = site.bottle(&["run", "-y", "-b", "keyed", "--record"]);
    command.arg(&record).args(["--", "sh", "-c", script]);
    command
        .env("DOCKER_HOST", engine.host())
        .env("BOTTLE_TEST_ABSENT", &token)
        .env("TMPDIR", &temporary);
    let mut child = Launched::start(command.stdin(Stdio::piped()));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    let state = site.state();
    modes(&state);
    let data = engine.data();
    let places = [
        data.as_path(),
        site.directory.path(),
        &temporary,
        Path::new("/run/bottle"),
        Path::new("/var/lib/bottle"),
    ];
    // The bundle's and the launcher's programs have PEM's words in them, and no key; a key is base64 of DER after them.
    let key = ["-----BEGIN PRIVATE KEY-----\nM".to_owned()];
    let secrets = spellings(&token);
    assert_eq!(found(&secrets, &places), Vec::<String>::new(), "while it runs");
    assert_eq!(
        with_key(&found(&["PRIVATE KEY-----".to_owned()], &places), &key[0]),
        Vec::<String>::new()
    );
    drop(child.stdin.take());
    wait_code(&mut child);
    assert_eq!(found(&secrets, &places), Vec::<String>::new(), "afterwards");
    // The search works: it finds each spelling where it stands.
    for (number, spelling) in secrets.iter().enumerate() {
        let canary = data.join(format!("canary-{number}"));
        std::fs::write(&canary, [b"\0\xff", spelling.as_bytes(), b"\0"].concat()).unwrap();
        assert_eq!(found(&secrets, &places), [canary.display().to_string()]);
        std::fs::remove_file(canary).unwrap();
    }
    let verified = site.bottle(&["verify"]).arg(&record).output().unwrap();
    assert_eq!(code(&verified), 0, "{}", text(&verified.stderr));
    assert!(
        text(&verified.stdout).contains("events, whole; last link "),
        "{}",
        text(&verified.stdout)
    );
    let record_text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, record_text.replacen("deny", "allow", 1)).unwrap();
    let verified = site.bottle(&["verify"]).arg(&record).output().unwrap();
    assert_eq!(code(&verified), 70);
    assert!(
        text(&verified.stderr).contains("something was changed or left out"),
        "{}",
        text(&verified.stderr)
    );
}

/// Those of these files in which a private key really stands.
fn with_key(files: &[String], key: &str) -> Vec<String> {
    let has = |file: &&String| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes.windows(key.len()).any(|window| window == key.as_bytes())
    };
    files.iter().filter(has).cloned().collect()
}

/// The state directory and everything in it is its user's only.
fn modes(state: &Path) {
    let mut left = vec![state.to_owned()];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        let mode = found.permissions().mode() & 0o7777;
        if found.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert!(found.is_file(), "{}", path.display());
            assert_eq!(mode, 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert!(files >= 3, "the owner's, the plan's and the journal");
}

#[test]
fn links_and_open_directories_in_place_of_the_state_directory_are_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    let Some(site) = Site::new() else { return };
    let refused = |what: &str| {
        let output = site.run_shell("sealed", "true").output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(code(&output), 70, "{what}: {said}");
        for expected in [
            "state directory, ",
            "expected a directory of this user",
            what,
            "set BOTTLE_STATE_DIR",
        ] {
            assert!(said.contains(expected), "{expected:?} in {said:?}");
        }
        assert_eq!(
            std::fs::read_dir(elsewhere.path()).unwrap().count(),
            0,
            "nothing was written"
        );
    };
    let state = site.state();
    std::os::unix::fs::symlink(elsewhere.path(), &state).unwrap();
    refused("a link");
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory that others may write to");
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "nothing was written");
}

#[test]
fn the_doctor_mends_what_is_safe_to_mend() {
    // Others' tests leave and sweep what this one counts.
    let Some(engine) = SecondEngine::start(None) else {
        return;
    };
    let Some(site) = Site::new() else { return };
    engine.on(async |docker| load_shell_image(&docker).await);
    let mut command = site.run_shell("sealed", "echo ready; sleep 600");
    let mut child = Launched::start(command.env("DOCKER_HOST", engine.host()));
    Listener::new(child.stdout.take().unwrap()).wait_for("ready");
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::set_permissions(site.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let levels = |fix: &[&str]| {
        let output = site
            .bottle(&[&["doctor", "--json", "--no-walls"], fix].concat())
            .env("DOCKER_HOST", engine.host())
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        ["state directory", "leftovers"].map(|subject| {
            let finding = findings
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["subject"] == subject);
            let finding = finding.unwrap();
            let says_how = finding["mend"]
                .as_str()
                .is_some_and(|mend| mend.contains("`bottle doctor --fix`"));
            (finding["level"].as_str().unwrap().to_owned(), says_how)
        })
    };
    let both = |level: &str, says_how| [(level.to_owned(), says_how), (level.to_owned(), says_how)];
    assert_eq!(levels(&[]), both("note", true));
    assert_eq!(levels(&["--fix"]), both("mended", false));
    assert_eq!(levels(&[]), both("good", false));
    let left = engine.on(async |docker| docker.inventory(LABEL_OWNER_PID, None).await.unwrap());
    assert_eq!(left, []);
}
