//! The order of a launch and of its undoing, on the backend in memory.

#[path = "engine/fixture.rs"]
#[expect(dead_code, reason = "the part for the real engine is not used here")]
mod fixture;

use std::sync::Arc;
use std::time::Duration;

use bottle_backend::Role;
use bottle_backend::fake::{Failure, Fake};
use bottle_launch::{Bottle, BundleImage, LaunchError, LaunchFailure, LaunchOptions, Secrets, launch};
use bottle_plan::{BackendKind, Plan};
use fixture::{routed_of, secrets};
use proptest::prelude::*;

fn plan() -> Plan {
    routed_of("image:tag", "true")
}

/// A bottle whose guest is on no network, so that it is created early.
fn sealed_plan() -> Plan {
    let mut plan = plan();
    plan.guest.network = bottle_plan::NetworkMode::None;
    plan
}

/// A bottle whose guest is led to its bundle by a relay.
fn relayed_plan() -> Plan {
    let mut plan = sealed_plan();
    plan.bundle.publish = vec![("9470/tcp".to_owned(), [127, 0, 0, 1].into(), 0)];
    plan.config.relay = Some(bottle_policy::Relay {
        port: 9470,
        directory: "/run/bottle-relayed".to_owned(),
        services: Vec::new(),
    });
    plan
}

/// An engine that publishes what such a bottle needs.
fn engine() -> Fake {
    let fake = Fake::new(BackendKind::Docker);
    fake.publishes("9470/tcp", &[([127, 0, 0, 1].into(), 40_000)]);
    fake
}

async fn try_launch(fake: &Fake, plan: Plan, state: &std::path::Path) -> Result<Bottle, LaunchError> {
    let mut options = LaunchOptions::new("run", state);
    options.guest_stdio = true;
    options.ready_within = Duration::from_secs(5);
    launch(plan, secrets(), Arc::new(fake.clone()), options).await
}

fn state() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn nothing_in(state: &tempfile::TempDir) -> bool {
    std::fs::read_dir(state.path().join("bottles")).map_or(true, |mut entries| entries.next().is_none())
}

/// How many calls a launch makes when nothing fails.
async fn calls_of_a_launch(plan: Plan) -> usize {
    let (fake, state) = (engine(), state());
    let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
    let calls = fake.calls().len();
    assert!(bottle.close().await.is_clean());
    calls
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Whichever call fails, and whether or not the engine did what was asked, nothing remains, and what was made is undone
/// before what it was made on.
fn check_failing_at(plan: Plan, call: usize, failure: Failure) {
    runtime().block_on(async {
        let (fake, state) = (engine(), state());
        fake.fail_at(call, failure);
        let launched = try_launch(&fake, plan, state.path()).await;
        let undone = match launched {
            Err(error) => {
                assert!(matches!(error.failure, LaunchFailure::Backend { .. }), "{error}");
                error.undone
            }
            // The sweep's call, and the watch for an end, may fail without keeping a bottle from running.
            Ok(bottle) => bottle.close().await,
        };
        assert!(undone.is_clean(), "{undone:?}");
        assert_eq!(fake.resources(), [], "call {call}, {failure:?}: {:?}", fake.calls());
        assert!(nothing_in(&state));
        let calls = fake.calls();
        let order = |verb: &str| -> Vec<String> {
            let names = calls.iter().filter_map(|call| call.strip_prefix(verb));
            names
                .map(|name| {
                    name.trim_start_matches("network ")
                        .trim_start_matches("volume ")
                        .to_owned()
                })
                .collect()
        };
        let mut made = order("create ");
        made.reverse();
        let removed = order("remove ");
        assert!(removed.iter().all(|name| made.contains(name)));
        made.retain(|name| removed.contains(name));
        assert_eq!(made.len(), removed.len(), "each once: {calls:?}");
        let containers = |name: &String| name.ends_with("-guest") || name.ends_with("-bundle");
        assert!(
            removed.is_sorted_by_key(|name| !containers(name)),
            "call {call}, {failure:?}: {calls:?}"
        );
    });
}

#[test]
fn every_failing_call_leaves_nothing() {
    for plan in [plan, sealed_plan, relayed_plan] {
        let calls = runtime().block_on(calls_of_a_launch(plan()));
        assert!(calls > 15, "{calls}");
        for call in 0..calls {
            check_failing_at(plan(), call, Failure::Refused);
            check_failing_at(plan(), call, Failure::AnswerLost);
        }
    }
}

/// The guest ends before its bundle's lease does, and networks and volumes go last.
#[tokio::test]
async fn a_bottle_is_undone_guest_first() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let plan = plan();
    let mut made = vec![plan.guest.name.clone(), plan.bundle.name.clone()];
    made.extend(plan.volumes.iter().map(|volume| volume.name.clone()));
    made.extend(plan.networks.iter().rev().map(|network| network.name.clone()));
    let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
    assert!(bottle.close().await.is_clean());
    let calls = fake.calls();
    let removed: Vec<&str> = calls.iter().filter_map(|call| call.strip_prefix("remove ")).collect();
    assert_eq!(removed, made);
}

