//! Known-leaky bottles: the plan of a shipped bottle with exactly one control taken away.

use bottle_plan::{Plan, Topology};
use probe_spec::Leak;

use crate::error::SuiteError;
use crate::fixture::{self, Kind};
use crate::lab::Lab;

/// Whether a leak can be made on this topology; else why not.
pub fn applies(leak: Leak, topology: &str) -> Result<(), String> {
    Err(format!("{leak} {topology}"))
}

/// The plan of a bottle, with a control removed when a leak is named.
pub fn plan(lab: &Lab, kind: Kind, topology: Topology, leak: Option<Leak>) -> Result<Plan, SuiteError> {
    let plan = fixture::plan(lab, kind, topology)?;
    match leak {
        None => Ok(plan),
        Some(leak) => Err(SuiteError::Leak(leak.to_string())),
    }
}
