//! The project in the bottle, and what comes of the agent's work: `cp`, `diff`, `resume`.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::site::{Launched, Listener, Site, code, send, shell_image, text, wait_code};

pub fn with_project(mode: &str) -> Option<Site> {
    let site = Site::new()?;
    let project = site.directory.path().join("app");
    std::fs::create_dir_all(project.join("src")).unwrap();
    std::fs::create_dir_all(project.join("target")).unwrap();
    std::fs::write(project.join("src/main.txt"), "one\n").unwrap();
    std::fs::write(project.join("gone.txt"), "x\n").unwrap();
    std::fs::write(project.join("target/big"), "x").unwrap();
    std::fs::write(project.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(project.join("run.sh"), std::fs::Permissions::from_mode(0o750)).unwrap();
    symlink("src/main.txt", project.join("link")).unwrap();
    let manifest = format!(
        "version: 1\nbottles:\n  dev:\n    image: {}\n    user: \"1000:1000\"\n    \
         workspace: {{ mode: {mode}, path: app, exclude: [target] }}\n",
        shell_image()
    );
    std::fs::write(site.directory.path().join("bottle.yaml"), manifest).unwrap();
    Some(site)
}

pub fn run(site: &Site, script: &str) -> (i32, String, String) {
    let output = site
        .bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script])
        .output()
        .unwrap();
    (code(&output), text(&output.stdout), text(&output.stderr))
}

/// The slug that a bottle's work is kept as, by what `run` says at its end.
pub fn kept_slug(stderr: &str) -> String {
    let after = stderr.split_once("kept as ").expect("work was kept").1;
    after.split_once(':').expect("a colon after the slug").0.to_owned()
}