/// A sealed guest needs no network: it is created while the bundle's is made, and started after the bundle is ready.
#[tokio::test]
async fn a_sealed_guest_does_not_wait_for_the_bundles_network() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let plan = sealed_plan();
    let (guest, bundle) = (plan.guest.name.clone(), plan.bundle.name.clone());
    let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
    let calls = fake.calls();
    let at = |wanted: &str| calls.iter().position(|call| call == wanted).unwrap();
    assert!(
        at(&format!("create {guest}")) < at(&format!("create {bundle}")),
        "{calls:?}"
    );
    let starts: Vec<&String> = calls.iter().filter(|call| call.starts_with("start ")).collect();
    assert_eq!(
        starts,
        [
            &format!("start {}", bottle.id(Role::Bundle)),
            &format!("start {}", bottle.id(Role::Guest))
        ]
    );
    assert!(bottle.close().await.is_clean());
    assert_eq!(fake.resources(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Cancelled at any moment, a launch leaves nothing either.
    #[test]
    fn a_launch_cancelled_anywhere_leaves_nothing(turns in 0_usize..120, sealed in any::<bool>()) {
        runtime().block_on(async {
            let (fake, state) = (Fake::new(BackendKind::Docker), state());
            let plan = if sealed { sealed_plan() } else { plan() };
            let (stop, cancel) = tokio::sync::watch::channel(false);
            let mut options = LaunchOptions::new("run", state.path());
            options.cancel = Some(cancel);
            let launching = tokio::spawn(launch(plan, secrets(), Arc::new(fake.clone()), options));
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            stop.send_replace(true);
            match launching.await.unwrap() {
                Ok(bottle) => assert!(bottle.close().await.is_clean()),
                Err(error) => {
                    assert!(matches!(error.failure, LaunchFailure::Cancelled), "{error}");
                    assert!(error.undone.is_clean());
                }
            }
            assert_eq!(fake.resources(), []);
            assert!(nothing_in(&state));
        });
    }
}

#[tokio::test]
async fn drift_names_the_field_and_the_guest_is_not_started() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    fake.be_careless(Arc::new(|role, plan| {
        if role == Role::Guest {
            plan.hardening.seccomp = false;
            plan.limits.pids = None;
        }
    }));
    let error = try_launch(&fake, plan(), state.path()).await.err().unwrap();
    let text = error.to_string();
    let LaunchFailure::Drift { drifts } = error.failure else {
        panic!("{text}")
    };
    let fields: Vec<&str> = drifts.iter().map(|drift| drift.field.as_str()).collect();
    assert_eq!(fields, ["guest.hardening.seccomp", "guest.limits.pids"]);
    assert!(text.contains("guest.limits.pids: planned 64, observed null"), "{text}");
    assert_eq!(fake.calls().iter().filter(|call| call.starts_with("start ")).count(), 1);
    assert_eq!(fake.resources(), []);
}

