//! Launchers that are killed, and many at once.

use std::process::Output;
use std::time::{Duration, Instant};

use bottle_backend::{Backend, Labels, Resource, ResourceKind};
use bottle_plan::VolumePlan;

use crate::site::{Launched, Site, code, left_of, on_engine, text};
use crate::work::{kept_slug, run, with_project};

/// Within what time of the next command everything of a dead bottle must be gone.
const BOUND: Duration = Duration::from_secs(10);

/// An engine that makes twenty bottles at once removes none within [`BOUND`]: whoever keeps to it, or makes them, has this.
static ENGINE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A volume of somebody else, with a name like a bottle's own; removed with the test.
struct Foreign(String);

impl Foreign {
    fn make() -> Self {
        let name = format!("bottle-dev-foreign{}-shared", std::process::id());
        let plan = VolumePlan {
            name: name.clone(),
            role: "shared".to_owned(),
            tmpfs_bytes: None,
        };
        on_engine(async |docker| docker.create_volume(&plan, &Labels::new()).await.unwrap());
        Self(name)
    }

    fn resource(&self) -> Resource {
        Resource {
            kind: ResourceKind::Volume,
            name: self.0.clone(),
            id: self.0.clone(),
            labels: Labels::new(),
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let found = on_engine(async |docker| docker.remove(&self.resource()).await);
        if !std::thread::panicking() {
            found.unwrap();
        }
    }
}

#[test]
fn a_launcher_killed_at_any_moment_is_cleaned_up_after_by_the_next_command() {
    let _engine = ENGINE.lock();
    let Some(site) = Site::new() else { return };
    let foreign = Foreign::make();
    let notes = site.directory.path().join("state/notes");
    // From before the first call to the engine until long after the last.
    for moment in [10, 60, 120, 200, 300, 450, 700, 1000, 1500] {
        let mut child = Launched::start(&mut site.run_shell("sealed", "sleep 600"));
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::create_dir_all(notes.parent().unwrap()).unwrap();
        std::fs::write(&notes, "not a bottle's").unwrap();
        let begun = Instant::now();
        // What a call to the engine that was under way makes after this is found by the one after it.
        let gone = loop {
            let listed = site.bottle(&["ps"]).output().unwrap();
            assert_eq!(code(&listed), 0, "{}", text(&listed.stderr));
            let left = left_of(child.id());
            let directories = std::fs::read_dir(site.state().join("bottles")).map_or(0, |entries| entries.count());
            if (left.is_empty() && directories == 0) || begun.elapsed() > BOUND {
                break (left, directories);
            }
        };
        assert_eq!(gone, (Vec::new(), 0), "killed after {moment} ms");
    }
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "not a bottle's");
    drop(foreign);
}

#[test]
fn twenty_at_once_do_not_meet() {
    let _engine = ENGINE.lock();
    let Some(site) = Site::new() else { return };
    let launchers: Vec<(usize, u32, std::thread::JoinHandle<Output>)> = (0..20)
        .map(|number| {
            // Each leaves its number where another would find it if anything were shared.
            let script = format!("cat /tmp/* /home/bottle/* 2>/dev/null; echo {number} | tee /tmp/n /home/bottle/n; sleep 1; cat /tmp/n; exit {number}");
            let child = site.run_shell("sealed", &script).spawn().unwrap();
            let pid = child.id();
            (number, pid, std::thread::spawn(move || child.wait_with_output().unwrap()))
        })
        .collect();
    for (number, pid, launcher) in launchers {
        let output = launcher.join().unwrap();
        let said = (code(&output), text(&output.stdout));
        let expected = i32::try_from(number).unwrap();
        assert_eq!(
            said,
            (expected, format!("{number}\n{number}\n")),
            "{}",
            text(&output.stderr)
        );
        assert_eq!(left_of(pid), Vec::<String>::new());
    }
}

#[test]
fn one_slug_at_once_is_one_bottle() {
    let Some(site) = with_project("copy") else { return };
    let (_, _, stderr) = run(&site, "echo two > src/main.txt");
    let slug = kept_slug(&stderr);
    let resume = |script: &str| site.bottle(&["resume", "-y", &slug, "--", "sh", "-c", script]);
    let launchers: Vec<_> = (0..2)
        .map(|_| resume("cat src/main.txt; sleep 2").spawn().unwrap())
        .collect();
    let outputs: Vec<Output> = launchers
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let (went, refused): (Vec<&Output>, Vec<&Output>) = outputs.iter().partition(|output| code(output) == 0);
    let told: Vec<String> = outputs.iter().map(|output| text(&output.stderr)).collect();
    assert_eq!((went.len(), refused.len()), (1, 1), "{told:?}");
    assert_eq!(text(&went[0].stdout), "two\n");
    assert!(text(&refused[0].stderr).contains(&slug), "{told:?}");
    // Refusing the second took nothing from the first, or from what is kept.
    let again = resume("cat src/main.txt").output().unwrap();
    assert_eq!(
        (code(&again), text(&again.stdout)),
        (0, "two\n".to_owned()),
        "{}",
        text(&again.stderr)
    );
}
