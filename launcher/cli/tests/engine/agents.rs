//! Agents of the manifest, and the question before the launch.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::run::{resize, terminal};
use crate::site::{Launched, Listener, Site, code, left_of, shell_image, text, wait_code};

fn with_agent(command: &str) -> Option<Site> {
    let site = Site::new()?;
    let room = site.directory.path();
    std::fs::create_dir_all(room.join("skills/review/lib")).unwrap();
    std::fs::write(room.join("skills/review/SKILL.md"), "how to review").unwrap();
    std::fs::write(room.join("skills/review/lib/run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    let program = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(room.join("skills/review/lib/run.sh"), program).unwrap();
    let manifest = format!(
        "version: 1\nbottles:\n  dev:\n    image: {}\n    user: \"1000:1000\"\nagents:\n  reviewer:\n    bottle: dev\n    \
         command: {command}\n    prompt: |\n      You review.\n    skills: [./skills/review]\n",
        shell_image()
    );
    std::fs::write(room.join("bottle.yaml"), manifest).unwrap();
    Some(site)
}

#[test]
fn prompt_and_skills_are_in_the_guest_before_the_command() {
    let Some(site) = with_agent(
        r#"[sh, -c, "cat $1 $BOTTLE_PROMPT_FILE; cd $BOTTLE_SKILLS_DIR/review; cat SKILL.md; lib/run.sh; stat -c '%a %u' $1 SKILL.md lib/run.sh lib", sh, "{prompt_file}"]"#,
    ) else {
        return;
    };
    for topology in ["sealed", "routed"] {
        let child = Launched::start(&mut site.bottle(&["run", "-y", "--topology", topology, "reviewer"]));
        let pid = child.id();
        let mut child = child;
        let mut stdout = Listener::new(child.stdout.take().unwrap());
        let mut stderr = Listener::new(child.stderr.take().unwrap());
        let code = wait_code(&mut child);
        stdout.wait_for_the_end();
        stderr.wait_for_the_end();
        assert_eq!(
            (code, stdout.heard.as_str()),
            (
                0,
                "You review.\nYou review.\nhow to reviewran\n600 1000\n600 1000\n700 1000\n700 1000\n"
            ),
            "{topology}: {}",
            stderr.heard
        );
        site.nothing_is_left(pid);
    }
}

#[test]
fn a_missing_skill_is_named_and_nothing_is_made() {
    let Some(site) = with_agent("[\"true\"]") else { return };
    std::fs::remove_dir_all(site.directory.path().join("skills")).unwrap();
    let output = site.bottle(&["run", "-y", "reviewer"]).output().unwrap();
    assert_eq!(code(&output), 64);
    assert!(
        text(&output.stderr).contains("skill `review`"),
        "{}",
        text(&output.stderr)
    );
    assert!(!site.state().exists());
}

#[test]
fn the_question_is_asked_once_and_no_launches_nothing() {
    for (answer, expected) in [("y\n", 7), ("\n", 130), ("no\n", 130)] {
        let Some(site) = Site::new() else { return };
        let (ours, theirs) = terminal();
        resize(&ours, 24, 80);
        let mut command = Command::new("setsid");
        site.prepare(&mut command)
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bottle")]);
        command.args(["run", "-b", "dev", "--", "sh", "-c", "exit 7"]);
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let mut child = Launched::start(command.stdin(end()).stdout(end()).stderr(end()));
        let mut screen = Listener::new(File::from(ours.try_clone().unwrap()));
        screen.wait_for("Launch? [y/N] ");
        for line in [
            "command   sh -c 'exit 7'",
            "bottle    dev",
            "egress    nothing",
            "limits    4 GiB memory",
        ] {
            assert!(screen.heard.contains(line), "{line} in {}", screen.heard);
        }
        File::from(ours.try_clone().unwrap())
            .write_all(answer.as_bytes())
            .unwrap();
        assert_eq!(wait_code(&mut child), expected, "{answer:?}");
        assert_eq!(left_of(child.id()), Vec::<String>::new());
        assert_eq!(site.state().exists(), expected == 7);
    }
}
