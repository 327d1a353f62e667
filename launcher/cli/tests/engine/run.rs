//! `bottle run`: streams, exit codes, signals, terminals, and what is left.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bottle_backend::Backend;
use bottle_plan::LABEL_OWNER_PID;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::site::{Launched, Listener, Site, code, on_engine, send, text, wait_code};

#[test]
fn exit_codes_and_both_outputs() {
    let Some(site) = Site::new() else { return };
    let output = site.shell("sealed", "echo out; echo err >&2; exit 7", b"");
    assert_eq!(
        (code(&output), text(&output.stdout), text(&output.stderr)),
        (7, "out\n".into(), "err\n".into())
    );
}

#[test]
fn bytes_go_through_unchanged_and_end() {
    // Every byte value in every place of a line.
    let input: Vec<u8> = (0..1_000_003u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let Some(site) = Site::new() else { return };
    let output = site.shell("sealed", "cat", &input);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(
        output.stdout == input,
        "{} bytes of {}",
        output.stdout.len(),
        input.len()
    );
}

#[test]
fn the_guest_is_prepared_in_both_topologies() {
    for topology in ["sealed", "routed"] {
        let script = "echo $1; wget -qO- http://denied.test/ 2>&1; id -u; echo $HOME; \
                      touch $HOME/x /tmp/x && echo writable; touch /x 2>/dev/null || echo read-only";
        let Some(site) = Site::new() else { return };
        let output = site.shell(topology, script, b"");
        let said = text(&output.stdout);
        for expected in [
            "403 Forbidden",
            "\n1000\n",
            "/home/bottle\n",
            "writable\n",
            "read-only\n",
        ] {
            assert!(
                said.contains(expected),
                "{topology}: {expected:?} in {said:?}, {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn a_command_that_is_not_there() {
    let Some(site) = Site::new() else { return };
    let output = site
        .bottle(&["run", "-y", "-b", "dev", "--", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 127, "{}", text(&output.stderr));
}

#[test]
fn a_token_without_a_value_is_refused() {
    let Some(site) = Site::new() else { return };
    let output = site
        .bottle(&["run", "-y", "-b", "keyed", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 64, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("BOTTLE_TEST_ABSENT"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_reader_that_leaves_ends_the_command() {
    let Some(site) = Site::new() else { return };
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "busybox", "yes"]));
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    assert_eq!(wait_code(&mut child), 128 + 15);
    site.nothing_is_left(child.id());
}

#[test]
fn a_signal_is_passed_on() {
    let Some(site) = Site::new() else { return };
    let script = "trap 'echo got it; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    send(&child, Signal::INT);
    stdout.wait_for("got it");
    assert_eq!(wait_code(&mut child), 9);
    site.nothing_is_left(child.id());
}

#[test]
fn a_signal_during_the_launch_undoes_it() {
    let Some(site) = Site::new() else { return };
    let mut command = site.bottle(&["--verbose", "run", "-y", "-b", "dev", "--", "sleep", "60"]);
    let mut child = Launched::start(&mut command);
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stderr.wait_for("creating the bundle");
    send(&child, Signal::TERM);
    assert_eq!(wait_code(&mut child), 130);
    site.nothing_is_left(child.id());
}

#[test]
fn a_command_that_ignores_signals_is_removed_in_the_end() {
    let Some(site) = Site::new() else { return };
    let script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    let start = Instant::now();
    send(&child, Signal::TERM);
    assert_eq!(wait_code(&mut child), 130);
    assert!(
        start.elapsed() >= Duration::from_secs(10),
        "it had time to end by itself"
    );
    site.nothing_is_left(child.id());
}

#[test]
fn a_bundle_that_dies_ends_the_command() {
    let Some(site) = Site::new() else { return };
    let script = "echo ready; while :; do sleep 0.1; done";
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stdout.wait_for("ready");
    on_engine(async |docker| {
        let found = docker
            .inventory(LABEL_OWNER_PID, Some(&child.id().to_string()))
            .await
            .unwrap();
        let bundle = found
            .iter()
            .find(|resource| resource.name.ends_with("-bundle"))
            .unwrap();
        docker.remove(bundle).await.unwrap();
    });
    assert_eq!(wait_code(&mut child), 70);
    stderr.wait_for("the bundle ended while the command ran");
    site.nothing_is_left(child.id());
}

#[test]
fn a_second_signal_leaves_at_once_and_cleanup_removes_the_rest() {
    let Some(site) = Site::new() else { return };
    let script = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    let mut stderr = Listener::new(child.stderr.take().unwrap());
    stdout.wait_for("ready");
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the first signal waits for the command"
    );
    send(&child, Signal::INT);
    assert_eq!(wait_code(&mut child), 130);
    stderr.wait_for("`bottle cleanup` removes: guest bottle-dev-");
    site.clean_up(child.id());
}

/// A pseudo-terminal: our end, and the operator's.
pub fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let path = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(path.to_str().unwrap())
        .unwrap();
    (ours, theirs)
}

pub fn resize(terminal: &OwnedFd, ws_row: u16, ws_col: u16) {
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_real_terminal_is_followed_and_restored() {
    let Some(site) = Site::new() else { return };
    let (ours, theirs) = terminal();
    resize(&ours, 33, 101);
    let before = tcgetattr(&theirs).unwrap();
    let mut command = site.run_on_terminal();
    command.args([
        "sh",
        "-c",
        "test -t 0 && test -t 1 && echo is-terminal; while sleep 0.1; do stty size; done",
    ]);
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
    let mut screen = Listener::new(File::from(ours.try_clone().unwrap()));
    screen.wait_for("is-terminal\r\n");
    screen.wait_for("33 101");
    resize(&ours, 44, 120);
    screen.wait_for("44 120");
    assert_ne!(
        format!("{:?}", tcgetattr(&theirs).unwrap()),
        format!("{before:?}"),
        "it is raw while the guest has it"
    );
    // Ctrl-C is a key for the guest, whose own terminal makes a signal of it.
    File::from(ours.try_clone().unwrap()).write_all(b"\x03").unwrap();
    assert_eq!(wait_code(&mut child), 130);
    assert_eq!(format!("{:?}", tcgetattr(&theirs).unwrap()), format!("{before:?}"));
    let left: Vec<_> = std::fs::read_dir(site.state().join("bottles"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
