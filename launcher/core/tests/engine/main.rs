//! Launches on the real engine.

mod fixture;
mod remains;
mod seen;
mod streams;

use bottle_backend::Role;
use bottle_launch::launch;
use bottle_plan::Plan;
use bottle_policy::Listen;
use fixture::{engine, left, options, outcome, routed, sealed, secrets, shell};

const FOREVER: &str = "exec /bin/busybox sleep 600";

#[tokio::test]
async fn a_sealed_bottle_lives_and_leaves_nothing() {
    let Some(engine) = engine("launch of a sealed bottle").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let plan = sealed(FOREVER);
    let slug = plan.slug.clone();
    let bottle = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    assert_eq!(bottle.ca_pem(), "PEM");
    assert_eq!(bottle.ready_after_ms(), 7);
    assert!(bottle.guest().running);
    assert!(bottle.guest().pid.is_some());
    assert!(bottle.guest().addresses.values().all(Vec::is_empty));
    assert_eq!(bottle.unparsed_lines(), (1, vec!["this is no event".to_owned()]));
    assert_eq!(bottle.event_log().len(), 1);
    assert_eq!(bottle.bundle_stderr_tail().len(), 1);

    // The guest sees what the bundle published, cannot change it, and has no interface but loopback.
    let seen = bottle
        .exec(&shell("cat /run/bottle/config; cat /run/bottle/tokens-length"))
        .await
        .unwrap();
    let (code, seen, _) = outcome(seen).await;
    let length = r#"{"tokens":{"TEST_TOKEN":"a-token-of-the-test"}}"#.len();
    assert_eq!(
        (code, seen),
        (
            0,
            format!("{}{length}", serde_json::to_string(&bottle.plan().config).unwrap())
        )
    );
    let (code, _, problem) = outcome(bottle.exec(&shell("echo x > /run/bottle/x")).await.unwrap()).await;
    assert_ne!(code, 0);
    assert!(problem.contains("ead-only"), "{problem}");
    let (_, interfaces, _) = outcome(bottle.exec(&shell("/bin/busybox ls /sys/class/net")).await.unwrap()).await;
    assert_eq!(interfaces.trim(), "lo");
    let (_, status, _) = outcome(bottle.exec(&shell("/bin/busybox cat /proc/self/status")).await.unwrap()).await;
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }

    assert_eq!(left(&*engine, &slug).await.len(), 3);
    let steps: Vec<String> = bottle.steps().iter().map(|step| step.kind.name().to_owned()).collect();
    assert_eq!(steps, ["guest", "lease", "bundle", "volume", "state directory"]);
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
    assert!(!bottle.state().exists());
    assert!(bottle.close().await.steps.is_empty());
}

#[tokio::test]
async fn a_routed_bottle_moves_to_the_subnet_that_the_engine_took() {
    let Some(engine) = engine("a second bottle on the same candidates").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let listening = |mut plan: Plan| {
        let first = plan.networks[0].subnets[0].cidr.replace("0/24", "2:8888");
        plan.config.listen = vec![Listen::Tcp(first.parse().unwrap())];
        plan
    };
    // Both plans name the same candidates; the engine gives the first to the first.
    let one = launch(
        listening(routed(FOREVER)),
        secrets(),
        engine.clone(),
        options(state.path()),
    );
    let one = one.await.unwrap();
    let two = launch(
        listening(routed(FOREVER)),
        secrets(),
        engine.clone(),
        options(state.path()),
    );
    let two = two.await.unwrap();
    let mut addresses = Vec::new();
    for bottle in [&one, &two] {
        let inner = &bottle.plan().networks[0].name;
        let address = bottle.bundle().addresses[inner][0];
        assert_eq!(bottle.plan().config.listen, vec![Listen::Tcp((address, 8888).into())]);
        let saved = std::fs::read_to_string(bottle.state().join("plan.json")).unwrap();
        assert!(saved.contains(&format!("{address}:8888")), "{saved}");
        addresses.push(address);
    }
    assert_ne!(addresses[0], addresses[1]);
    for bottle in [one, two] {
        let report = bottle.close().await;
        assert!(report.is_clean(), "{report:?}");
    }
}

#[tokio::test]
async fn a_routed_bottle_has_its_networks() {
    let Some(engine) = engine("launch of a routed bottle").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let plan = routed(FOREVER);
    let slug = plan.slug.clone();
    let inner = plan.networks[0].name.clone();
    let bottle = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    let address = bottle.bundle().addresses[&inner][0].to_string();
    assert!(address.ends_with(".2"), "{address}");
    assert!(bottle.guest().addresses[&inner][0].to_string().ends_with(".3"));
    assert_eq!(bottle.subnets().len(), 2);
    let (code, said, problem) = outcome(
        bottle
            .exec(&shell(&format!("/bin/busybox ping -c 1 -W 2 {address}")))
            .await
            .unwrap(),
    )
    .await;
    // Without CAP_NET_RAW a ping may be refused; that the neighbour is known is enough.
    let (_, neighbours, _) = outcome(bottle.exec(&shell("/bin/busybox cat /proc/net/route")).await.unwrap()).await;
    assert!(neighbours.contains("eth0"), "{code} {said} {problem} {neighbours}");
    let now = bottle.observe(Role::Bundle).await.unwrap();
    assert_eq!(now.addresses.len(), 2);
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_bundle_that_breaks_is_quoted_and_nothing_stays() {
    let Some(engine) = engine("a bundle that breaks").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let mut plan = sealed(FOREVER);
    let slug = plan.slug.clone();
    plan.bundle.entrypoint[2] = "echo 'no such thing' >&2; exit 3".to_owned();
    let error = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(text.contains("exit code 3") && text.contains("no such thing"), "{text}");
    assert!(error.undone.is_clean(), "{error:?}");
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_program_that_the_engine_cannot_start_is_a_failure_of_that_step() {
    let Some(engine) = engine("a guest that cannot start").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let mut plan = sealed(FOREVER);
    let slug = plan.slug.clone();
    plan.guest.entrypoint = vec!["/no/such/program".to_owned()];
    let error = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains("starting the guest") && text.contains("/no/such/program"),
        "{text}"
    );
    assert!(error.undone.is_clean(), "{error:?}");
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_bundles_last_words_are_heard() {
    let Some(engine) = engine("the end of the lease").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let mut plan = sealed(FOREVER);
    let last = r#"{"event":"failed","bottle":"x","reason":"bye"}"#;
    plan.bundle.entrypoint[2] = plan.bundle.entrypoint[2].replace(
        "exec /bin/busybox cat > /dev/null",
        &format!("/bin/busybox cat > /dev/null; echo '{last}'"),
    );
    let bottle = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    assert!(bottle.close().await.is_clean());
    assert_eq!(bottle.event_log().len(), 2);
    assert_eq!(bottle.wait_bundle().await, Ok(0));
}
