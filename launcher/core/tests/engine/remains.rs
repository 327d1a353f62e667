//! What a dead launcher leaves is removed; what anyone else has stays.

use std::collections::BTreeMap;

use bottle_backend::{Backend, Labels, Role};
use bottle_docker::Docker;
use bottle_launch::{SweepScope, labels, sweep};
use bottle_plan::{LABEL_OWNER_PID, LABEL_OWNER_START, MountSource, NetworkMode};

use crate::fixture::{engine, image, left, routed, slug};

/// A launcher that lives until it is killed: other tests sweep too, and must not take what is still being made.
struct Launcher(std::process::Child);

impl Launcher {
    fn start() -> Self {
        Self(std::process::Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn labels(&self, slug: &str, run: &str) -> Labels {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let mut labels = labels(slug, run, "guest");
        labels.insert(LABEL_OWNER_PID.to_owned(), self.0.id().to_string());
        labels.insert(
            LABEL_OWNER_START.to_owned(),
            rest.split_whitespace().nth(19).unwrap().to_owned(),
        );
        labels
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Networks, a volume and a running container of one slug.
async fn make(engine: &Docker, labels: &Labels) -> String {
    let mut plan = routed("exec /bin/busybox sleep 600");
    let slug = labels[bottle_plan::LABEL_SLUG].clone();
    plan.networks.truncate(1);
    plan.networks[0].name = format!("bottle-{slug}-inner");
    plan.networks[0].subnets.clear();
    plan.volumes[0].name = format!("bottle-{slug}-shared");
    plan.guest.name = format!("bottle-{slug}-guest");
    plan.guest.mounts[0].source = MountSource::Volume(plan.volumes[0].name.clone());
    plan.guest.auto_remove = false;
    if let NetworkMode::Networks(attachments) = &mut plan.guest.network {
        attachments[0].network = plan.networks[0].name.clone();
        attachments[0].host_number = None;
    }
    let made = engine.create_network(&plan.networks[0], labels).await.unwrap();
    engine.create_volume(&plan.volumes[0], labels).await.unwrap();
    let subnets = BTreeMap::from([(plan.networks[0].name.clone(), made.subnet)]);
    let id = engine.create(Role::Guest, &plan.guest, labels, &subnets).await.unwrap();
    engine.start(Role::Guest, &id).await.unwrap();
    slug
}

#[tokio::test]
async fn a_dead_launchers_remains_go_and_a_live_ones_stay() {
    let Some(engine) = engine("the sweep").await else {
        return;
    };
    let image = image();
    engine.load_image(&image.reference, image.archive).await.unwrap();
    let run = format!("sweep-{}", slug());
    let launcher = Launcher::start();
    let gone = make(&engine, &launcher.labels(&slug(), &run)).await;
    let alive = make(&engine, &labels(&slug(), &run, "guest")).await;
    assert_eq!(
        (left(&*engine, &gone).await.len(), left(&*engine, &alive).await.len()),
        (3, 3)
    );

    let scope = SweepScope {
        state_dir: None,
        run: Some(run.clone()),
    };
    let early = sweep(&*engine, &scope).await.unwrap();
    assert_eq!((early.removed.len(), early.alive), (0, 6));
    drop(launcher);

    // Two sweeps at once, as when two launchers start together.
    let scope = SweepScope {
        state_dir: None,
        run: Some(run.clone()),
    };
    let (one, other) = tokio::join!(sweep(&*engine, &scope), sweep(&*engine, &scope));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.failed, other.failed), (vec![], vec![]));
    assert_eq!(left(&*engine, &gone).await, Vec::<String>::new());
    assert_eq!((one.alive, left(&*engine, &alive).await.len()), (3, 3));
    let again = sweep(&*engine, &scope).await.unwrap();
    assert!(again.removed.is_empty() && again.failed.is_empty());

    let mut remains = engine.inventory(bottle_plan::LABEL_SLUG, Some(&alive)).await.unwrap();
    remains.sort();
    for resource in remains {
        engine.remove(&resource).await.unwrap();
    }
    assert_eq!(left(&*engine, &alive).await, Vec::<String>::new());
}

/// The launcher is killed while the engine makes the container: the sweep removes the volume under the engine's hands.
#[tokio::test]
async fn a_volume_that_the_engine_makes_again_by_its_name_is_ours() {
    let Some(engine) = engine("a volume without its creation").await else {
        return;
    };
    let image = image();
    engine.load_image(&image.reference, image.archive).await.unwrap();
    let slug = slug();
    let labels = labels(&slug, &format!("again-{slug}"), "guest");
    let mut plan = crate::fixture::sealed("exec /bin/busybox sleep 600").guest;
    let volume = format!("bottle-{slug}-shared");
    plan.name = format!("bottle-{slug}-guest");
    plan.mounts[0].source = MountSource::Volume(volume.clone());
    engine
        .create(Role::Guest, &plan, &labels, &BTreeMap::new())
        .await
        .unwrap();
    let made = engine.inventory(bottle_plan::LABEL_SLUG, Some(&slug)).await.unwrap();
    for resource in made.iter() {
        engine.remove(resource).await.unwrap();
    }
    let of_the_volume = made.iter().find(|resource| resource.name == volume);
    assert_eq!(of_the_volume.map(|volume| &volume.labels), Some(&labels));
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
}
