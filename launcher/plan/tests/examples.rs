//! Every example manifest is one whose agent can be planned.

use std::path::Path;

use bottle_plan::{HostFacts, PrepareOptions, parse, prepare};

#[test]
fn every_example_can_be_planned_and_holds_no_token() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut planned = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let manifest = parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        let agents: Vec<String> = manifest.document().agents.keys().cloned().collect();
        assert_eq!(agents.as_slice(), std::slice::from_ref(&name));
        let options = PrepareOptions {
            agent: Some(name.clone()),
            bundle_image: "bottle-bundle:0".to_owned(),
            system_trust: true,
            ..PrepareOptions::default()
        };
        let facts = HostFacts {
            workspace: Some("/home/operator/app".to_owned()),
            ..HostFacts::default()
        };
        let plan = prepare(&manifest, "dev", &facts, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        for variable in &plan.token_env {
            assert_eq!(plan.guest.env[variable], bottle_plan::placeholder(variable), "{name}");
        }
        // Whoever writes a prompt has the agent told of it.
        let agent = plan.agent.unwrap();
        let prompt_file = &plan.guest.env["BOTTLE_PROMPT_FILE"];
        let is_told = plan
            .guest
            .command
            .iter()
            .any(|word| word.contains(prompt_file.as_str()));
        assert_eq!(is_told, !agent.prompt.is_empty(), "{name}: {:?}", plan.guest.command);
        planned.push(name);
    }
    planned.sort();
    assert_eq!(planned, ["aider", "claude", "codex", "gemini", "shell"]);
}
