//! What the operator sees before anything is made, and the one question.

use std::fmt::Write as _;
use std::io::IsTerminal;

use bottle_plan::{BackendKind, Limits, Plan, Topology, WorkspaceMode, is_own_variable};

use crate::failure::{Failure, say};
use crate::leave::Orders;

/// Width of the labels.
const LABEL: usize = 10;

/// Shows the preflight and asks, once, unless told not to. `false`: the answer was no.
pub async fn agreed(plan: &Plan, yes: bool, orders: &Orders) -> Result<bool, Failure> {
    let shown = text(plan);
    if yes {
        // A log or a pipe gets the command's own words only.
        if std::io::stderr().is_terminal() {
            eprint_quietly(&shown);
        }
        return Ok(true);
    }
    eprint_quietly(&(shown + "Launch? [y/N] "));
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = tokio::select! {
        answer = answer => answer,
        _ = orders.first() => {
            eprint_quietly("\n");
            return Ok(false);
        }
    };
    let answer = answer
        .map_err(std::io::Error::from)
        .and_then(|answer| answer)
        .map_err(Failure::system("reading the answer"))?;
    Ok(is_yes(&answer))
}

/// Refuses to go on without an answer where nobody can give one.
pub fn somebody_can_answer(yes: bool) -> Result<(), Failure> {
    if yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Failure::Usage(
        "expected a terminal to ask on before the launch, found none; give --yes to launch without a question"
            .to_owned(),
    ))
}

/// Says that nothing was launched.
pub fn declined() {
    say("nothing was launched");
}

fn eprint_quietly(text: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr().lock();
    // Who does not look is not asked again.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The preflight: names and hosts, no values, no paths, no subnets.
pub fn text(plan: &Plan) -> String {
    let mut sections: Vec<(&str, Vec<String>)> = Vec::new();
    if let Some(agent) = &plan.agent {
        let prompt = match agent.prompt.lines().find(|line| !line.trim().is_empty()) {
            None => "no prompt".to_owned(),
            Some(_) => format!("prompt of {} lines", agent.prompt.trim().lines().count()),
        };
        sections.push(("agent", vec![format!("{} ({prompt})", agent.name)]));
    }
    sections.push(("command", vec![shown_command(&plan.guest.command)]));
    sections.push(("bottle", vec![plan.bottle.clone(), plan.guest.image.clone()]));
    sections.push(("env", environment(plan)));
    if let Some(agent) = &plan.agent {
        sections.push(("skills", agent.skills.iter().map(|skill| skill.name.clone()).collect()));
    }
    if let Some(workspace) = &plan.workspace {
        let how = match workspace.mode {
            WorkspaceMode::Copy => "a copy: nothing reaches the project before you take it over",
            WorkspaceMode::Bind => "the project itself: what the agent does there is done",
            WorkspaceMode::GitGate => "through the git gate",
        };
        sections.push(("project", vec![format!("{} ({how})", workspace.target())]));
    }
    sections.push(("egress", egress(plan)));
    sections.push(("limits", vec![limits(&plan.guest.limits)]));
    sections.push(("runs on", vec![place(plan)]));
    let mut text = String::new();
    for (label, values) in sections {
        for (index, value) in values.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            // Writing to a String does not fail.
            let _ = writeln!(text, "{label:<LABEL$}{}", printable(value));
        }
    }
    text
}

fn environment(plan: &Plan) -> Vec<String> {
    let names = plan.guest.env.keys().filter(|name| !is_own_variable(name));
    names
        .map(|name| {
            if plan.token_env.contains(name) {
                format!("{name} (a placeholder; the token stays outside)")
            } else {
                name.clone()
            }
        })
        .collect()
}

fn egress(plan: &Plan) -> Vec<String> {
    let allowed = plan.config.policy.allow.iter().map(|rule| {
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        format!("{} on {}", rule.host, ports.join(", "))
    });
    let routes = plan.config.routes.iter().map(|route| {
        let port = if route.port == 443 {
            String::new()
        } else {
            format!(":{}", route.port)
        };
        format!("{}{port} with ${}", route.host, route.token)
    });
    let all: Vec<String> = routes.chain(allowed).collect();
    if all.is_empty() {
        vec!["nothing".to_owned()]
    } else {
        all
    }
}

