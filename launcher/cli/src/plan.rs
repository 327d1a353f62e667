//! `bottle plan` and `bottle schema`.

use std::fmt::Write as _;
use std::io::Write as _;

use bottle_backend::{Backend, EngineFacts};
use bottle_docker::Docker;
use bottle_plan::{BackendKind, Plan, Topology};
use bottle_smolvm::Settings;

use crate::args::PlanArgs;
use crate::failure::{Failure, say};
use crate::host::{Loaded, options};
use crate::parts::bundle_image;

/// Shows a plan. An engine is asked for the subnets in use when there is one.
pub async fn show(args: &PlanArgs) -> Result<u8, Failure> {
    let loaded = Loaded::read(&args.chosen.manifest)?;
    let choice = loaded.choose(&args.chosen)?;
    let command = if args.command.is_empty() && choice.agent.is_none() {
        vec!["sh".to_owned()]
    } else {
        args.command.clone()
    };
    let mut options = options(&args.chosen, &choice, &command)?;
    let mut facts = loaded.facts(&choice.bottle)?;
    // Which bundle it is to be is the engine's to say.
    options.bundle_image = "bottle-bundle:unknown".to_owned();
    let unknown = match engine().await {
        Ok(engine) => {
            let image = bundle_image(&engine.platform).map(|image| image.reference);
            options.bundle_image = image.unwrap_or_else(|_| "bottle-bundle:not-built".to_owned());
            engine.add_to(&mut facts);
            None
        }
        Err(error) => Some(error),
    };
    let plan = loaded.prepare(&choice.bottle, &facts, &options)?;
    // A sealed bottle's plan is the same, but for the processors of a machine that has only one.
    if let (Some(error), Topology::Routed) = (unknown, plan.topology) {
        say(&format!("the subnets in use are not known: {error}"));
    }
    let text = if args.json { json(&plan)? } else { summary(&plan) };
    print(&text)
}

async fn engine() -> Result<EngineFacts, Failure> {
    let docker = Docker::connect().await?;
    let mut facts = docker.facts().await?;
    // No smolvm is needed to say how its machines would reach the bundle.
    facts.relay = Settings::from_env().relay(&docker, &facts).await?;
    Ok(facts)
}

/// Prints the schema.
pub fn schema() -> Result<u8, Failure> {
    print(&json(&bottle_plan::schema())?)
}

/// JSON for programs.
pub fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::system("writing JSON")(error.into()))?;
    Ok(text + "\n")
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::system("writing to standard output"))?;
    Ok(0)
}

/// A plan in a few lines.
fn summary(plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<10}{value}");
    };
    let topology = match plan.topology {
        Topology::Sealed => "sealed: the guest has no network",
        Topology::Routed => "routed: the guest shares an internal network with its proxy",
    };
    line("bottle", format!("{} ({})", plan.bottle, plan.slug));
    line(
        "backend",
        match plan.backend {
            BackendKind::Docker => "docker: the guest is a container",
            BackendKind::Smolmachines => "smolmachines: the guest is a microVM",
        }
        .to_owned(),
    );
    line("topology", topology.to_owned());
    line("image", plan.guest.image.clone());
    line("command", plan.guest.command.join(" "));
    for rule in &plan.config.policy.allow {
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        line("allowed", format!("{} on {}", rule.host, ports.join(", ")));
    }
    for route in &plan.config.routes {
        line("token", format!("${} to {}:{}", route.token, route.host, route.port));
    }
    if plan.config.policy.allow.is_empty() && plan.config.routes.is_empty() {
        line("allowed", "nothing".to_owned());
    }
    for network in &plan.networks {
        line("network", network.name.clone());
    }
    for volume in &plan.volumes {
        line("volume", volume.name.clone());
    }
    line("bundle", plan.bundle.image.clone());
    for (port, address, _) in &plan.bundle.publish {
        line(
            "published",
            format!("{port} of the bundle on {address}, for the launcher's relay"),
        );
    }
    text
}
