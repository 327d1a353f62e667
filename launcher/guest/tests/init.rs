//! The guest's init as a real process: exit codes, signals, reaping, descriptors, the terminal.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};

fn output(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    program::spawn(command).unwrap().wait_with_output().unwrap()
}

fn sh(script: &str) -> Output {
    output(program::command().args(["--", "sh", "-c", script]))
}

fn started(script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = program::command();
    command.args(["--", "sh", "-c", script]).stdout(Stdio::piped());
    let mut child = program::spawn(&mut command).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, lines)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[rstest::rstest]
#[case("exit 0", 0)]
#[case("exit 7", 7)]
#[case("exit 255", 255)]
#[case("kill -KILL $$", 137)]
#[case("kill -TERM $$", 143)]
fn exits_with_the_status_of_the_command(#[case] script: &str, #[case] expected: i32) {
    assert_eq!(sh(script).status.code(), Some(expected));
}

#[test]
fn it_announces_itself_before_anything_else() {
    let announced = output(program::command().args(["--announce", "--", "sh", "-c", "echo first >&2; exit 7"]));
    assert_eq!(
        String::from_utf8_lossy(&announced.stderr),
        "bottle-guest: begun\nfirst\n"
    );
    assert_eq!(announced.status.code(), Some(7));
    let unprepared = output(program::command().args(["--announce", "--nonsense"]));
    assert!(unprepared.stderr.starts_with(b"bottle-guest: begun\n"));
    assert_eq!(unprepared.status.code(), Some(125));
}

#[test]
fn a_command_that_cannot_run_is_126_or_127() {
    let missing = output(program::command().args(["--", "/no/such/program"]));
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"));
    let unfit = output(program::command().args(["--", "/etc/passwd"]));
    assert_eq!(unfit.status.code(), Some(126));
}

#[test]
fn what_cannot_be_prepared_is_125_and_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("{}=/run/none.sock", taken.local_addr().unwrap());
    for options in [
        vec!["--workdir", "/no/such/directory"],
        vec!["--lease", "/no/such/socket"],
        vec!["--forward", &taken],
        vec!["--forward", "0.0.0.0:1=/run/none.sock"],
        vec!["--unknown"],
    ] {
        let output = output(program::command().args(&options).args(["--", "touch"]).arg(&mark));
        assert_eq!(output.status.code(), Some(125), "{options:?}");
        assert!(!output.stderr.is_empty(), "{options:?}");
        assert!(!mark.exists(), "{options:?}");
    }
}

#[test]
fn signals_are_passed_on() {
    for (name, number) in [
        ("TERM", 15),
        ("INT", 2),
        ("HUP", 1),
        ("QUIT", 3),
        ("USR1", 10),
        ("USR2", 12),
        ("WINCH", 28),
    ] {
        let script = format!("trap 'exit 99' {name}; echo ready; while :; do sleep 0.02; done");
        let (mut child, _lines) = started(&script);
        signal(&child, Signal::from_named_raw(number).unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(99), "{name}");
    }
}

