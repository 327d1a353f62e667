//! The agent: its command line, its prompt and its skills.

use std::collections::BTreeMap;

use bottle_policy::SHARED_DIR;

use crate::describe::{nearest, one_of};
use crate::document::Agent;
use crate::manifest::{Manifest, ManifestError};
use crate::places::below;
use crate::plan::{AgentPlan, CopyPlan, SkillPlan};
use crate::prepare::{Input, PlanError, option};

/// In a command of the manifest, the place of the prompt's file.
const PROMPT_FILE: &str = "{prompt_file}";

/// Claude Code's program, and its flag for a file that is added to its own instructions.
const CLAUDE: &str = "claude";
const CLAUDE_PROMPT: &str = "--append-system-prompt-file";

/// What is set in the guest's environment besides the rest.
pub(super) const VARIABLES: [&str; 2] = ["BOTTLE_PROMPT_FILE", "BOTTLE_SKILLS_DIR"];

impl Manifest {
    /// An agent by name.
    ///
    /// # Errors
    /// There is none of that name, or its bottle is none of the manifest's.
    pub fn agent(&self, name: &str) -> Result<&Agent, ManifestError> {
        let document = self.document();
        let Some(agent) = document.agents.get(name) else {
            let known: Vec<&str> = document.agents.keys().map(String::as_str).collect();
            let expected = if known.is_empty() {
                "an agent below the key `agents`, which is absent or empty".to_owned()
            } else {
                one_of(&known)
            };
            return Err(ManifestError {
                place: self.place("agents"),
                expected,
                found: format!("no agent `{name}`"),
                help: nearest(name, known).map(|near| format!("did you mean `{near}`?").into()),
            });
        };
        if !document.bottles.contains_key(&agent.bottle) {
            let names: Vec<&String> = document.bottles.keys().collect();
            return Err(self.refuse(&format!("{}.bottle", below("agents", name)), one_of(&names)));
        }
        Ok(agent)
    }
}

/// The agent that was asked for, with the command to run for it or for none.
pub(super) fn agent(
    input: &Input<'_>,
    env: &BTreeMap<String, String>,
) -> Result<(Option<AgentPlan>, Vec<String>), PlanError> {
    let given = &input.options.command;
    let Some(name) = &input.options.agent else {
        if given.first().is_none_or(String::is_empty) {
            return Err(option("COMMAND", "what to run in the bottle, after `--`", "nothing"));
        }
        return Ok((None, given.clone()));
    };
    let agent = input.manifest.agent(name)?;
    let path = below("agents", name);
    let home = env.get("HOME").map_or("/", String::as_str).trim_end_matches('/');
    let is_claude = |command: &[String]| command.first().is_some_and(|first| file_name(first) == CLAUDE);
    let written: Vec<String> = agent.command.iter().map(|part| part.0.clone()).collect();
    if given.is_empty() && written.first().is_none_or(String::is_empty) {
        let expected = "the program and its arguments, here or on the command line after `--`";
        return Err(input.manifest.refuse(&format!("{path}.command"), expected).into());
    }
    let prompt = agent.prompt.clone().unwrap_or_default();
    let prompt_file = format!("{home}/.bottle/prompt.md");
    let skills_dir = if is_claude(&written) {
        format!("{home}/.claude/skills")
    } else {
        format!("{home}/.bottle/skills")
    };
    let command = if given.is_empty() {
        with_prompt(&written, &prompt, &prompt_file, is_claude(&written))
    } else {
        given.clone()
    };
    let skills = skills(input, &path, &agent.skills)?;
    let mut copies = vec![CopyPlan {
        source: format!("{SHARED_DIR}/agent/prompt.md"),
        target: prompt_file,
    }];
    copies.extend(skills.iter().map(|skill| CopyPlan {
        source: format!("{SHARED_DIR}/agent/skills/{}", skill.name),
        target: format!("{skills_dir}/{}", skill.name),
    }));
    Ok((
        Some(AgentPlan {
            name: name.clone(),
            prompt,
            skills_dir,
            skills,
            copies,
        }),
        command,
    ))
}

/// The manifest's command with the prompt's file where it belongs; an empty prompt is no part of it.
fn with_prompt(written: &[String], prompt: &str, file: &str, is_claude: bool) -> Vec<String> {
    let asks = written.iter().any(|part| part.contains(PROMPT_FILE));
    let mut command: Vec<String> = written.iter().map(|part| part.replace(PROMPT_FILE, file)).collect();
    if is_claude && !asks && !prompt.trim().is_empty() {
        command.splice(1..1, [CLAUDE_PROMPT.to_owned(), file.to_owned()]);
    }
    command
}

fn skills(input: &Input<'_>, path: &str, written: &[String]) -> Result<Vec<SkillPlan>, PlanError> {
    let mut skills: Vec<SkillPlan> = Vec::new();
    for (index, source) in written.iter().enumerate() {
        let name = file_name(source.trim_end_matches('/'));
        let at = format!("{path}.skills[{index}]");
        if !is_skill_name(name) {
            let expected = "the path of a directory whose name has only letters, digits, `.`, `_` and `-`";
            return Err(input.manifest.refuse(&at, expected).into());
        }
        if skills.iter().any(|skill| skill.name == name) {
            return Err(input.manifest.refuse(&at, "directories of different names").into());
        }
        skills.push(SkillPlan {
            name: name.to_owned(),
            source: source.clone(),
        });
    }
    Ok(skills)
}

fn is_skill_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
