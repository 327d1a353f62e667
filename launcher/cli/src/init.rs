//! `bottle init`: a starter manifest for the project it stands in.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::args::{AgentName, InitArgs};
use crate::failure::{Failure, say};
use crate::image::{REPOSITORY, how_to_have};
use crate::plan::print;

/// What a project is written in: a file that tells it, an image, and where its packages come from.
struct Kind {
    files: &'static [&'static str],
    image: &'static str,
    hosts: &'static [&'static str],
    /// What is made again in the bottle rather than copied into it.
    exclude: &'static [&'static str],
}

const KINDS: &[Kind] = &[
    Kind {
        files: &["package.json"],
        image: "node:22-bookworm",
        hosts: &["registry.npmjs.org"],
        exclude: &["node_modules"],
    },
    Kind {
        files: &["pyproject.toml", "requirements.txt", "setup.py"],
        image: "python:3.13-bookworm",
        hosts: &["pypi.org", "files.pythonhosted.org"],
        exclude: &[".venv", "__pycache__"],
    },
    Kind {
        files: &["Cargo.toml"],
        image: "rust:1-bookworm",
        hosts: &["index.crates.io", "static.crates.io"],
        exclude: &["target"],
    },
    Kind {
        files: &["go.mod"],
        image: "golang:1-bookworm",
        hosts: &["proxy.golang.org", "sum.golang.org"],
        exclude: &[],
    },
    Kind {
        files: &["pom.xml", "build.gradle", "build.gradle.kts"],
        image: "eclipse-temurin:21",
        hosts: &["repo.maven.apache.org"],
        exclude: &["build"],
    },
];

const DEBIAN: &str = "debian:bookworm";

/// How an agent is started, and where its model is.
struct Known {
    command: &'static str,
    /// Host, how the token is added, the variable that holds it.
    route: Option<(&'static str, &'static str, &'static str)>,
}

fn known(agent: AgentName) -> Known {
    let (command, route) = match agent {
        AgentName::Claude => (
            "claude",
            Some(("api.anthropic.com", "header: x-api-key", "ANTHROPIC_API_KEY")),
        ),
        AgentName::Codex => ("codex", Some(("api.openai.com", "scheme: bearer", "OPENAI_API_KEY"))),
        AgentName::Gemini => (
            "gemini",
            Some((
                "generativelanguage.googleapis.com",
                "header: x-goog-api-key",
                "GEMINI_API_KEY",
            )),
        ),
        AgentName::Aider => (
            "aider",
            Some(("api.anthropic.com", "header: x-api-key", "ANTHROPIC_API_KEY")),
        ),
        AgentName::Shell => ("sh", None),
    };
    Known { command, route }
}

/// Writes the manifest; one that is there stays.
pub fn init(args: &InitArgs) -> Result<u8, Failure> {
    let text = starter(args.agent, |name| Path::new(name).exists());
    if args.print {
        return print(&text);
    }
    let mut options = std::fs::File::options();
    options.write(true).create_new(true).mode(0o644);
    let written = options
        .open(&args.manifest)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| Failure::Unreadable {
        path: args.manifest.clone(),
        source,
        hint: "; `bottle init --print` shows the starter without writing it",
    })?;
    say(&format!(
        "wrote {}; `bottle plan` shows what it makes, `bottle run` launches it",
        args.manifest.display()
    ));
    Ok(0)
}

fn starter(agent: AgentName, is_there: impl Fn(&str) -> bool) -> String {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|kind| kind.files.iter().any(|file| is_there(file)))
        .collect();
    let image = match agent {
        // The recommended one has it.
        AgentName::Claude => REPOSITORY,
        _ => kinds.first().map_or(DEBIAN, |kind| kind.image),
    };
    let having = how_to_have(image);
    let hosts: Vec<&str> = kinds.iter().flat_map(|kind| kind.hosts).copied().collect();
    let exclude: Vec<&str> = kinds.iter().flat_map(|kind| kind.exclude).copied().collect();
    let exclude = exclude.join(", ");
    let Known { command, route } = known(agent);
    let allow = if hosts.is_empty() {
        "      allow: []\n      # allow: [\"packages.example.com\", \"*.example.org\", \"example.net:8443\"]\n"
            .to_owned()
    } else {
        let lines: Vec<String> = hosts.iter().map(|host| format!("        - {host}\n")).collect();
        format!("      allow:\n{}", lines.concat())
    };
    let routes = route.map_or(
        "      # routes:\n      #   - host: api.example.com\n      #     auth: { header: x-api-key, token_env: EXAMPLE_API_KEY }\n"
            .to_owned(),
        |(host, auth, token)| {
            format!("      routes:\n        - host: {host}\n          auth: {{ {auth}, token_env: {token} }}\n")
        },
    );
    format!(
        "\
# What an agent of this project may do. `bottle plan` shows what would be made, `bottle run` launches it.
version: 1

bottles:
  dev:
    # Any image that has the agent in it. None is got by itself: {having}
    image: {image}
    # sealed: no network at all, only the proxy. routed: for agents that need a real interface.
    topology: sealed
    # Who the agent is in there. Numbers, so that its home is its own.
    user: \"1000:1000\"
    # The project in there. copy: nothing reaches it before you take it over (`bottle diff`, `bottle cp`).
    # bind: the project itself, its hooks and its git configuration included.
    workspace: {{ mode: copy, exclude: [{exclude}] }}
    # And `cpus`: two, or as many as there are, where it is not given.
    limits: {{ memory: 4GiB, pids: 512 }}
    # Environment of the agent. Tokens do not belong here.
    env: {{ CI: \"1\" }}
    egress:
      # What it may reach: a name, `*.name` (below it), or an address; without a port, 443 and 80.
{allow}      # Where your tokens are added to its requests, outside the bottle: it never has them.
{routes}
agents:
  {command}:
    bottle: dev
    command: [{command}]
    # What it is told first, and directories with skills for it:
    # prompt: |
    #   You review changes.
    # skills: [./skills/review]
"
    )
}

#[cfg(test)]
mod tests {
    use bottle_plan::{HostFacts, PrepareOptions, parse, prepare};
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_starter_is_a_manifest_whose_agent_can_be_planned() {
        let files: Vec<&str> = KINDS.iter().flat_map(|kind| kind.files).copied().collect();
        for agent in AgentName::value_variants() {
            for file in files.iter().chain(&["README"]) {
                let text = starter(*agent, |name| name == *file);
                let manifest = parse("bottle.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                let options = PrepareOptions {
                    agent: manifest.document().agents.keys().next().cloned(),
                    bundle_image: "bottle-bundle:0".to_owned(),
                    ..PrepareOptions::default()
                };
                let facts = HostFacts {
                    workspace: Some("/home/operator/app".to_owned()),
                    ..HostFacts::default()
                };
                prepare(&manifest, "dev", &facts, &options).unwrap();
            }
        }
    }

    #[test]
    fn for_a_node_project() {
        insta::assert_snapshot!(starter(AgentName::Claude, |name| name == "package.json"));
    }

    #[test]
    fn for_anything_else() {
        insta::assert_snapshot!(starter(AgentName::Shell, |_| false));
    }
}
