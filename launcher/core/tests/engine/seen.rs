//! What was planned is what the engine reports, and a single difference is found.

use std::collections::BTreeMap;

use bottle_backend::{Backend, Resource, ResourceKind, Role};
use bottle_docker::Docker;
use bottle_launch::{container_drift, labels, network_drift};
use bottle_plan::{ContainerPlan, NetworkMode, NetworkPlan, Subnet};

use crate::fixture::{container, engine, image, slug};

/// A change of the plan, and the field in which it must be seen.
type Change = (&'static str, fn(&mut ContainerPlan));

const CHANGES: &[Change] = &[
    ("entrypoint", |plan| plan.entrypoint.push("more".to_owned())),
    ("command", |plan| plan.command = vec!["more".to_owned()]),
    ("env.TERM", |plan| {
        drop(plan.env.insert("TERM".to_owned(), "other".to_owned()))
    }),
    ("user", |plan| plan.user = Some("1:1".to_owned())),
    ("workdir", |plan| plan.workdir = Some("/tmp".to_owned())),
    ("hostname", |plan| plan.hostname = Some("other".to_owned())),
    ("tty", |plan| plan.tty = true),
    ("stdin", |plan| plan.stdin = false),
    ("network", |plan| plan.network = NetworkMode::Host),
    ("dns", |plan| plan.dns = vec!["10.1.1.1".parse().unwrap()]),
    ("extra_hosts", |plan| {
        plan.extra_hosts = vec![("a".to_owned(), "10.1.1.1".to_owned())]
    }),
    ("publish", |plan| {
        plan.publish = vec![("80/tcp".to_owned(), "127.0.0.1".parse().unwrap(), 0)]
    }),
    ("tmpfs", |plan| plan.tmpfs[0].1 = 2 << 20),
    ("hardening.capabilities", |plan| {
        plan.hardening.capabilities = vec!["NET_RAW".to_owned()]
    }),
    ("hardening.capabilities", |plan| {
        plan.hardening.capabilities = vec!["ALL".to_owned()]
    }),
    ("hardening.no_new_privileges", |plan| {
        plan.hardening.no_new_privileges = false
    }),
    ("hardening.seccomp", |plan| plan.hardening.seccomp = false),
    ("hardening.read_only_root", |plan| plan.hardening.read_only_root = false),
    ("hardening.privileged", |plan| plan.hardening.privileged = true),
    ("hardening.host_pid", |plan| plan.hardening.host_pid = true),
    ("hardening.host_ipc", |plan| plan.hardening.host_ipc = true),
    ("limits.memory", |plan| plan.limits.memory = Some(32 << 20)),
    ("limits.milli_cpus", |plan| plan.limits.milli_cpus = None),
    ("limits.pids", |plan| plan.limits.pids = None),
    ("limits.open_files", |plan| plan.limits.open_files = Some(128)),
    ("auto_remove", |plan| plan.auto_remove = false),
];

/// Makes a container of the plan, looks at it, removes it.
async fn applied(engine: &Docker, plan: &ContainerPlan) -> ContainerPlan {
    let labels = labels("test-seen", "test", "guest");
    let id = engine
        .create(Role::Guest, plan, &labels, &BTreeMap::new())
        .await
        .unwrap();
    let seen = engine.observe(Role::Guest, &id).await;
    let made = Resource {
        kind: ResourceKind::Container,
        name: plan.name.clone(),
        id,
        labels: labels.clone(),
    };
    engine.remove(&made).await.unwrap();
    let seen = seen.unwrap();
    assert!(labels.iter().all(|(name, value)| seen.labels.get(name) == Some(value)));
    assert!(!seen.running && seen.pid.is_none());
    seen.applied
}

#[tokio::test]
async fn a_container_is_seen_as_it_was_planned() {
    let Some(engine) = engine("reading containers back").await else {
        return;
    };
    let image = image();
    engine.load_image(&image.reference, image.archive).await.unwrap();
    let plan = container(format!("bottle-{}", slug()), &image.reference, "true");
    assert_eq!(container_drift("guest", &plan, &applied(&engine, &plan).await), []);
    for (field, change) in CHANGES {
        let mut changed = plan.clone();
        change(&mut changed);
        let seen = applied(&engine, &changed).await;
        assert_eq!(container_drift("guest", &changed, &seen), [], "{field}");
        if plan_leaves_open(&plan, field) {
            continue;
        }
        let drifts = container_drift("guest", &plan, &seen);
        let fields: Vec<&str> = drifts.iter().map(|drift| drift.field.as_str()).collect();
        assert_eq!(fields, [format!("guest.{field}")]);
    }
}

/// Fields that the base plan leaves to the image.
fn plan_leaves_open(plan: &ContainerPlan, field: &str) -> bool {
    (field == "user" && plan.user.is_none()) || (field == "workdir" && plan.workdir.is_none())
}

#[tokio::test]
async fn a_network_is_seen_as_it_was_planned_and_overlaps_are_passed_over() {
    let Some(engine) = engine("reading networks back").await else {
        return;
    };
    let subnet = |cidr: &str, gateway: &str, members: Option<&str>| Subnet {
        cidr: cidr.to_owned(),
        gateway: Some(gateway.parse().unwrap()),
        members_gateway: members.map(|gateway| gateway.parse().unwrap()),
    };
    let number = std::process::id() % 250;
    let first = subnet(&format!("10.250.{number}.0/24"), &format!("10.250.{number}.1"), None);
    let members = format!("10.251.{number}.254");
    let second = subnet(
        &format!("10.251.{number}.0/24"),
        &format!("10.251.{number}.1"),
        Some(&members),
    );
    let mut plan = NetworkPlan {
        name: format!("bottle-{}-one", slug()),
        role: "inner-network".to_owned(),
        internal: true,
        host_absent: true,
        masquerade: false,
        subnets: vec![first.clone()],
        ipv6: Some(subnet(
            &format!("fd00:b0:{number}::/64"),
            &format!("fd00:b0:{number}::1"),
            None,
        )),
    };
    let mut made = Vec::new();
    let labels = labels("test-seen", "test", "inner-network");
    let one = engine.create_network(&plan, &labels).await.unwrap();
    made.push((plan.name.clone(), one.id.clone()));
    let seen_one = engine.observe_network(&plan.name).await;
    let twice = engine.create_network(&plan, &labels).await;

    let planned_one = plan.clone();
    plan.name = format!("bottle-{}-two", slug());
    plan.internal = false;
    plan.ipv6 = None;
    plan.subnets = vec![first, second.clone()];
    let two = engine.create_network(&plan, &labels).await;
    made.extend(two.iter().map(|two| (plan.name.clone(), two.id.clone())));
    let seen_two = engine.observe_network(&plan.name).await;
    for (name, id) in made {
        let resource = Resource {
            kind: ResourceKind::Network,
            name,
            id,
            labels: labels.clone(),
        };
        engine.remove(&resource).await.unwrap();
    }
    assert_eq!(network_drift(&planned_one, &seen_one.unwrap()), []);
    assert_eq!(twice.unwrap_err().kind, bottle_backend::BackendErrorKind::Conflict);
    assert_eq!(two.unwrap().subnet, second.cidr);
    let seen_two = seen_two.unwrap();
    assert_eq!(network_drift(&plan, &seen_two), []);
    plan.host_absent = false;
    let drifts = network_drift(&plan, &seen_two);
    assert!(
        drifts.len() == 1 && drifts[0].field.ends_with(".host_absent"),
        "{drifts:?}"
    );
}

#[tokio::test]
async fn the_engine_tells_its_facts() {
    let Some(engine) = engine("facts of the engine").await else {
        return;
    };
    let facts = engine.facts().await.unwrap();
    assert!(facts.engine.starts_with("docker "), "{facts:?}");
    assert!(facts.platform.starts_with("linux/"), "{facts:?}");
    assert!(
        !facts.api.is_empty() && !facts.kernel.is_empty() && !facts.subnets.is_empty(),
        "{facts:?}"
    );
    assert_eq!(engine.find_image("bottle-test-no-such-image:1").await, Ok(None));
}