/// The bundle is ready and its port seen before the guest's sockets are led there, and the guest starts after that.
#[tokio::test]
async fn a_relay_is_there_before_the_guest_starts() {
    let (fake, state) = (engine(), state());
    let bottle = try_launch(&fake, relayed_plan(), state.path()).await.unwrap();
    let guest = bottle.id(Role::Guest).to_owned();
    let calls = fake.calls();
    let at = |call: String| {
        calls
            .iter()
            .position(|one| *one == call)
            .unwrap_or_else(|| panic!("{call}: {calls:?}"))
    };
    let relay = at(format!("relay {guest} to 127.0.0.1:40000"));
    assert!(at(format!("observe {}", bottle.id(Role::Bundle))) < relay, "{calls:?}");
    assert!(relay < at(format!("start {guest}")), "{calls:?}");
    assert!(bottle.close().await.is_clean());

    // A port that is published elsewhere is drift, and the guest is not started.
    let fake = Fake::new(BackendKind::Docker);
    fake.publishes("9470/tcp", &[([0, 0, 0, 0].into(), 40_000)]);
    let error = try_launch(&fake, relayed_plan(), state.path()).await.err().unwrap();
    assert!(matches!(error.failure, LaunchFailure::Drift { .. }), "{error}");
    assert_eq!(fake.calls().iter().filter(|call| call.starts_with("start ")).count(), 1);
    assert_eq!(fake.resources(), []);
}

#[tokio::test]
async fn a_bundle_that_cannot_run_says_why() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    fake.bundle_says(vec![
        r#"{"event":"failed","bottle":"x","reason":"no such port"}"#.to_owned(),
    ]);
    let error = try_launch(&fake, plan(), state.path()).await.err().unwrap();
    assert!(
        matches!(&error.failure, LaunchFailure::BundleFailed { reason, .. } if reason == "no such port"),
        "{error}"
    );
    assert_eq!(fake.resources(), []);
}

#[tokio::test]
async fn a_bundle_that_ends_or_stays_silent_is_a_failure() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    fake.bundle_says(Vec::new());
    let error = try_launch(&fake, plan(), state.path()).await.err().unwrap();
    assert!(
        matches!(&error.failure, LaunchFailure::BundleEnded { status, .. } if status == "exit code 1"),
        "{error}"
    );

    fake.bundle_says(vec!["starting".to_owned()]);
    let mut options = LaunchOptions::new("run", state.path());
    options.ready_within = Duration::from_millis(50);
    let error = launch(plan(), secrets(), Arc::new(fake.clone()), options)
        .await
        .err()
        .unwrap();
    assert!(matches!(&error.failure, LaunchFailure::BundleLate { .. }), "{error}");
    assert_eq!(fake.resources(), []);
}

#[tokio::test]
async fn a_missing_token_is_refused_before_anything_is_made() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let options = LaunchOptions::new("run", state.path());
    let error = launch(plan(), Secrets::none(), Arc::new(fake.clone()), options)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("TEST_TOKEN"), "{error}");
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plan_for_another_backend_is_refused() {
    let (fake, state) = (Fake::new(BackendKind::Smolmachines), state());
    let error = try_launch(&fake, plan(), state.path()).await.err().unwrap();
    assert!(matches!(error.failure, LaunchFailure::WrongBackend { .. }), "{error}");
}

#[tokio::test]
async fn a_guest_image_that_is_missing_is_named_and_the_bundle_image_is_loaded() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    fake.only_images(&["other:1"]);
    let mut options = LaunchOptions::new("run", state.path());
    options.bundle_image = Some(BundleImage::ready("image:tag", bytes::Bytes::from_static(b"archive")));
    let mut plan = plan();
    plan.guest.image = "absent:1".to_owned();
    let error = launch(plan, secrets(), Arc::new(fake.clone()), options)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("the guest's image `absent:1`"), "{error}");
    assert!(fake.calls().contains(&"load image image:tag".to_owned()));
    assert_eq!(fake.resources(), []);
}

#[tokio::test]
async fn without_teardown_close_leaves_everything() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let mut plan = plan();
    plan.lifecycle.teardown = false;
    plan.bundle.auto_remove = false;
    plan.guest.auto_remove = false;
    let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
    let before = fake.resources().len();
    assert!(bottle.close().await.steps.is_empty());
    assert_eq!(fake.resources().len(), before);
    assert!(!nothing_in(&state));
}

