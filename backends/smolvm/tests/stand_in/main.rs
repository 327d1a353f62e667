//! Bottles on a stand-in for smolvm that goes wrong at every step: each failure names the step and the next thing to do, and
//! nothing is left.

#[path = "../bundle_image.rs"]
mod bundle_image;
mod fixture;
mod relayed;

use bottle_backend::{Backend, BackendErrorKind, ExecSpec, Role};
use bottle_launch::{SweepScope, sweep, tree};
use bottle_plan::{ContainerPlan, LABEL_OWNER_PID, LABEL_OWNER_START, Topology};
use bottle_smolvm::Remains;
use fixture::{SHORT, Site, exists, talk};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FOREVER: &str = "exec sleep 600";

#[tokio::test]
async fn a_sealed_bottle_lives_and_leaves_nothing() {
    let site = Site::new();
    let bottle = site.launch("cat; echo oops >&2; exit 7").await.unwrap();
    assert!(bottle.guest().running);
    assert!(bottle.guest().pid.is_some());
    let (out, err) = talk(bottle.guest_streams().unwrap(), b"hello").await;
    assert_eq!((out.as_str(), err.as_str()), ("hello", "oops\n"));
    assert_eq!(bottle.wait_guest().await, Ok(7));

    let spec = ExecSpec {
        command: ["sh", "-c", "echo $A; exit 3"].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    let exec = bottle.exec(&spec).await.unwrap();
    let (out, _) = talk(exec.streams, b"").await;
    assert_eq!((out.as_str(), exec.exit.await), ("\n", Ok(3)));

    // Machine, its directory, bundle, its network.
    let plan = bottle.plan().clone();
    let machine = site.settings.state.join(format!("journal/{}.json", plan.guest.name));
    assert!(exists(&machine));
    assert!(site.settings.state.join("shared").join(&plan.volumes[0].name).is_dir());
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(site.left().await, Vec::<String>::new());

    let calls = site.calls();
    let create = calls.lines().find(|call| call.contains("machine create")).unwrap();
    assert!(create.contains("--cpus 1 --mem 256"), "{create}");
    assert!(!create.contains("--allow") && !create.contains("--net"), "{create}");
    let shared = site.settings.state.join("shared").join(&plan.volumes[0].name);
    for words in [
        format!("--volume {}:/run/bottle:ro", shared.display()),
        format!(
            "--mount-socket {}/proxy.sock:/run/bottle-sockets/proxy.sock",
            shared.display()
        ),
        format!(
            "--mount-socket {}/lease.sock:/run/bottle-sockets/lease.sock",
            shared.display()
        ),
        format!("--state-dir {}/machines", site.settings.state.display()),
    ] {
        assert!(create.contains(&words), "{words} is not in {create}");
    }
    assert!(
        calls
            .lines()
            .any(|call| call.contains("machine delete") && call.contains(" -f")),
        "{calls}"
    );
    // Version, create, start, look, command; then a further program and the removal.
    assert_eq!(calls.lines().count(), 7, "{calls}");
    let environment = std::fs::read_to_string(site.path("smolvm/environment")).unwrap();
    assert!(environment.contains("SMOLVM_IMAGE_SEEDS=0"));
    assert!(environment.contains("SMOLVM_AGENT_READY_TIMEOUT_SECS=25"));
    assert_eq!(environment.matches("SMOLVM_").count(), 2, "{environment}");
}

#[tokio::test]
async fn without_the_program_nothing_begins() {
    let mut site = Site::new();
    site.settings.program = Some("/nonexistent/smolvm".into());
    let error = site.open().await.err().unwrap();
    assert_eq!(error.kind, BackendErrorKind::Unreachable);
    assert!(error.to_string().contains("/nonexistent/smolvm"), "{error}");
    assert!(error.problem.contains("BOTTLE_SMOLVM"), "{error}");
}

#[rstest]
#[case("smolvm 1.1.2", "not enforced")]
#[case("smolvm 0.8.0", "expected smolvm 1.1.3 or later, found 0.8.0")]
#[case("git version 2.39.5", "found `git version 2.39.5`")]
#[case("\u{1b}[31m", "expected `smolvm VERSION`")]
#[tokio::test]
async fn another_program_or_an_old_one_is_refused(#[case] says: &str, #[case] expected: &str) {
    let site = Site::new();
    site.tell("version.say", says);
    let error = site.open().await.err().unwrap();
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn a_program_that_does_not_answer_is_not_waited_for() {
    let mut site = Site::new();
    site.settings.limits.look = SHORT;
    site.tell("version.hang", "");
    let error = site.open().await.err().unwrap();
    assert_eq!(error.kind, BackendErrorKind::TimedOut);
    assert!(error.to_string().starts_with("smolvm --version"), "{error}");
}

/// What smolvm can do wrong in a launch, and the words of the error.
#[rstest]
#[case("create.hang", "", &["creating the guest", "smolvm machine create", "not done within"])]
#[case("create.kill", "", &["creating the guest", "smolvm machine create", "SIGKILL"])]
#[case("create.fail", r#"{"error":{"code":"CONFIG_ERROR","message":"disk full"}}"#, &["smolvm machine create: disk full"])]
#[case("create.fail", "no json at all", &["smolvm machine create", "no json at all"])]
#[case("ls.hang", "", &["starting the guest", "smolvm machine ls", "not done within"])]
#[case("ls.kill", "", &["starting the guest", "smolvm machine ls"])]
#[case("ls.say", "{]", &["starting the guest", "smolvm machine ls", "expected a JSON list", "{]"])]
#[case("ls.say", "[]", &["starting the guest", "there is no machine"])]
#[case("start.hang", "", &["starting the guest", "smolvm machine start", "not done within"])]
#[case("start.late", "", &["starting the guest", "smolvm machine start", "not done within"])]
#[case("start.kill", "", &["starting the guest", "smolvm machine start"])]
#[case("start.fail", r#"{"error":{"code":"SMOLVM_ERROR","message":"no /dev/kvm"}}"#, &["starting the guest", "no /dev/kvm"])]
#[case("exec.hang", "", &["starting the guest", "smolvm machine exec", "not done within"])]
#[case("exec.kill", "", &["starting the guest", "smolvm machine exec"])]
#[case("exec.fail", "executable file `/run/bottle/bottle-guest` not found", &["starting the guest", "bottle-guest` not found"])]
#[case("drift.sed", "s/\"network\": false/\"network\": true/", &["starting the guest", "network: asked for false, found true"])]
#[case("drift.sed", "s/\"ports\": 0/\"ports\": 1/", &["ports: asked for 0, found 1"])]
#[tokio::test]
async fn a_launch_that_fails_is_undone(#[case] file: &str, #[case] content: &str, #[case] expected: &[&str]) {
    let mut site = Site::new();
    if file.ends_with("hang") || file.ends_with("late") {
        match file.split('.').next().unwrap() {
            "create" => site.settings.limits.create = SHORT,
            "exec" => site.settings.limits.create = SHORT * 4,
            "start" => site.settings.limits.start = SHORT,
            _ => site.settings.limits.look = SHORT * 2,
        }
    }
    site.tell(file, content);
    let error = site.launch(FOREVER).await.err().unwrap();
    for words in expected {
        assert!(error.to_string().contains(words), "`{words}` is not in `{error}`");
    }
    assert!(error.undone.is_clean(), "{error}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("image.tar", "no archive", "docker save")]
#[case("image.smolmachine", "no pack", "smolvm pack create")]
#[tokio::test]
async fn a_file_that_is_no_image_is_named(#[case] file: &str, #[case] content: &str, #[case] expected: &str) {
    let site = Site::new();
    std::fs::write(site.path(file), content).unwrap();
    let mut plan = site.plan(FOREVER);
    plan.guest.image = site.path(file).display().to_string();
    let error = site.launch_on(site.open().await.unwrap(), plan).await.err().unwrap();
    assert!(
        error.to_string().contains(expected) && error.to_string().contains(file),
        "{error}"
    );
    assert!(error.undone.is_clean(), "{error}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// The image of an archive is a directory of the cache, where smolvm finds nothing to start by itself.
#[tokio::test]
async fn an_archive_is_an_image() {
    let site = Site::new();
    let built = bottle_docker::build_image("x", &[], &bottle_docker::ImageSettings::default()).unwrap();
    std::fs::write(site.path("image.tar"), built.archive).unwrap();
    let mut plan = site.plan("exit 7");
    plan.guest.image = site.path("image.tar").display().to_string();
    for _ in 0..2 {
        let bottle = site.launch_on(site.open().await.unwrap(), plan.clone()).await.unwrap();
        assert_eq!(bottle.wait_guest().await, Ok(7));
        assert!(bottle.close().await.is_clean());
    }
    let calls = site.calls();
    let images = site.path("cache/images").display().to_string();
    for create in calls.lines().filter(|call| call.contains("machine create")) {
        assert!(
            create.contains(&format!("--image {images}/")) && create.contains("/rootfs "),
            "{create}"
        );
    }
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named() {
    let site = Site::new();
    std::fs::remove_dir(site.path("image")).unwrap();
    let error = site.launch(FOREVER).await.err().unwrap();
    assert!(
        error.to_string().contains(&site.path("image").display().to_string()),
        "{error}"
    );
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_named() {
    let site = Site::new();
    std::fs::write(site.path("state"), "a file in the way").unwrap();
    let error = site.launch(FOREVER).await.err().unwrap();
    assert!(error.to_string().contains("BOTTLE_SMOLVM_STATE_DIR"), "{error}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("once", None)]
#[case("always", Some("the machine is `unreachable` right after its start"))]
#[tokio::test]
async fn an_agent_that_does_not_answer_at_once_is_asked_again(#[case] how: &str, #[case] expected: Option<&str>) {
    let mut site = Site::new();
    site.settings.limits.look = SHORT;
    site.tell("ls.unreachable", how);
    match (site.launch("exit 7").await, expected) {
        (Ok(bottle), None) => {
            assert_eq!(bottle.wait_guest().await, Ok(7));
            assert!(bottle.close().await.is_clean());
        }
        (Err(error), Some(expected)) => {
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.undone.is_clean(), "{error}");
        }
        (launched, _) => panic!("{:?}", launched.err()),
    }
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_that_dies_is_told_from_a_command_that_fails() {
    let site = Site::new();
    let report = r#"echo '{"error":{"code":"SMOLVM_ERROR","message":"connection lost"}}' >&2; exit 1"#;
    // The command says what smolvm would say, but its machine runs: it is the command's own word.
    let bottle = site.launch(report).await.unwrap();
    let (_, err) = talk(bottle.guest_streams().unwrap(), b"").await;
    assert!(err.contains("connection lost"), "{err}");
    assert_eq!(bottle.wait_guest().await, Ok(1));
    assert!(bottle.close().await.is_clean());

    let bottle = site
        .launch(&format!("echo stopped > $VM/state; {report}"))
        .await
        .unwrap();
    let error = bottle.wait_guest().await.unwrap_err();
    assert!(
        error.to_string().contains("connection lost") && error.to_string().contains("stopped"),
        "{error}"
    );
    assert!(bottle.close().await.is_clean());
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// What smolvm (1.32.2) says of a machine that does not run, and of one whose agent does not answer within milliseconds.
const NOT_RUNNING: &str = r#"{"error":{"code":"SMOLVM_ERROR","message":"machine 'x' is not running. Start it with: smolvm machine start; if a start is already in progress, retry once it finishes"}}"#;

/// The command, a further program with its input, and a signal.
#[tokio::test]
async fn a_program_is_started_again_in_a_machine_that_was_busy() {
    let site = Site::new();
    let tries = |of: &str| {
        let is_try = |call: &&str| call.contains("machine exec") && call.ends_with(of);
        site.calls().lines().filter(is_try).count()
    };
    let busy_once = || site.tell("exec.fail-once", NOT_RUNNING);
    busy_once();
    let bottle = site.launch("cat; exit 7").await.unwrap();
    assert_eq!(tries("cat; exit 7"), 2, "{}", site.calls());
    let (out, err) = talk(bottle.guest_streams().unwrap(), b"hello").await;
    assert_eq!((out.as_str(), err.as_str()), ("hello", ""));

    busy_once();
    let spec = ExecSpec {
        command: ["sh", "-c", "cat; exit 3"].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    let exec = bottle.exec(&spec).await.unwrap();
    let (out, err) = talk(exec.streams, b"input").await;
    assert_eq!((out.as_str(), err.as_str()), ("input", ""));
    assert_eq!(exec.exit.await, Ok(3));
    assert_eq!(tries("cat; exit 3"), 2, "{}", site.calls());

    busy_once();
    bottle.signal_guest("TERM").await.unwrap();
    assert_eq!(
        tries("--signal TERM --pid-file /run/bottle-guest.pid"),
        2,
        "{}",
        site.calls()
    );
    assert!(bottle.close().await.is_clean());
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// A program that has begun is not started again, whatever it says.
#[tokio::test]
async fn a_program_that_says_what_smolvm_would_is_run_once() {
    let site = Site::new();
    let says = format!("echo '{}' >&2; exit 1", NOT_RUNNING.replace('\'', ""));
    let bottle = site.launch(&says).await.unwrap();
    let (_, err) = talk(bottle.guest_streams().unwrap(), b"").await;
    assert!(err.contains("is not running"), "{err}");
    assert_eq!(bottle.wait_guest().await, Ok(1));
    let spec = ExecSpec {
        command: ["sh", "-c", &says].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    assert_eq!(bottle.exec(&spec).await.unwrap().exit.await, Ok(1));
    let calls = site.calls();
    assert_eq!(
        calls.lines().filter(|call| call.contains("is not running")).count(),
        2,
        "{calls}"
    );
    assert!(bottle.close().await.is_clean());
}

/// Within a limit where it stays busy, and not at all where it has ended.
#[rstest]
#[case::busy("ls.unreachable", "always", "the machine is `unreachable`", 2..20)]
#[case::ended("vm/NAME/state", "stopped", "the machine is `stopped`", 1..2)]
#[tokio::test]
async fn a_program_that_cannot_be_started_again_is_told(
    #[case] file: &str,
    #[case] content: &str,
    #[case] expected: &str,
    #[case] tries: std::ops::Range<usize>,
) {
    let mut site = Site::new();
    site.settings.limits.look = SHORT * 2;
    let bottle = site.launch(FOREVER).await.unwrap();
    site.tell(&file.replace("NAME", &bottle.plan().guest.name), content);
    site.tell("exec.fail", NOT_RUNNING);
    let spec = ExecSpec {
        command: vec!["further".to_owned()],
        ..ExecSpec::default()
    };
    let exec = bottle.exec(&spec).await.unwrap();
    let error = exec.exit.await.unwrap_err().to_string();
    for words in [expected, "is not running"] {
        assert!(error.contains(words), "`{words}` is not in `{error}`");
    }
    let calls = site.calls();
    let tried = calls.lines().filter(|call| call.ends_with("further")).count();
    assert!(tries.contains(&tried), "{tried} tries");
    site.untell("exec.fail");
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn a_process_that_outlives_its_machine_is_ended() {
    let site = Site::new();
    let bottle = site.launch(FOREVER).await.unwrap();
    assert_eq!(site.boot_processes().len(), 1);
    site.tell("delete.leaves", "");
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_process_whose_start_was_cut_short_is_ended() {
    let mut site = Site::new();
    site.settings.limits.start = SHORT * 2;
    site.tell("start.late", "");
    site.tell("delete.leaves", "");
    let error = site.launch(FOREVER).await.err().unwrap();
    assert!(error.to_string().contains("not done within"), "{error}");
    assert!(error.undone.is_clean(), "{error}");
    assert!(site.calls().contains("machine data-dir"));
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// Where its directory is cannot be told, and so not what runs of it: the machine is removed all the same.
#[rstest]
#[case("data-dir.say", "garbage", "expected a directory, found `garbage`")]
#[case("data-dir.say", "", "expected a directory, found ``")]
#[case("data-dir.kill", "", "SIGKILL")]
#[case("data-dir.hang", "", "not done within")]
#[tokio::test]
async fn a_machine_whose_directory_is_not_told_is_removed(
    #[case] file: &str,
    #[case] content: &str,
    #[case] expected: &str,
) {
    let mut site = Site::new();
    site.settings.limits.start = SHORT * 2;
    site.settings.limits.look = SHORT;
    site.tell("start.late", "");
    site.tell(file, content);
    let error = site.launch(FOREVER).await.err().unwrap();
    assert!(error.to_string().contains("machine start: not done within"), "{error}");
    let problems: Vec<String> = error.undone.errors().map(|(_, problem)| problem.to_string()).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for part in ["smolvm machine data-dir", expected] {
        assert!(problems[0].contains(part), "{problems:?}");
    }
    assert!(site.calls().contains("machine delete"), "{}", site.calls());
    assert_eq!(site.boot_processes(), Vec::<String>::new());
}

/// The first start goes wrong in a way that another start may not; how often machines are made, started and removed.
#[rstest]
#[case("start.hang-once", "")]
#[case("start.late-once", "")]
#[case(
    "start.fail-once",
    r#"{"error":{"code":"SMOLVM_ERROR","message":"agent did not become ready within 25 s"}}"#
)]
#[tokio::test]
async fn a_machine_that_does_not_come_up_in_time_is_made_anew(#[case] file: &str, #[case] content: &str) {
    let mut site = Site::new();
    site.settings.limits.start = SHORT * 2;
    site.settings.start_tries = 2;
    // What a start that was cut short leaves running is ended before the next.
    site.tell("delete.leaves", "");
    site.tell(file, content);
    let bottle = site.launch("exit 7").await.unwrap();
    assert_eq!(bottle.wait_guest().await, Ok(7));
    assert_eq!(site.boot_processes().len(), 1);
    let calls = site.calls();
    let count = |call: &str| calls.lines().filter(|line| line.contains(call)).count();
    assert_eq!(
        [count("machine create"), count("machine start"), count("machine delete")],
        [2, 2, 1],
        "{calls}"
    );
    assert!(bottle.close().await.is_clean());
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("start.late", "", 2)]
#[case("start.fail", r#"{"error":{"code":"SMOLVM_ERROR","message":"no /dev/kvm"}}"#, 1)]
#[tokio::test]
async fn a_start_is_tried_as_often_as_it_is_worth_it(#[case] file: &str, #[case] content: &str, #[case] starts: usize) {
    let mut site = Site::new();
    site.settings.limits.start = SHORT;
    site.settings.start_tries = 2;
    site.tell(file, content);
    let error = site.launch(FOREVER).await.err().unwrap();
    assert!(error.undone.is_clean(), "{error}");
    let calls = site.calls();
    assert_eq!(
        calls.lines().filter(|line| line.contains("machine start")).count(),
        starts,
        "{calls}"
    );
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("delete.hang", "", "not done within")]
#[case("delete.kill", "", "SIGKILL")]
#[case(
    "delete.fail",
    r#"{"error":{"code":"SMOLVM_ERROR","message":"disk is read-only"}}"#,
    "disk is read-only"
)]
#[case("delete.fail", "no json at all", "no json at all")]
#[tokio::test]
async fn what_cannot_be_removed_is_told_and_removed_by_the_next_sweep(
    #[case] file: &str,
    #[case] content: &str,
    #[case] expected: &str,
) {
    let mut site = Site::new();
    site.settings.limits.delete = SHORT;
    let bottle = site.launch(FOREVER).await.unwrap();
    site.tell(file, content);
    let report = bottle.close().await;
    let problems: Vec<String> = report
        .errors()
        .map(|(step, problem)| format!("{step}: {problem}"))
        .collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for part in ["smolvm machine delete", expected] {
        assert!(problems[0].contains(part), "{problems:?}");
    }
    assert_eq!(
        site.boot_processes(),
        Vec::<String>::new(),
        "it runs no longer all the same"
    );
    site.untell(file);
    let backend = site.open().await.unwrap();
    // Its owner lives: this process. A dead one's is removed.
    let kept = sweep(&*backend, &SweepScope::default()).await.unwrap();
    assert_eq!((kept.removed.len(), kept.alive), (0, 1));
    let [journal] = &std::fs::read_dir(site.settings.state.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>()[..]
    else {
        panic!("expected one entry");
    };
    let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(journal).unwrap()).unwrap();
    let start: u64 = entry["labels"][LABEL_OWNER_START].as_str().unwrap().parse().unwrap();
    entry["labels"][LABEL_OWNER_START] = (start + 1).to_string().into();
    std::fs::write(journal, entry.to_string()).unwrap();
    let swept = sweep(&*backend, &SweepScope::default()).await.unwrap();
    assert_eq!(swept.removed.len(), 1, "{swept:?}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("delete.hang-once", "")]
#[case("delete.fail-once", "its process is still there")]
#[tokio::test]
async fn what_is_not_removed_at_first_is_when_its_process_has_ended(#[case] file: &str, #[case] content: &str) {
    let mut site = Site::new();
    site.settings.limits.delete = SHORT;
    let bottle = site.launch(FOREVER).await.unwrap();
    site.tell(file, content);
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
    let calls = site.calls();
    assert_eq!(
        calls.lines().filter(|line| line.contains("machine delete")).count(),
        2,
        "{calls}"
    );
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// The project is on the machine's disk before the command runs, and comes out of it when the command has ended.
#[tokio::test]
async fn a_copied_project_goes_in_and_comes_out() {
    let site = Site::new();
    std::fs::write(site.path("project/one"), "1\n").unwrap();
    let script = "cd $VM/disk/work/project && cat one && echo 2 >two";
    let plan = site.plan_with(script, Topology::Sealed, ", workspace: {}");
    let bottle = site.launch_on(site.open().await.unwrap(), plan).await.unwrap();
    let (out, err) = talk(bottle.guest_streams().unwrap(), b"").await;
    assert_eq!((out.as_str(), err.as_str()), ("1\n", ""));
    assert_eq!(bottle.wait_guest().await, Ok(0));
    let calls = site.calls();
    // Made for its user, whom nobody named.
    let unpack = calls.lines().find(|call| call.contains("--unpack")).unwrap();
    assert!(
        unpack.contains("--writable /work/project ") && unpack.contains("--confine 1000:1000"),
        "{unpack}"
    );
    assert!(!calls.contains("-work:"), "{calls}");
    assert_eq!(
        calls.lines().filter(|call| call.contains("machine start")).count(),
        1,
        "{calls}"
    );

    let mut archive = Vec::new();
    bottle
        .workspace_archive()
        .await
        .unwrap()
        .read_to_end(&mut archive)
        .await
        .unwrap();
    let after = tree::list(&*archive).unwrap();
    let changed: Vec<_> = tree::changes(bottle.workspace_before().unwrap(), &after)
        .into_keys()
        .collect();
    assert_eq!(changed, [std::path::Path::new("two")]);

    // What breaks off is an error, not the end of an archive.
    site.tell("pack.cut", "");
    let cut = bottle
        .workspace_archive()
        .await
        .unwrap()
        .read_to_end(&mut Vec::new())
        .await;
    let error = cut.unwrap_err().to_string();
    assert!(
        error.contains("exit code 1: bottle-guest: /work/project: no"),
        "{error}"
    );
    assert!(bottle.close().await.is_clean());
    assert_eq!(site.left().await, Vec::<String>::new());
}

#[rstest]
#[case("unpack.hang", "", &["copying the project: unpack below /work of", "no progress within"])]
#[case("unpack.fail", "bottle-guest: /work/project/one: No space left on device", &["copying the project", "No space left"])]
#[case("start.fail", r#"{"error":{"code":"SMOLVM_ERROR","message":"no /dev/kvm"}}"#, &["copying the project", "machine start", "no /dev/kvm"])]
#[tokio::test]
async fn a_project_that_does_not_go_in_is_undone(#[case] file: &str, #[case] content: &str, #[case] expected: &[&str]) {
    let mut site = Site::new();
    site.settings.limits.create = SHORT * 4;
    std::fs::write(site.path("project/one"), "1\n").unwrap();
    site.tell(file, content);
    let plan = site.plan_with(FOREVER, Topology::Sealed, ", workspace: {}");
    let error = site.launch_on(site.open().await.unwrap(), plan).await.err().unwrap();
    for words in expected {
        assert!(error.to_string().contains(words), "`{words}` is not in `{error}`");
    }
    assert!(error.undone.is_clean(), "{error}");
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// Without the firewall of the host, smolvm asks before each connection of the guest: here, by this test.
#[tokio::test]
async fn a_routed_machine_without_a_firewall_is_kept_to_one_port_by_smolvm() {
    let site = Site::new();
    let plan = site.plan_of(FOREVER, Topology::Routed);
    let bottle = site.launch_on(site.open().await.unwrap(), plan).await.unwrap();
    let (listener, token) = site.interceptor();
    let calls = site.calls();
    let create = calls.lines().find(|call| call.contains("machine create")).unwrap();
    let proxy: std::net::SocketAddrV4 = bottle.plan().guest.env["HTTP_PROXY"][7..].parse().unwrap();
    assert!(create.contains(&format!("--allow-host {}", proxy.ip())), "{create}");

    let ask = async |port: u16| {
        let mut stream = tokio::net::TcpStream::connect(listener).await.unwrap();
        let place = std::net::SocketAddrV4::new(*proxy.ip(), port);
        stream.write_all(&Site::question(&token, place, b"")).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    assert_eq!((ask(proxy.port()).await, ask(9099).await), (vec![0], vec![1]));
    assert!(bottle.close().await.is_clean());
    assert!(
        tokio::net::TcpStream::connect(listener).await.is_err(),
        "nobody decides any more"
    );
    assert_eq!(site.left().await, Vec::<String>::new());
}

/// What `bottle exec`, `cp`, `diff` and `stop` do: the launcher is another process.
#[tokio::test]
async fn another_process_runs_programs_in_a_machine() {
    let site = Site::new();
    std::fs::write(site.path("project/one"), "1\n").unwrap();
    let plan = site.plan_with(FOREVER, Topology::Sealed, ", user: 7:8, workspace: {}");
    let bottle = site.launch_on(site.open().await.unwrap(), plan).await.unwrap();
    let id = bottle.id(Role::Guest).to_owned();
    let other = site.open().await.unwrap();
    let spec = ExecSpec {
        command: ["sh", "-c", "cat; exit 3"].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    let exec = other.exec(Role::Guest, &id, &spec).await.unwrap();
    let (out, _) = talk(exec.streams, b"hello").await;
    assert_eq!((out.as_str(), exec.exit.await), ("hello", Ok(3)));
    let calls = site.calls();
    let call = calls.lines().find(|call| call.contains("cat; exit 3")).unwrap();
    assert!(call.contains("--confine 7:8 --workdir /work/project --exec"), "{call}");

    let mut archive = Vec::new();
    let mut output = other.get(Role::Guest, &id, "/work/project").await.unwrap();
    output.read_to_end(&mut archive).await.unwrap();
    assert_eq!(tree::list(&*archive).unwrap().len(), 1);
    other.signal(Role::Guest, &id, "TERM").await.unwrap();
    let error = other.attach(Role::Guest, &id, true).await.err().unwrap();
    assert!(error.problem.contains("bottle exec"), "{error}");
    assert!(bottle.close().await.is_clean());
    let error = other.exec(Role::Guest, &id, &spec).await.err().unwrap();
    assert_eq!(error.kind, BackendErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn another_process_knows_what_there_is() {
    let site = Site::new();
    let bottle = site.launch(FOREVER).await.unwrap();
    let other = site.open().await.unwrap();
    let found = other.inventory(LABEL_OWNER_PID, None).await.unwrap();
    let machine = found
        .iter()
        .find(|resource| resource.id.starts_with("smolvm/"))
        .unwrap();
    let seen = other.observe(bottle_backend::Role::Bundle, &machine.id).await.unwrap();
    assert!(seen.running);
    let planned = ContainerPlan {
        user: Some("1000:1000".to_owned()),
        ..bottle.plan().guest.clone()
    };
    assert_eq!(seen.applied, planned);
    let remains = bottle_smolvm::remains(&site.settings).unwrap();
    assert_eq!(remains.names.len(), 2);
    assert_eq!(remains.program, site.settings.program);
    assert!(bottle.close().await.is_clean());
    assert_eq!(bottle_smolvm::remains(&site.settings).unwrap(), Remains::default());
}