fn place(plan: &Plan) -> String {
    let backend = match plan.backend {
        BackendKind::Docker => "docker",
        BackendKind::Smolmachines => "smolmachines",
    };
    let topology = match plan.topology {
        Topology::Sealed => "sealed: the guest has no network",
        Topology::Routed => "routed: the guest shares an internal network with its proxy",
    };
    let relay = match plan.config.relay {
        None => "",
        Some(_) => "; the launcher leads it to the bundle",
    };
    format!("{backend}, {topology}{relay}")
}

fn limits(limits: &Limits) -> String {
    let mut parts = Vec::new();
    parts.extend(limits.memory.map(|bytes| format!("{} memory", size(bytes))));
    parts.extend(limits.milli_cpus.map(|milli| format!("{} CPUs", milli as f64 / 1000.0)));
    parts.extend(limits.pids.map(|pids| format!("{pids} processes")));
    parts.extend(limits.open_files.map(|files| format!("{files} open files")));
    parts.join(", ")
}

/// A size in the largest unit that makes a whole number of it.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS
        .into_iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(name, unit)| format!("{} {name}", bytes / unit),
    )
}

/// A command as a shell would take it, cut where it gets long.
pub fn shown_command(command: &[String]) -> String {
    const LONGEST: usize = 120;
    let is_plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte))
    };
    let quoted: Vec<String> = command
        .iter()
        .map(|part| {
            if is_plain(part) {
                part.clone()
            } else {
                format!("'{}'", part.replace('\'', r"'\''"))
            }
        })
        .collect();
    let text = quoted.join(" ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(" ...".chars()).collect()
}

/// Text of others, for a terminal: without control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { '\u{fffd}' } else { one })
        .collect()
}

#[cfg(test)]
mod tests {
    use bottle_plan::{HostFacts, PrepareOptions, parse, prepare};

    use super::*;

    const MANIFEST: &str = "\
version: 1
bottles:
  dev:
    image: node:22-bookworm
    env: { CI: 1, LANG: C.UTF-8 }
    limits: { memory: 1536MiB, cpus: 1.5 }
    egress:
      allow: [packages.example.com, \"example.net:8443\"]
      routes:
        - host: api.example.com
          auth: { header: x-api-key, token_env: EXAMPLE_KEY }
        - host: code.example.com:8443
          auth: { scheme: bearer, token_env: CODE_TOKEN }
  bare:
    image: alpine:3
    topology: routed
agents:
  reviewer:
    bottle: dev
    command: [claude, --max-turns, 5]
    prompt: |
      You review changes.
      You are brief.
    skills: [./skills/review, ./skills/explain/]
";

    fn shown(bottle: &str, agent: Option<&str>, command: &[&str]) -> String {
        let options = PrepareOptions {
            agent: agent.map(str::to_owned),
            command: command.iter().map(ToString::to_string).collect(),
            bundle_image: "bottle-bundle:0".to_owned(),
            ..PrepareOptions::default()
        };
        let manifest = parse("bottle.yaml", MANIFEST).unwrap();
        text(&prepare(&manifest, bottle, &HostFacts::default(), &options).unwrap())
    }

    #[test]
    fn an_agent() {
        insta::assert_snapshot!(shown("dev", Some("reviewer"), &[]));
    }

    #[test]
    fn a_command_in_a_bare_bottle() {
        insta::assert_snapshot!(shown("bare", None, &["sh", "-c", "echo 'it is' \u{1b}[2J"]));
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("YES\n", true),
            (" yes ", true),
            ("", false),
            ("\n", false),
            ("n\n", false),
            ("yesterday\n", false),
        ] {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (4 << 30, "4 GiB"),
            (1536 << 20, "1536 MiB"),
            (1, "1 bytes"),
            (0, "0 bytes"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
