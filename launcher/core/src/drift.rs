//! What the engine applied, compared with the plan.
//!
//! An old engine drops fields that it does not know without a word, and a daemon's own configuration can weaken a request.
//! So what was made is read back, and a difference stops the launch.

use std::fmt;

use bottle_plan::{ContainerPlan, NetworkMode, NetworkPlan, Subnet};
use serde_json::Value;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Where, for example `guest.hardening.seccomp`.
    pub field: String,
    /// What was planned (JSON).
    pub planned: String,
    /// What the engine reports (JSON).
    pub observed: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: planned {}, observed {}",
            self.field, self.planned, self.observed
        )
    }
}

/// Differences between a container's plan and what it was given. Where the plan leaves a field to the image or the engine
/// (`None`, an empty entry point), any value is right; the environment may have more than the plan's (the image's own).
pub fn container_drift(half: &str, planned: &ContainerPlan, applied: &ContainerPlan) -> Vec<Drift> {
    let planned = in_order(planned.clone());
    let mut applied = in_order(applied.clone());
    if planned.entrypoint.is_empty() {
        applied.entrypoint.clear();
        if planned.command.is_empty() {
            applied.command.clear();
        }
    }
    if planned.user.is_none() {
        applied.user = None;
    }
    if planned.workdir.is_none() {
        applied.workdir = None;
    }
    if planned.hostname.is_none() {
        applied.hostname = None;
    }
    applied.env.retain(|name, _| planned.env.contains_key(name));
    leave_to_the_engine(&planned, &mut applied);
    difference(half, &planned, &applied)
}

/// Takes out of a membership what the plan leaves to the engine: the address, and the aliases that some engines add
/// (the host name, the container's name).
fn leave_to_the_engine(planned: &ContainerPlan, applied: &mut ContainerPlan) {
    let added = [planned.hostname.clone(), Some(planned.name.clone())];
    let (NetworkMode::Networks(wanted), NetworkMode::Networks(given)) = (&planned.network, &mut applied.network) else {
        return;
    };
    for attachment in given {
        let Some(wanted) = wanted.iter().find(|wanted| wanted.network == attachment.network) else {
            continue;
        };
        if wanted.host_number.is_none() {
            attachment.host_number = None;
        }
        attachment
            .aliases
            .retain(|alias| wanted.aliases.contains(alias) || !added.contains(&Some(alias.clone())));
    }
}

/// Differences between a network's plan and what was made: of several planned subnets one must have been taken.
pub fn network_drift(planned: &NetworkPlan, applied: &NetworkPlan) -> Vec<Drift> {
    let mut planned = planned.clone();
    let field = format!("network {}", planned.name);
    let taken = applied.subnets.first();
    if let Some(taken) = taken
        && (planned.subnets.is_empty() || planned.subnets.iter().any(|subnet| is_given(subnet, taken)))
    {
        // Just one: a second subnet of the engine's is a difference all the same.
        planned.subnets = vec![taken.clone()];
    }
    if let (Some(wanted), Some(given)) = (&planned.ipv6, &applied.ipv6)
        && is_given(wanted, given)
    {
        planned.ipv6 = Some(given.clone());
    }
    difference(&field, &planned, applied)
}

/// Where the plan names no gateway, some engines report the one that they chose.
fn is_given(planned: &Subnet, given: &Subnet) -> bool {
    planned.cidr == given.cidr
        && planned.members_gateway == given.members_gateway
        && (planned.gateway.is_none() || planned.gateway == given.gateway)
}

/// Lists whose order means nothing, sorted.
fn in_order(mut plan: ContainerPlan) -> ContainerPlan {
    plan.hardening.capabilities.sort();
    plan.tmpfs.sort();
    plan.extra_hosts.sort();
    plan.publish.sort();
    plan.mounts.sort_by(|one, other| one.target.cmp(&other.target));
    if let NetworkMode::Networks(attachments) = &mut plan.network {
        if let Some(rest) = attachments.get_mut(1..) {
            rest.sort_by(|one, other| one.network.cmp(&other.network));
        }
        for attachment in attachments {
            attachment.aliases.sort();
        }
    }
    plan
}

fn difference(field: &str, planned: &impl serde::Serialize, applied: &impl serde::Serialize) -> Vec<Drift> {
    let mut drifts = Vec::new();
    match (serde_json::to_value(planned), serde_json::to_value(applied)) {
        (Ok(planned), Ok(applied)) => walk(field, &planned, &applied, &mut drifts),
        (planned, applied) => drifts.push(Drift {
            field: field.to_owned(),
            planned: format!("{:?}", planned.err()),
            observed: format!("{:?}", applied.err()),
        }),
    }
    drifts
}

fn walk(field: &str, planned: &Value, applied: &Value, drifts: &mut Vec<Drift>) {
    match (planned, applied) {
        (Value::Object(wanted), Value::Object(given)) => {
            for (key, value) in wanted {
                walk(
                    &format!("{field}.{key}"),
                    value,
                    given.get(key).unwrap_or(&Value::Null),
                    drifts,
                );
            }
            for (key, value) in given.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                walk(&format!("{field}.{key}"), &Value::Null, value, drifts);
            }
        }
        _ if planned == applied => {}
        _ => drifts.push(Drift {
            field: field.to_owned(),
            planned: planned.to_string(),
            observed: applied.to_string(),
        }),
    }
}