pub fn ok(site: &Site, args: &[&str]) -> String {
    let output = site.bottle(args).output().unwrap();
    assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_copy_is_the_agents_and_its_work_is_kept_shown_taken_over_and_gone_on_with() {
    let Some(site) = with_project("copy") else { return };
    let project = site.directory.path().join("app");
    let script = "pwd; ls -1; ./run.sh; stat -c '%a %u:%g' . run.sh src; cat link; \
                  echo two > src/main.txt; rm gone.txt; mkdir -p .git/hooks; echo evil > .git/hooks/post-checkout; echo new > new.txt";
    let (code, stdout, stderr) = run(&site, script);
    assert_eq!(
        (code, stdout.as_str()),
        (
            0,
            "/work/app\ngone.txt\nlink\nrun.sh\nsrc\nran\n755 1000:1000\n750 1000:1000\n755 1000:1000\none\n"
        ),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(project.join("src/main.txt")).unwrap(), "one\n");
    assert!(stderr.contains("changed, kept as dev-"), "{stderr}");
    let slug = kept_slug(&stderr);
    assert!(ok(&site, &["ps"]).contains(&slug));

    assert_eq!(ok(&site, &["diff", &slug]), "D gone.txt\nA new.txt\nM src/main.txt\n");
    let patch = ok(&site, &["diff", &slug, "--patch"]);
    assert!(patch.contains("-one\n+two\n"), "{patch}");
    // It is one for the project as it is.
    let mut git = Command::new("git");
    git.args(["apply", "--check", "--verbose", "-"]).current_dir(&project);
    let mut git = git.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    git.stdin.take().unwrap().write_all(patch.as_bytes()).unwrap();
    let applied = git.wait_with_output().unwrap();
    assert!(applied.status.success(), "{}", text(&applied.stderr));

    // Going on: the same slug, what was left, the same policy.
    let output = site
        .bottle(&[
            "resume",
            "-y",
            &slug,
            "--",
            "sh",
            "-c",
            "cat src/main.txt; ls gone.txt; hostname; echo three > src/main.txt",
        ])
        .output()
        .unwrap();
    assert!(text(&output.stdout).starts_with("two\n"), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains(&format!("kept as {slug}")),
        "{}",
        text(&output.stderr)
    );

    let out = site.directory.path().join("out");
    let output = site.bottle(&["cp", &format!("{slug}:."), "out"]).output().unwrap();
    assert!(
        text(&output.stderr).contains("in .git were left out"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(std::fs::read_to_string(out.join("src/main.txt")).unwrap(), "three\n");
    assert!(!out.join(".git").exists());
    let mode = std::fs::metadata(out.join("run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    ok(&site, &["cp", &format!("{slug}:src"), "sources"]);
    assert!(site.directory.path().join("sources/main.txt").exists());

    // Another policy is not gone on with.
    let manifest = site.directory.path().join("bottle.yaml");
    let more = std::fs::read_to_string(&manifest).unwrap() + "    egress: { allow: [example.com] }\n";
    std::fs::write(&manifest, more).unwrap();
    let output = site.bottle(&["resume", "-y", &slug]).output().unwrap();
    assert_eq!(self::code(&output), 64);
    assert!(
        text(&output.stderr).contains("--accept-changes"),
        "{}",
        text(&output.stderr)
    );

    ok(&site, &["cleanup", "--kept", &slug]);
    let output = site.bottle(&["resume", "-y", &slug]).output().unwrap();
    assert_eq!(self::code(&output), 66);
    assert_eq!(std::fs::read_dir(site.state().join("kept")).unwrap().count(), 0);
}

#[test]
fn what_was_not_changed_is_not_kept() {
    let Some(site) = with_project("copy") else { return };
    let (code, _, stderr) = run(&site, "cat src/main.txt");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(std::fs::read_dir(site.state().join("kept")).unwrap().count(), 0);
}

#[test]
fn a_bind_is_the_project_itself() {
    let Some(site) = with_project("bind") else { return };
    let project = site.directory.path().join("app");
    std::fs::set_permissions(&project, std::fs::Permissions::from_mode(0o777)).unwrap();
    let room = site.directory.path();
    std::fs::set_permissions(room, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, _, stderr) = run(&site, "echo from-inside > made.txt");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(
        std::fs::read_to_string(project.join("made.txt")).unwrap(),
        "from-inside\n"
    );
}

#[test]
fn files_go_in_and_out_of_a_bottle_that_runs() {
    let Some(site) = with_project("copy") else { return };
    let script = "echo ready; while :; do sleep 0.1; done";
    let mut child = Launched::start(&mut site.bottle(&["run", "-y", "-b", "dev", "--", "sh", "-c", script]));
    let mut stdout = Listener::new(child.stdout.take().unwrap());
    stdout.wait_for("ready");
    let rows: serde_json::Value = serde_json::from_str(&ok(&site, &["ps", "--json"])).unwrap();
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["owner_pid"] == child.id())
        .unwrap()
        .clone();
    let slug = row["slug"].as_str().unwrap();
    let room = site.directory.path();
    let there = |path: &str| format!("{slug}:{path}");

    // Into a home in memory, which the engine's own copies do not see, and out again.
    ok(&site, &["cp", "app", &there("/home/bottle/copy")]);
    ok(&site, &["cp", "app/run.sh", &there("/home/bottle/")]);
    let ran = ok(
        &site,
        &[
            "exec",
            slug,
            "--",
            "sh",
            "-c",
            "cd; ./run.sh; stat -c '%a %u' run.sh copy/run.sh; cat copy/link",
        ],
    );
    assert_eq!(ran, "ran\n750 1000\n750 1000\none\n");
    ok(&site, &["cp", &there("/home/bottle/copy"), "back"]);
    assert_eq!(
        std::fs::read_link(room.join("back/link")).unwrap(),
        Path::new("src/main.txt")
    );
    ok(&site, &["cp", &there("run.sh"), "one.sh"]);
    let mode = std::fs::metadata(room.join("one.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    ok(&site, &["exec", slug, "--", "sh", "-c", "echo changed > src/main.txt"]);
    assert_eq!(ok(&site, &["diff", slug]), "M src/main.txt\n");

    // What would leave the tree is refused, and nothing is written.
    for trick in ["ln -s /etc/passwd trick/l", "ln -s ../../x trick/l", "mkfifo trick/p"] {
        let script = format!("rm -rf trick; mkdir trick; echo x > trick/a; {trick}");
        ok(&site, &["exec", slug, "--", "sh", "-c", &script]);
        let output = site.bottle(&["cp", &there("trick"), "tricked"]).output().unwrap();
        if trick.starts_with("mkfifo") {
            // Not packed at all.
            assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        } else {
            assert_eq!(code(&output), 70, "{trick}");
            assert!(
                text(&output.stderr).contains("refused: a link out of the tree"),
                "{}",
                text(&output.stderr)
            );
            assert!(!room.join("tricked/a").exists());
        }
    }
    let output = site.bottle(&["cp", &there("absent"), "x"]).output().unwrap();
    assert_eq!(code(&output), 70);
    send(&child, Signal::TERM);
    wait_code(&mut child);
    site.nothing_is_left(child.id());
}

#[test]
fn the_doctor_finds_that_the_walls_hold() {
    let Some(site) = with_project("copy") else { return };
    let output = site.bottle(&["doctor"]).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(code(&output), 0, "{said}{}", text(&output.stderr));
    for line in ["walls: sealed", "walls: routed", "walls: time"] {
        assert!(said.contains(line), "{said}");
    }
    let json = site.bottle(&["doctor", "--json", "--no-walls"]).output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        findings
            .as_array()
            .unwrap()
            .iter()
            .all(|finding| finding["level"] != "wrong"),
        "{findings}"
    );
}
