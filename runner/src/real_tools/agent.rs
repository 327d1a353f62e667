//! The real Claude Code in a real bottle, against a stand-in of its API behind a route.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle_launch::Provided;
use bottle_plan::{Topology, placeholder};
use probe_spec::{Answer, Nonce, Vantage, world};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stage::{MANIFEST, Stage, Staged, TOKEN_ENV};
use crate::sightings::fresh_nonce;

/// Path of the API's only method that a turn needs.
const MESSAGES: &str = "/v1/messages";

/// What the stand-in of the model says at the end.
const LAST_WORDS: &str = "the skill was followed";

/// Runs the agent's own command, says that it has ended and how, and keeps the guest for a look into it until it is told to
/// end.
const ATTENDED: &str = "\"$@\" </dev/null 2>&1\ncode=$?\necho \"ended: $code\"\nread -r line\nexit \"$code\"";

/// Lists where the texts of standard input stand in the guest: in what its processes were started with, in their environments,
/// and in all files that can be written. What is searched for is in no argument and no file of the search.
const SEARCH: &str = "patterns=$(cat)
for process in /proc/[0-9]*; do
    for file in environ cmdline; do
        printf '%s\\n' \"$patterns\" | grep -qaF -f - \"$process/$file\" 2>/dev/null && echo \"$file\"
    done
done
printf '%s\\n' \"$patterns\" | grep -raFl -f - /tmp /var/tmp /home /run /dev/shm /etc/ssl 2>/dev/null
true";

#[rstest::rstest]
#[case::sealed(Topology::Sealed)]
#[case::routed(Topology::Routed)]
#[tokio::test(flavor = "multi_thread")]
async fn claude_code_reads_prompt_and_skill_and_completes_a_turn_with_a_key_that_it_never_has(
    #[case] topology: Topology,
) {
    let Some(stage) = Stage::open().await else { return };
    let outcome = turn(&stage, topology).await;
    stage.close().await;
    outcome.unwrap_or_else(|problem| panic!("{problem}"));
}

async fn turn(stage: &Stage, topology: Topology) -> Result<(), String> {
    let [prompt, described, body] = [(); 3].map(|()| fresh_nonce());
    let key = stage.lab.redaction.sentinel();
    answer(stage, &["tool_result"], &says(LAST_WORDS)).await;
    answer(stage, &[], &calls("Skill", &json!({ "skill": "review" }))).await;
    let manifest = MANIFEST.replace("to be replaced", &format!("You know {prompt}."));
    let mut plan = stage.plan(&manifest, topology, Some("worker"), &[]).await;
    let own = std::mem::take(&mut plan.guest.command);
    plan.guest.command = ["sh", "-c", ATTENDED, "sh"].map(str::to_owned).into();
    plan.guest.command.extend(own);
    let file = |path: &str, content: String| Provided {
        path: path.to_owned(),
        executable: false,
        content: content.into(),
    };
    let skill = format!("---\nname: review\ndescription: How to review, with {described}.\n---\nSay {body}.\n");
    let provided = vec![
        file(
            "agent/prompt.md",
            plan.agent
                .as_ref()
                .map(|agent| agent.prompt.clone())
                .unwrap_or_default(),
        ),
        file("agent/skills/review/SKILL.md", skill),
    ];
    let bottle = stage.launch_plan(plan, key.clone(), provided, true).await;
    let streams = bottle.bottle.guest_streams().ok_or("the guest has no streams")?;
    let (mut stdin, mut stdout) = (streams.stdin, streams.stdout);
    let said = until_ended(&mut stdout).await?;
    if !said.contains(LAST_WORDS) || !said.contains("ended: 0") {
        return Err(format!("the turn was not completed; it said:\n{said}"));
    }
    seen(
        stage,
        &bottle,
        [
            ("prompt", &prompt),
            ("skill's description", &described),
            ("skill", &body),
            ("key", &key),
        ],
    )
    .await?;
    searched(&bottle, &key).await?;
    stdin.write_all(b"end\n").await.map_err(|error| error.to_string())?;
    match bottle.bottle.wait_guest().await {
        Ok(0) => Ok(()),
        other => Err(format!("expected the guest to end with 0, found {other:?}")),
    }
}

