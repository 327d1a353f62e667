//! The sweep's judgement, on the backend in memory.

#[path = "engine/fixture.rs"]
#[expect(dead_code, reason = "the part for the real engine is not used here")]
mod fixture;

use std::path::{Path, PathBuf};

use bottle_backend::fake::{Failure, Fake};
use bottle_backend::{Labels, Resource, ResourceKind};
use bottle_launch::{LABEL_MADE, LABEL_OWNER_WHERE, Owner, SweepScope, labels, sweep};
use bottle_plan::{BackendKind, LABEL_OWNER_PID, LABEL_OWNER_START};
use fixture::container;

fn plant(fake: &Fake, kind: ResourceKind, name: &str, labels: &Labels, running: bool) {
    let resource = Resource {
        kind,
        name: name.to_owned(),
        id: name.to_owned(),
        labels: labels.clone(),
    };
    fake.plant(resource, container(name.to_owned(), "image", "true"), running);
}

fn names(fake: &Fake) -> Vec<String> {
    let mut names: Vec<String> = fake.resources().into_iter().map(|resource| resource.name).collect();
    names.sort();
    names
}

fn with(slug: &str, changes: &[(&str, &str)]) -> Labels {
    let mut labels = labels(slug, "run", "guest");
    for (name, value) in changes {
        labels.insert((*name).to_owned(), (*value).to_owned());
    }
    labels
}

/// An empty directory among those of bottles.
fn directory(state: &Path, name: &str) -> PathBuf {
    let path = bottle_launch::state_path(state, name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A bottle's directory, in which a process with this test's id is noted.
fn noted(state: &Path, slug: &str, start: u64, place: &str) -> PathBuf {
    let path = directory(state, slug);
    let pid = Owner::current().pid;
    std::fs::write(path.join("owner"), format!("{pid}\n{start}\n{place}\n")).unwrap();
    path
}

#[tokio::test]
async fn only_the_dead_are_swept() {
    let fake = Fake::new(BackendKind::Docker);
    // This process with another start time: its id was reused.
    let dead = with("dead", &[(LABEL_OWNER_START, "1")]);
    let mut incomplete = dead.clone();
    incomplete.remove(LABEL_OWNER_START);
    let old_foreign = with(
        "far",
        &[(LABEL_OWNER_WHERE, "far"), (LABEL_MADE, "1000"), (LABEL_OWNER_PID, "7")],
    );
    let new_foreign = with("new", &[(LABEL_OWNER_WHERE, "far"), (LABEL_OWNER_PID, "8")]);
    let busy_foreign = with(
        "busy",
        &[(LABEL_OWNER_WHERE, "far"), (LABEL_MADE, "1000"), (LABEL_OWNER_PID, "9")],
    );
    for (name, labels, running) in [
        ("alive", &with("alive", &[]), true),
        ("dead", &dead, true),
        ("incomplete", &incomplete, false),
        ("old-foreign", &old_foreign, false),
        ("new-foreign", &new_foreign, false),
        ("busy-foreign", &busy_foreign, true),
        ("nobody", &Labels::new(), false),
    ] {
        plant(&fake, ResourceKind::Container, name, labels, running);
    }
    plant(&fake, ResourceKind::Volume, "dead-volume", &dead, false);
    plant(&fake, ResourceKind::Volume, "busy-volume", &busy_foreign, false);
    let report = sweep(&fake, &SweepScope::default()).await.unwrap();
    assert_eq!(
        names(&fake),
        [
            "alive",
            "busy-foreign",
            "busy-volume",
            "incomplete",
            "new-foreign",
            "nobody"
        ]
    );
    assert_eq!((report.removed.len(), report.alive, report.foreign), (3, 2, 3));
    let containers_first: Vec<ResourceKind> = report.removed.iter().map(|resource| resource.kind).collect();
    assert_eq!(containers_first.last(), Some(&ResourceKind::Volume));
    assert!(sweep(&fake, &SweepScope::default()).await.unwrap().removed.is_empty());
}

#[tokio::test]
async fn directories_of_the_dead_go_too() {
    let fake = Fake::new(BackendKind::Docker);
    let state = tempfile::tempdir().unwrap();
    let me = Owner::current();
    let dead = noted(state.path(), "dead", me.start + 1, &me.place);
    let alive = noted(state.path(), "alive", me.start, &me.place);
    let foreign = noted(state.path(), "foreign", me.start, "far");
    let unknown = directory(state.path(), "unknown");
    let scope = SweepScope::all(state.path());
    let report = sweep(&fake, &scope).await.unwrap();
    assert_eq!(report.directories, std::slice::from_ref(&dead));
    assert!(!dead.exists());
    assert!(alive.exists() && foreign.exists() && unknown.exists());
}

#[tokio::test]
async fn directories_that_the_dead_were_making_or_removing_go_too() {
    let fake = Fake::new(BackendKind::Docker);
    let state = tempfile::tempdir().unwrap();
    let me = Owner::current();
    // Whoever is killed there has written nothing into it yet.
    let passing = |start: u64, place: &str, slug: &str| {
        let name = format!(".{}.{start}.{}.{slug}", me.pid, hex::encode(place));
        directory(state.path(), &name)
    };
    let dead = passing(me.start + 1, &me.place, "dev.1-abc");
    let alive = passing(me.start, &me.place, "dev-abd");
    let foreign = passing(me.start + 1, "far", "dev-abe");
    let hidden = directory(state.path(), ".hidden");
    let report = sweep(&fake, &SweepScope::all(state.path())).await.unwrap();
    assert_eq!(report.directories, std::slice::from_ref(&dead));
    assert!(!dead.exists());
    assert!(alive.exists() && foreign.exists() && hidden.exists());
}

#[tokio::test]
async fn a_directory_that_is_all_that_is_left_waits_for_no_other() {
    let fake = Fake::new(BackendKind::Docker);
    let state = tempfile::tempdir().unwrap();
    let me = Owner::current();
    let [alone, more, stuck] =
        ["alone", "more", "stuck"].map(|slug| noted(state.path(), slug, me.start + 1, &me.place));
    for slug in ["stuck", "more"] {
        let labels = with(slug, &[(LABEL_OWNER_START, "1")]);
        plant(&fake, ResourceKind::Container, slug, &labels, true);
    }
    // The inventory is the first call.
    fake.fail_at(1, Failure::Refused);
    let report = sweep(&fake, &SweepScope::all(state.path())).await.unwrap();
    let kept = if more.exists() {
        (&more, &stuck)
    } else {
        (&stuck, &more)
    };
    assert_eq!(report.directories, [&alone, kept.1].map(Clone::clone));
    assert_eq!(report.failed.len(), 1);
    assert!(kept.0.exists() && !kept.1.exists());
}
