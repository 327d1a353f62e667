//! The witness on the real engine: killed in the middle of a run, it makes cases inconclusive and nothing held.

use std::sync::Arc;

use bottle_backend::{Backend, Role};
use bottle_docker::Docker;
use bottle_plan::Topology;
use probe_spec::{Verdict, judge};

use crate::batch::{Target, batches, witnesses};
use crate::cli::Filter;
use crate::fixture::{Fixture, Kind};
use crate::lab::{Lab, LabOptions};
use crate::selection::select;
use crate::shared::Shared;
use crate::sightings::fresh_nonce;

/// Says that the test is left out, which only the operator can ask for.
fn left_out() -> bool {
    let asked = std::env::var_os("BOTTLE_TEST_NO_ENGINE").is_some();
    if asked {
        eprintln!("left out: BOTTLE_TEST_NO_ENGINE is set");
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_or_an_agent_that_dies_in_the_middle_of_a_run_makes_it_inconclusive() {
    if left_out() {
        return;
    }
    let backend: Arc<dyn Backend> = Arc::new(Docker::connect().await.unwrap());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let run = fresh_nonce().as_str()[2..10].to_owned();
    let parts = crate::parts::parts(&backend.facts().await.unwrap().platform).unwrap();
    let lab = Lab::open(LabOptions {
        run,
        images_of_machines: None,
        engine: backend.clone(),
        backend,
        parts,
        program: None,
        stop: stopped,
    })
    .await
    .unwrap();
    let verdicts = verdicts(&lab).await;
    let left = lab.close().await;
    assert!(left.is_empty(), "{left:?}");
    let (alive, witness_dead, agent_dead) = verdicts.unwrap();
    assert!(alive.iter().all(|verdict| *verdict == Verdict::Held), "{alive:?}");
    assert!(
        witness_dead.iter().all(|verdict| *verdict == Verdict::Inconclusive),
        "{witness_dead:?}"
    );
    assert!(
        agent_dead
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Inconclusive | Verdict::Error)),
        "{agent_dead:?}"
    );
}

type Verdicts = Vec<Verdict>;

/// Verdicts of EG-01 as it should be, after the witness was killed, and after the guest was.
async fn verdicts(lab: &Lab) -> Result<(Verdicts, Verdicts, Verdicts), crate::SuiteError> {
    let peer = Fixture::shipped(lab, Kind::Peer, Topology::Routed).await?;
    let fixture = Fixture::shipped(lab, Kind::Attacked, Topology::Sealed).await?;
    let keys = fixture.keys(lab, &peer);
    let filter = Filter {
        backend: vec![crate::cli::BackendChoice::Docker],
        patterns: vec!["EG-01".to_owned()],
        topology: vec![Topology::Sealed],
        ..Filter::default()
    };
    let (batches, _) = batches(select(&filter).unwrap());
    let wanted = witnesses(batches.iter().flat_map(|batch| batch.cells()));
    let shared = Shared::default();
    let target = Target {
        lab,
        fixture: &fixture,
        peer: &peer,
        keys: &keys,
        shared: &shared,
    };
    let mut all = Vec::new();
    for step in 0..3 {
        // What the attempt finds as its proof of before.
        target.prove_before(&wanted).await?;
        match step {
            1 => lab.backend.signal(Role::Bundle, &lab.outside_id, "KILL").await.unwrap(),
            2 => lab
                .backend
                .signal(Role::Guest, &fixture.bottle.guest().id, "KILL")
                .await
                .unwrap(),
            _ => {}
        }
        let mut verdicts = Vec::new();
        for batch in &batches {
            let evidence = target.attempt(batch).await?;
            verdicts.extend(evidence.iter().map(|evidence| judge(evidence).verdict));
        }
        all.push(verdicts);
    }
    let [alive, witness_dead, agent_dead] = <[Verdicts; 3]>::try_from(all).unwrap_or_default();
    Ok((alive, witness_dead, agent_dead))
}