/// Each was seen at the route's origin, whereto the bundle brought it, and nowhere else.
async fn seen<const N: usize>(stage: &Stage, bottle: &Staged, all: [(&str, &Nonce); N]) -> Result<(), String> {
    if !stage.lab.mark().await {
        return Err("the witness is deaf".to_owned());
    }
    let from = format!("{}:", bottle.outer_address(stage));
    for (what, nonce) in all {
        let seen = stage.lab.sightings.of(nonce);
        if seen.is_empty() {
            return Err(format!("the {what} did not reach the stand-in of the API"));
        }
        let is_right = |one: &&probe_spec::Sighting| {
            one.at == Vantage::Origin && one.to == world::ROUTE && one.from.starts_with(&from)
        };
        if let Some(stray) = seen.iter().find(|one| !is_right(one)) {
            return Err(format!("the {what} was seen elsewhere: {stray:?}"));
        }
    }
    Ok(())
}

/// The key is nowhere in the guest, where the same search finds its placeholder.
async fn searched(bottle: &Staged, key: &Nonce) -> Result<(), String> {
    let key = key.as_str();
    let forms = [
        key.to_owned(),
        STANDARD.encode(key),
        hex::encode(key),
        key.to_uppercase(),
    ]
    .join("\n");
    let found = bottle.search(SEARCH, &forms).await;
    if !found.is_empty() {
        return Err(format!("the key is in the guest: {found}"));
    }
    let found = bottle.search(SEARCH, &placeholder(TOKEN_ENV)).await;
    if !found.contains("environ") {
        return Err(format!("the search does not find what is there: {found}"));
    }
    Ok(())
}

/// What the guest says until its agent has ended.
async fn until_ended(stdout: &mut bottle_backend::Output) -> Result<String, String> {
    let mut said = String::new();
    let mut piece = [0; 4096];
    let reading = async {
        while !said.contains("ended: ") || !said.ends_with('\n') {
            match stdout.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => said.push_str(&String::from_utf8_lossy(&piece[..count])),
            }
        }
    };
    match tokio::time::timeout(super::stage::PATIENCE, reading).await {
        Ok(()) => Ok(said),
        Err(_) => Err(format!("it did not end; it said:\n{said}")),
    }
}

/// Has the stand-in of the API answer requests that have these texts with a stream of events.
async fn answer(stage: &Stage, given: &[&str], events: &[Value]) {
    let body: String = events
        .iter()
        .map(|event| {
            format!(
                "event: {}\ndata: {event}\n\n",
                event["type"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let answer = Answer {
        path: MESSAGES.to_owned(),
        given: given.iter().map(|text| (*text).to_owned()).collect(),
        kind: "text/event-stream".to_owned(),
        body: STANDARD.encode(body),
    };
    assert!(stage.lab.outside.answer(answer).await);
}

/// A message of the model that is a text.
fn says(text: &str) -> Vec<Value> {
    let block = json!({ "type": "text", "text": "" });
    message(&block, &json!({ "type": "text_delta", "text": text }), "end_turn")
}

/// A message of the model that calls a tool.
fn calls(tool: &str, input: &Value) -> Vec<Value> {
    let block = json!({ "type": "tool_use", "id": "toolu_1", "name": tool, "input": {} });
    let delta = json!({ "type": "input_json_delta", "partial_json": input.to_string() });
    message(&block, &delta, "tool_use")
}

/// A message as its stream of events.
fn message(block: &Value, delta: &Value, stop: &str) -> Vec<Value> {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "stand-in", "content": [], "stop_reason": null,
        "stop_sequence": null, "usage": { "input_tokens": 1, "output_tokens": 1 },
    });
    let end = json!({ "stop_reason": stop, "stop_sequence": null });
    vec![
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": end, "usage": { "output_tokens": 1 } }),
        json!({ "type": "message_stop" }),
    ]
}