#[tokio::test]
async fn state_files_are_private_and_never_overwrite() {
    use std::os::unix::fs::PermissionsExt;
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let mut plan = plan();
    plan.state = vec![bottle_plan::StateFile {
        name: "note".to_owned(),
        content: "text".to_owned(),
        mode: 0o600,
        keep: false,
    }];
    let bottle = try_launch(&fake, plan.clone(), state.path()).await.unwrap();
    for name in ["note", "plan.json", "owner"] {
        let mode = std::fs::metadata(bottle.state().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        std::fs::metadata(bottle.state()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let saved: Plan = serde_json::from_slice(&std::fs::read(bottle.state().join("plan.json")).unwrap()).unwrap();
    assert_eq!(saved, plan);

    // The same slug again: refused, and the first one's files stay.
    let error = try_launch(&fake, plan, state.path()).await.err().unwrap();
    assert!(matches!(error.failure, LaunchFailure::State { .. }), "{error}");
    assert!(bottle.state().join("note").exists());
    assert!(bottle.close().await.is_clean());
    assert!(nothing_in(&state));
}

#[tokio::test]
async fn the_guest_starts_last_unless_the_plan_says_otherwise() {
    for bundle_first in [true, false] {
        let (fake, state) = (Fake::new(BackendKind::Docker), state());
        let mut plan = plan();
        plan.lifecycle.bundle_first = bundle_first;
        let guest = plan.guest.name.clone();
        let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
        let guest_id = fake
            .resources()
            .into_iter()
            .find(|resource| resource.name == guest)
            .unwrap()
            .id;
        let starts: Vec<String> = fake
            .calls()
            .into_iter()
            .filter(|call| call.starts_with("start "))
            .collect();
        let expected = if bundle_first { 1 } else { 0 };
        assert_eq!(starts.len(), 2);
        assert_eq!(
            starts.iter().position(|call| *call == format!("start {guest_id}")),
            Some(expected)
        );
        assert_eq!(bottle.ca_pem(), "FAKE");
        assert!(bottle.close().await.is_clean());
    }
}

#[tokio::test]
async fn a_file_that_is_kept_stays_alone() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let mut plan = plan();
    let file = |name: &str, keep| bottle_plan::StateFile {
        name: name.to_owned(),
        content: String::new(),
        mode: 0o644,
        keep,
    };
    plan.state = vec![file("kept", true), file("gone", false)];
    let bottle = try_launch(&fake, plan, state.path()).await.unwrap();
    assert!(bottle.close().await.is_clean());
    let left: Vec<_> = std::fs::read_dir(bottle.state())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["kept"]);
}

#[tokio::test]
async fn a_state_directory_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    for is_whole in [false, true] {
        let (fake, state) = (Fake::new(BackendKind::Docker), state());
        let bottles = state.path().join("bottles");
        std::fs::create_dir(&bottles).unwrap();
        let (open, closed) = if is_whole {
            (state.path(), bottles.as_path())
        } else {
            (bottles.as_path(), state.path())
        };
        for (path, mode) in [(open, 0o777), (closed, 0o700)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let error = try_launch(&fake, plan(), state.path()).await.err().unwrap();
        assert!(matches!(error.failure, LaunchFailure::State { .. }), "{error}");
        assert_eq!(fake.resources(), []);
        assert_eq!(std::fs::read_dir(&bottles).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn tokens_are_nowhere_but_on_the_bundles_input() {
    let (fake, state) = (Fake::new(BackendKind::Docker), state());
    let bottle = try_launch(&fake, plan(), state.path()).await.unwrap();
    let mut seen = format!("{:?} {:?} {:?}", fake.calls(), fake.resources(), bottle.guest());
    seen.push_str(&format!("{:?} {:?}", bottle.bundle(), secrets()));
    for entry in std::fs::read_dir(bottle.state()).unwrap() {
        seen.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    assert!(seen.contains("TEST_TOKEN"));
    assert!(!seen.contains("a-token-of-the-test"));
    assert!(bottle.close().await.is_clean());
}