#[test]
fn orphans_are_reaped() {
    // Twenty grandchildren end while the command lives; none may be left as a zombie below the guest's init.
    let (mut child, _lines) =
        started("for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.01 & sleep 0.01 &) ; done; sleep 0.3; echo ready; sleep 5");
    let init = child.id();
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        let zombies = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
            .filter(|stat| stat.contains(&format!(") Z {init} ")))
            .count();
        if zombies == 0 {
            break;
        }
        assert!(Instant::now() < until, "{zombies} zombies");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn the_end_of_the_command_ends_what_it_left() {
    let output = sh("setsid sleep 600 >/dev/null 2>&1 & echo $!");
    let left: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let gone = || fs::read_to_string(format!("/proc/{left}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let until = Instant::now() + Duration::from_secs(2);
    while !gone() {
        assert!(Instant::now() < until, "process {left} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn inherited_descriptors_are_closed_and_no_new_privs_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "leaked").unwrap();
    let script = "exec 7<\"$1\" 9<\"$1\"; exec \"$0\" -- sh -c 'ls /proc/self/fd; grep NoNewPrivs /proc/self/status'";
    let mut command = Command::new("sh");
    let output = output(command.args(["-c", script]).arg(program::path()).arg(&secret));
    let stdout = String::from_utf8(output.stdout).unwrap();
    // 0, 1, 2 and the directory that `ls` itself has open.
    assert_eq!(stdout, "0\n1\n2\n3\nNoNewPrivs:\t1\n");
}

/// A guest that runs a script and is ready, with the bundle's end of its lease.
fn leased(script: &str) -> (Child, UnixStream) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease.sock");
    let bundle = UnixListener::bind(&path).unwrap();
    let mut command = program::command();
    command
        .arg("--lease")
        .arg(&path)
        .args(["--", "sh", "-c", script])
        .stdout(Stdio::piped());
    let mut child = program::spawn(&mut command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, bundle.accept().unwrap().0)
}

#[test]
fn the_lease_ends_the_guest() {
    let (mut child, mut held) = leased("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    held.write_all(b"a word is no end").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the guest lives while the lease does"
    );
    drop(held);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_guest_that_ignores_the_lease_is_killed() {
    let (mut child, held) = leased("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    let start = Instant::now();
    drop(held);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(143), None));
    assert!(start.elapsed() >= Duration::from_millis(1900) && start.elapsed() < Duration::from_secs(4));
}

/// A guest on a terminal of its own, through `setsid --ctty`.
fn on_terminal(script: &str) -> (Child, fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(program::path())
        .args(["--", "sh", "-c", script])
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal)
        .spawn()
        .unwrap();
    let controller = fs::File::from(controller);
    assert!(controller.as_raw_fd() > 2);
    (child, controller)
}

fn read_until(controller: &mut fs::File, what: &str) -> String {
    let mut seen = String::new();
    let mut byte = [0; 64];
    while !seen.contains(what) {
        let mut ready = [PollFd::new(&*controller, PollFlags::IN)];
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let polled = rustix::event::poll(&mut ready, Some(&limit)).unwrap();
        assert!(polled > 0, "nothing more came within 20 s after {seen:?}");
        let count = controller.read(&mut byte).unwrap_or(0);
        assert!(count > 0, "the terminal closed after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&byte[..count]));
    }
    seen
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    let (mut child, mut terminal) = on_terminal(
        "n=0; trap 'n=$((n+1))' INT; echo ready; i=0; while [ $i -lt 30 ]; do sleep 0.02; i=$((i+1)); done; exit $((40+n))",
    );
    read_until(&mut terminal, "ready");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(41));
}

#[test]
fn ctrl_z_does_not_park_the_guest() {
    // Over and over, so that some come in the instant of the shell's vfork(2): a child that is stopped before its exec would
    // hold the shell in the kernel, where no stop is ever seen.
    let (mut child, mut terminal) =
        on_terminal("echo ready; i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; exit 5");
    read_until(&mut terminal, "ready");
    let mut keys = terminal.try_clone().unwrap();
    let pressed = std::thread::spawn(move || {
        for _ in 0..100 {
            // The terminal closes when the command has ended.
            if keys.write_all(b"\x1a").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let until = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= until {
            child.kill().unwrap();
            panic!("the guest is parked");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(5));
    pressed.join().unwrap();
}

#[rstest::rstest]
#[case::on_a_terminal(true)]
#[case::on_pipes(false)]
fn the_command_leads_a_session_of_its_own(#[case] terminal: bool) {
    // Of /proc/PID/stat: process group, session and terminal are fields 5, 6 and 7.
    let script = "read -r id comm state parent group session tty rest < /proc/self/stat; echo ready; \
                  test \"$group $session\" = \"$$ $$\" && test \"$tty\" ";
    let script = format!("{script}{}", if terminal { "!= 0" } else { "= 0" });
    if terminal {
        let (mut child, mut terminal) = on_terminal(&script);
        read_until(&mut terminal, "ready");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    } else {
        assert_eq!(sh(&script).status.code(), Some(0));
    }
}

#[test]
fn a_directory_of_the_users_stays_writable_on_a_read_only_root() {
    if !rustix::process::geteuid().is_root() {
        println!("left out, only root mounts: a directory of the user's own");
        return;
    }
    let room = tempfile::tempdir().unwrap();
    fs::set_permissions(room.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (own, other) = (room.path().join("work/app"), room.path().join("other"));
    let mut command = Command::new("unshare");
    // Its own mounts, so that ours stay as they are.
    command.args(["--mount", "--propagation", "private", "--"]);
    command.arg(env!("CARGO_BIN_EXE_bottle-guest"));
    command.arg("--writable").arg(&own).arg("--read-only-root");
    command.args(["--confine", "7:8", "--exec", "--", "sh", "-c"]);
    command.arg(format!(
        "echo x > {}/x && ! echo x > {}",
        own.display(),
        other.display()
    ));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = fs::metadata(own.join("x")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((found.uid(), found.gid(), other.exists()), (7, 8, false));
}
