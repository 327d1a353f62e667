//! Commands about a bottle that runs, from other processes: `ps`, `exec`, `logs`, `ca`, `stop`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::run::{resize, terminal};
use crate::site::{Launched, Listener, Site, code, send, text, wait_code};

/// A bottle that runs until it is told to end, and its slug.
fn living(site: &Site, topology: &str, script: &str) -> (Launched, Listener, String) {
    let script = format!("{script}; echo ready; while :; do sleep 0.1; done");
    let mut child = Launched::start(&mut site.run_shell(topology, &script));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    let slug = slug_of(site, child.id());
    (child, stdout, slug)
}

/// What `ps` says of the bottle of a launcher.
fn slug_of(site: &Site, pid: u32) -> String {
    let output = site.bottle(&["ps", "--json"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["owner_pid"] == pid);
    let row = row.unwrap_or_else(|| panic!("{pid} in {rows}"));
    assert_eq!(
        (row["bottle"].as_str(), row["state"].as_str()),
        (Some("dev"), Some("running"))
    );
    row["slug"].as_str().unwrap().to_owned()
}

#[test]
fn a_bottle_is_listed_entered_and_stopped() {
    let Some(site) = Site::new() else { return };
    for topology in ["sealed", "routed"] {
        let (mut child, _stdout, slug) = living(&site, topology, "true");
        let table = site.bottle(&["ps"]).output().unwrap();
        assert!(text(&table.stdout).contains(&slug), "{}", text(&table.stdout));

        let exec = |args: &[&str], input: &[u8]| {
            let mut all = vec!["exec", slug.as_str()];
            all.extend(args);
            let mut command = site.bottle(&all);
            let mut exec = command.stdin(Stdio::piped()).spawn().unwrap();
            exec.stdin.take().unwrap().write_all(input).unwrap();
            let output = exec.wait_with_output().unwrap();
            (code(&output), text(&output.stdout), text(&output.stderr))
        };
        let script = "cat; id -u; pwd; echo $A; echo err >&2; exit 9";
        let args = ["-e", "A=b c", "-u", "1001", "-w", "/tmp", "--", "sh", "-c", script];
        assert_eq!(
            exec(&args, b"input\n"),
            (9, "input\n1001\n/tmp\nb c\n".to_owned(), "err\n".to_owned()),
            "{topology}"
        );
        // What holds of the guest holds of what is run in it: the proxy is its only way out.
        let (_, said, _) = exec(&["--", "sh", "-c", "wget -qO- http://denied.test/ 2>&1"], b"");
        assert!(said.contains("403"), "{said}");
        // Engines differ in which of the two they say.
        assert!([126, 127].contains(&exec(&["--", "/nonexistent"], b"").0));

        let stopped = site.bottle(&["stop", &slug]).output().unwrap();
        assert_eq!(code(&stopped), 0, "{}", text(&stopped.stderr));
        assert_eq!(wait_code(&mut child), 128 + 15);
        site.nothing_is_left(child.id());
    }
}

#[test]
fn what_was_blocked_is_in_the_logs_and_summed_up_at_the_end() {
    let Some(site) = Site::new() else { return };
    let script = "wget -qO- http://one.test/ 2>/dev/null; wget -qO- http://one.test/ 2>/dev/null; \
                  wget -qO- http://two.test:8080/ 2>/dev/null";
    let (mut child, _stdout, slug) = living(&site, "sealed", script);
    let mut stderr = Listener::new(child.stderr.take().unwrap());

    let journal = site.state().join("bottles").join(&slug).join("events.jsonl");
    assert_eq!(std::fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    let mode = std::fs::metadata(journal.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);

    let logs = site.bottle(&["logs", &slug]).output().unwrap();
    let said = text(&logs.stdout);
    assert!(said.contains("ready after"), "{said}");
    let blocked: Vec<&str> = said.lines().filter(|line| line.contains("  blocked  ")).collect();
    assert_eq!(blocked.len(), 3, "{said}");
    assert!(
        blocked[2].ends_with("two.test:8080: host-not-allowed; to allow it, egress.allow: [\"two.test:8080\"]"),
        "{said}"
    );
    let json = site.bottle(&["logs", &slug, "--json", "--blocked"]).output().unwrap();
    for line in text(&json.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["event"]["rule"], "host-not-allowed");
    }

    let mut follower = Launched::start(&mut site.bottle(&["logs", &slug, "--follow", "--blocked"]));
    let mut followed = Listener::new(follower.stdout.take().unwrap());
    followed.wait_for("two.test:8080");
    let again = site
        .bottle(&["exec", &slug, "--", "busybox", "wget", "-qO-", "http://three.test/"])
        .output()
        .unwrap();
    assert_eq!(code(&again), 1);
    followed.wait_for("three.test:80");

    let ca = site.bottle(&["ca", &slug]).output().unwrap();
    assert!(
        text(&ca.stdout).starts_with("-----BEGIN CERTIFICATE-----"),
        "{}",
        text(&ca.stderr)
    );

    send(&child, Signal::TERM);
    assert_eq!(wait_code(&mut child), 128 + 15);
    assert_eq!(wait_code(&mut follower), 0, "following ends with the bottle");
    stderr.wait_for_the_end();
    let expected = "bottle: 4 requests were blocked:\n  \
                    2 x one.test:80: to allow it, egress.allow: [\"one.test\"]\n  \
                    1 x three.test:80: to allow it, egress.allow: [\"three.test\"]\n  \
                    1 x two.test:8080: to allow it, egress.allow: [\"two.test:8080\"]\n";
    assert_eq!(stderr.heard, expected);
    site.nothing_is_left(child.id());
}

#[test]
fn a_terminal_of_exec_is_followed_and_restored() {
    let Some(site) = Site::new() else { return };
    let (_child, _stdout, slug) = living(&site, "sealed", "true");
    let (ours, theirs) = terminal();
    resize(&ours, 33, 101);
    let before = rustix::termios::tcgetattr(&theirs).unwrap();
    let mut command = Command::new("setsid");
    site.prepare(&mut command)
        .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bottle")]);
    command.args([
        "exec",
        &slug,
        "--",
        "sh",
        "-c",
        "test -t 0 && echo is-terminal; while sleep 0.1; do stty size; done",
    ]);
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut exec = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
    let mut screen = Listener::new(File::from(ours.try_clone().unwrap()));
    screen.wait_for("is-terminal\r\n");
    screen.wait_for("33 101");
    resize(&ours, 44, 120);
    screen.wait_for("44 120");
    File::from(ours.try_clone().unwrap()).write_all(b"\x03").unwrap();
    assert_eq!(wait_code(&mut exec), 130);
    let after = rustix::termios::tcgetattr(&theirs).unwrap();
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
}

#[test]
fn a_bottle_whose_launcher_was_killed_is_removed_by_stop() {
    let Some(site) = Site::new() else { return };
    let (mut child, _stdout, slug) = living(&site, "sealed", "true");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its lease ends the containers by and by; either there is still something to stop, or nothing is there any more.
    let stopped = site.bottle(&["stop", &slug]).output().unwrap();
    assert!([0, 66].contains(&code(&stopped)), "{}", text(&stopped.stderr));
    site.clean_up(child.id());
}

#[test]
fn no_bottle_is_an_error_with_its_own_code() {
    let Some(site) = Site::new() else { return };
    for args in [
        &["logs", "nothing-of-that-name"][..],
        &["ca", "nothing-of-that-name"],
        &["stop", "nothing-of-that-name"],
    ] {
        let output = site.bottle(args).output().unwrap();
        assert_eq!(code(&output), 66, "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("no bottle `nothing-of-that-name` runs here"));
    }
}

#[test]
fn a_second_terminal_joins_and_leaves_by_its_keys() {
    let Some(site) = Site::new() else { return };
    let on_terminal = |args: &[&str]| {
        let (ours, theirs) = terminal();
        resize(&ours, 24, 80);
        let mut command = Command::new("setsid");
        site.prepare(&mut command)
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bottle")]);
        command.args(args);
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let child = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
        let screen = Listener::new(File::from(ours.try_clone().unwrap()));
        (child, screen, File::from(ours))
    };
    let script = "echo ready; while read line; do echo \"<$line>\"; done";
    let (mut child, mut screen, mut keyboard) = on_terminal(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]);
    // The question before the launch shows the command, too.
    screen.wait_for("ready\r\n");
    let rows = site.bottle(&["ps", "--json"]).output().unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&rows.stdout).unwrap();
    let own = |row: &&serde_json::Value| {
        let slug = row["slug"].as_str().unwrap();
        site.state().join("bottles").join(slug).exists()
    };
    let slug = rows.as_array().unwrap().iter().find(own).unwrap()["slug"]
        .as_str()
        .unwrap()
        .to_owned();

    let (mut other, mut other_screen, mut other_keyboard) = on_terminal(&["attach", &slug]);
    // Its keys arrive only when it has attached; typed before, they would be its terminal's own.
    let attached = std::time::Instant::now();
    while !other_screen.heard.contains("<hello>") {
        assert!(attached.elapsed() < crate::site::LIMIT, "{}", other_screen.heard);
        other_keyboard.write_all(b"hello\n").unwrap();
        other_screen.wait_a_moment();
    }
    screen.wait_for("<hello>");
    other_keyboard.write_all(b"\x10\x11").unwrap();
    assert_eq!(wait_code(&mut other), 0);
    keyboard.write_all(b"still\n").unwrap();
    screen.wait_for("<still>");
    keyboard.write_all(b"\x04").unwrap();
    assert_eq!(wait_code(&mut child), 0);

    // Without a terminal there is none to join.
    let (_child, _stdout, slug) = living(&site, "sealed", "true");
    let output = site.bottle(&["attach", &slug]).output().unwrap();
    assert_eq!(code(&output), 64);
}
