//! Bottles whose guest is a machine, on the real engine and a stand-in for smolvm that runs a machine's commands here.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::site::{Launched, Listener, Site, code, text, wait_code};
use crate::work::{kept_slug, with_project};

struct Machines {
    site: Site,
}

impl Machines {
    fn new() -> Option<Self> {
        let site = with_project("copy")?;
        let path = site.directory.path();
        // Root's machines run as other users, which must get through.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["smolvm", "smolvm/vm", "rootfs"] {
            std::fs::create_dir(path.join(part)).unwrap();
        }
        let program = path.join("smolvm/smolvm");
        let stand_in = include_str!("../../../../backends/smolvm/tests/stand_in/smolvm.sh");
        std::fs::write(&program, stand_in).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("smolvm/boot.sh"), "read -r line <\"$2/forever\"\n").unwrap();
        std::fs::write(path.join("smolvm/drift.sed"), "").unwrap();
        let manifest = "version: 1\nbottles:\n  dev:\n    backend: smolmachines\n    image: ./rootfs\n    user: \"1000:1000\"\n    \
                        workspace: { path: app, exclude: [target] }\n";
        std::fs::write(path.join("bottle.yaml"), manifest).unwrap();
        Some(Self { site })
    }

    /// From another directory than the manifest's, which its paths are meant from.
    fn bottle(&self, args: &[&str]) -> Command {
        let path = self.site.directory.path();
        let mut command = self.site.bottle(args);
        command
            .current_dir("/")
            .env("BOTTLE_SMOLVM_STATE_DIR", path.join("machines"))
            .env("BOTTLE_CACHE_DIR", path.join("cache"))
            .env_remove("BOTTLE_SMOLVM");
        command
    }

    fn run(&self, script: &str) -> Command {
        let path = self.site.directory.path();
        let mut command = self.bottle(&["run", "-y", "-b", "dev", "--manifest"]);
        command.arg(path.join("bottle.yaml"));
        command.arg("--smolvm").arg(path.join("smolvm/smolvm"));
        command.args(["--", "sh", "-c", script]);
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.bottle(args).output().unwrap();
        assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn is_empty(&self) {
        let left = |part: &str| {
            std::fs::read_dir(self.site.directory.path().join(part))
                .unwrap()
                .count()
        };
        assert_eq!(
            [left("smolvm/vm"), left("machines/journal"), left("machines/shared")],
            [0, 0, 0]
        );
    }
}

#[test]
fn the_work_in_a_machine_is_kept_shown_and_gone_on_with() {
    let Some(machines) = Machines::new() else { return };
    let script =
        "cd $VM/disk/work/app && cat src/main.txt && echo two >src/main.txt && rm gone.txt && echo new >new.txt";
    let output = machines.run(script).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (0, "one\n"), "{stderr}");
    let slug = kept_slug(&stderr);
    machines.is_empty();
    assert_eq!(machines.ok(&["diff", &slug]), "D gone.txt\nA new.txt\nM src/main.txt\n");
    let output = machines
        .bottle(&[
            "resume",
            "-y",
            &slug,
            "--",
            "sh",
            "-c",
            "cd $VM/disk/work/app && cat src/main.txt && ls gone.txt",
        ])
        .env("BOTTLE_SMOLVM", machines.site.directory.path().join("smolvm/smolvm"))
        .output()
        .unwrap();
    assert!(text(&output.stdout).starts_with("two\n"), "{}", text(&output.stderr));
    machines.is_empty();
}

/// Nobody tells the other commands where smolvm is: what the machine was made with is known.
#[test]
fn a_machine_that_runs_is_entered_looked_at_and_stopped_by_other_processes() {
    let Some(machines) = Machines::new() else { return };
    let mut child = Launched::start(&mut machines.run("echo here; exec sleep 600"));
    let mut said = Listener::new(child.stdout.take().unwrap());
    said.wait_for("here");
    assert!(machines.ok(&["ps"]).contains("running"));
    let slug = &machines.site.slug();
    let place = &format!("{slug}:.");
    let output = machines
        .bottle(&["exec", slug, "--", "sh", "-c", "cat $VM/disk/work/app/run.sh; exit 3"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("echo ran"));
    let out = machines.site.directory.path().join("out");
    machines.ok(&["cp", place, out.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(out.join("src/main.txt")).unwrap(), "one\n");
    let more = machines.site.directory.path().join("more");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(more.join("added.txt"), "more\n").unwrap();
    machines.ok(&["cp", more.to_str().unwrap(), place]);
    assert_eq!(machines.ok(&["diff", slug]), "A added.txt\n");
    machines.ok(&["logs", slug]);
    // Without a terminal, of a command that has none: refused before anything is joined.
    assert_eq!(code(&machines.bottle(&["attach", slug]).output().unwrap()), 64);
    machines.ok(&["stop", slug]);
    wait_code(&mut child);
    machines.is_empty();
}
