//! Real tools in real bottles, with the witness as their internet: PX-22, and that tools work behind the proxy without fiddling.
//!
//! Needs the tools' image; `cargo xtask test` makes it and says which it is.

mod agent;
mod stage;
mod table;

use std::time::{Duration, Instant};

use bottle_plan::Topology;
use bottle_policy::DecisionVerdict;
use futures_util::{StreamExt as _, stream};
use probe_spec::{Vantage, world};

use crate::sightings::fresh_nonce;
use stage::{Ran, Stage, Staged};
use table::{SAID, TOOLS, Tool};

/// Tools at a time: most of what they take is waiting.
const AT_A_TIME: usize = 3;

/// How long the record of a refusal may take.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);

/// Unsets all that leads a tool to the proxy, so that it dials by itself.
const WITHOUT_PROXY: &str = "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY JAVA_TOOL_OPTIONS NODE_OPTIONS \
                             NODE_USE_ENV_PROXY\n";

#[rstest::rstest]
#[case::sealed(Topology::Sealed)]
#[case::routed(Topology::Routed)]
#[tokio::test(flavor = "multi_thread")]
async fn tools_work_behind_the_proxy_and_none_goes_round_it(#[case] topology: Topology) {
    let Some(stage) = Stage::open().await else { return };
    let bottle = stage.launch(topology, false).await;
    let shelf = stage.shelf(&bottle).await;
    let wrong = each(async |tool| {
        let mut wrong = Vec::new();
        for scheme in ["https", "http"] {
            wrong.extend(allowed(&stage, &bottle, &shelf, tool, scheme).await.err());
            wrong.extend(denied(&stage, &bottle, tool, scheme).await.err());
        }
        wrong.extend(alone(&stage, &bottle, tool, false).await.err());
        wrong
    });
    let wrong = wrong.await;
    stage.close().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What the test above would see of a tool that goes round the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_bottle_with_another_way_out_each_tool_is_seen_going_round() {
    let Some(stage) = Stage::open().await else { return };
    let bottle = stage.launch(Topology::Sealed, true).await;
    let wrong = each(async |tool| alone(&stage, &bottle, tool, true).await.err().into_iter().collect()).await;
    stage.close().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Tries each tool, and says how long it took; what is wrong.
async fn each(attempt: impl AsyncFn(&'static Tool) -> Vec<String>) -> Vec<String> {
    let attempts = stream::iter(TOOLS).map(async |tool| {
        let begun = Instant::now();
        let wrong = attempt(tool).await;
        println!("{}: {} ms", tool.name, begun.elapsed().as_millis());
        wrong
    });
    attempts.buffer_unordered(AT_A_TIME).concat().await
}

/// An allowed fetch works, and reaches the origin from the bundle's address only.
async fn allowed(
    stage: &Stage,
    bottle: &Staged,
    shelf: &[(String, Vec<u8>)],
    tool: &Tool,
    scheme: &str,
) -> Result<(), String> {
    let nonce = fresh_nonce();
    let base = format!("{scheme}://{}{}{nonce}", world::ALLOWED, world::SHELF);
    stage.put_on_shelf(nonce.as_str(), &base, shelf).await;
    let ran = bottle.run(tool.script, &base).await;
    let told = |problem: &str| Err(failure(tool, &format!("allowed over {scheme}: {problem}"), &ran));
    if ran.code != 0 || !ran.said.contains(SAID) {
        return told("it does not work");
    }
    if !stage.lab.mark().await {
        return told("the witness is deaf");
    }
    let seen = stage.lab.sightings.of(&nonce);
    if seen.is_empty() {
        return told("nothing reached the origin");
    }
    let from = format!("{}:", bottle.outer_address(stage));
    match seen
        .iter()
        .find(|one| one.at != Vantage::Origin || !one.from.starts_with(&from))
    {
        Some(stray) => told(&format!("seen elsewhere: {stray:?}")),
        None => Ok(()),
    }
}

/// A denied fetch fails, says why, is recorded, and reaches nobody.
async fn denied(stage: &Stage, bottle: &Staged, tool: &Tool, scheme: &str) -> Result<(), String> {
    let nonce = fresh_nonce();
    // A name of its own: its refusal is told from those of other tools.
    let host = format!("{nonce}.{}", world::DENIED);
    let base = format!("{scheme}://{host}{}{nonce}", world::SHELF);
    let ran = bottle.run(tool.script, &base).await;
    let told = |problem: &str| Err(failure(tool, &format!("denied over {scheme}: {problem}"), &ran));
    let shown = if scheme == "https" {
        tool.refused
    } else {
        tool.refused_plain
    };
    if ran.code == 0 {
        return told("it does not fail");
    }
    if !ran.said.contains(shown) {
        return told(&format!("it does not show `{shown}`"));
    }
    let is_refusal = |decision: &bottle_policy::DecisionRecord| {
        decision.verdict == DecisionVerdict::Deny && decision.host.as_ref() == Some(&host)
    };
    let begun = Instant::now();
    // A record comes on a way of its own, beside the answer.
    while !bottle.decisions().iter().any(is_refusal) {
        if begun.elapsed() > RECORDED_WITHIN {
            return told("no refusal was recorded");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nowhere(stage, &nonce).await.or_else(|problem| told(&problem))
}

/// A tool that is not told of the proxy dials by itself: into nothing, but for a bottle that has another way out.
async fn alone(stage: &Stage, bottle: &Staged, tool: &Tool, is_leaky: bool) -> Result<(), String> {
    let nonce = fresh_nonce();
    let base = format!("http://{}{}{nonce}", world::DENIED_ADDRESS, world::SHELF);
    let ran = bottle.run(&format!("{WITHOUT_PROXY}{}", tool.script), &base).await;
    let told = |problem: &str| Err(failure(tool, &format!("by itself: {problem}"), &ran));
    if ran.code == 0 {
        return told("it does not fail");
    }
    let outcome = nowhere(stage, &nonce).await;
    match (is_leaky, outcome) {
        (true, Ok(())) => told("its going round was not seen"),
        (false, Err(problem)) => told(&problem),
        _ => Ok(()),
    }
}

/// Nothing of it was seen by a witness that still hears.
async fn nowhere(stage: &Stage, nonce: &probe_spec::Nonce) -> Result<(), String> {
    if !stage.lab.mark().await {
        return Err("the witness is deaf".to_owned());
    }
    match stage.lab.sightings.of(nonce).first() {
        Some(seen) => Err(format!("it was seen: {seen:?}")),
        None => Ok(()),
    }
}

fn failure(tool: &Tool, what: &str, ran: &Ran) -> String {
    format!("{}, {what}\nexit code {}; it said:\n{}", tool.name, ran.code, ran.said)
}
