//! XB-06: what belongs to a former owner of an address.

use bottle_backend::Role;
use bottle_plan::{BackendKind, NetworkPlan, Plan};
use probe_spec::{Action, ReuseCheck, RunnerCase, Step, world};

use super::asking::tunnel;
use super::{Observation, Together, attempt_in};
use crate::batch::Target;
use crate::error::SuiteError;
use crate::fixture::{Fixture, Kind, launch_plan};
use crate::leaks;
use crate::selection::CaseCell;
use crate::sightings::fresh_nonce;

/// Launches a bottle with the peer's rights, closes it, gives its subnet (and so its addresses) to a bottle with other rights,
/// and attacks with what belonged to the former. Two bottles serve all cases.
pub async fn perform(target: &Target<'_>, cell: &CaseCell) -> Result<Observation, SuiteError> {
    let heir = target.shared.heir.get_or_try_init(|| inherit(target, cell));
    Ok(heir.await?.of(cell))
}

async fn inherit(target: &Target<'_>, cell: &CaseCell) -> Result<Together, SuiteError> {
    let lab = target.lab;
    let leak = target.fixture.leak;
    let (mut heirs, cases) = Together::begin(cell);
    let former = launch_plan(lab, leaks::plan(lab, Kind::Peer, cell.topology, leak, None).await?).await?;
    let inner = former.inner().map(|(_, subnet)| subnet.clone());
    let allowed = attempt_in(&former, &fresh_nonce(), tunnel(world::PEER_ROUTE)).await;
    let mut notes = vec![format!("the former owner's own request: {:?}", allowed.end)];
    notes.extend(former.close(lab).await);
    let mut planned = leaks::plan(lab, Kind::Attacked, cell.topology, leak, Some(&former)).await?;
    // A former that was never taken down still has its subnet: that is this leak.
    let is_gone = former.bottle.plan().lifecycle.teardown;
    let mut is_heir = true;
    if let Some(subnet) = inner.as_ref().filter(|_| is_gone) {
        match on_subnet(planned.plan.clone(), subnet) {
            Some(plan) => planned.plan = plan,
            None => {
                is_heir = false;
                notes.push("the plan cannot be put on the former's subnet".to_owned());
            }
        }
    }
    let heir = launch_plan(lab, planned).await?;
    // A machine has no address of the network; its bundle has.
    let role = match heir.bottle.plan().backend {
        BackendKind::Docker => Role::Guest,
        BackendKind::Smolmachines => Role::Bundle,
    };
    let [own, formers] = [&heir, &former].map(|fixture| fixture.inner_address(role));
    if is_gone && (own.is_none() || own != formers) {
        is_heir = false;
        notes.push(format!(
            "the {role:?} of the heir has {own:?}, the former's had {formers:?}"
        ));
    }
    let attacks = cases.iter().filter_map(|case| match case.what {
        RunnerCase::AddressReuse(check) => Some((case, case.nonce.clone(), attack(check, &former))),
        _ => None,
    });
    heirs.attempt(&heir, attacks.collect()).await;
    notes.extend(heir.close(lab).await);
    if !is_gone {
        super::sweep_up(&*lab.backend, former.bottle.slug()).await;
    }
    for observed in heirs.each() {
        observed.issued &= is_heir;
        observed.trace.extend(notes.iter().cloned());
    }
    Ok(heirs)
}

fn on_subnet(plan: Plan, subnet: &str) -> Option<Plan> {
    let mut plan = plan.with_inner_subnet(subnet)?;
    let gateway = crate::addresses::in_subnet(subnet, 1)?.parse().ok();
    let inner: Vec<&mut NetworkPlan> = plan
        .networks
        .iter_mut()
        .filter(|network| network.role == "inner-network")
        .collect();
    for network in inner {
        let mut own = network.subnets.first()?.clone();
        own.cidr = subnet.to_owned();
        own.gateway = gateway;
        network.subnets = vec![own];
    }
    Some(plan)
}

fn attack(check: ReuseCheck, former: &Fixture) -> Action {
    match check {
        // The policy allows the former's host, and the token shows there, only when either outlives its owner.
        ReuseCheck::Policy | ReuseCheck::Token => tunnel(world::PEER_ROUTE),
        ReuseCheck::Listener => {
            // The heir's own, unless the former still has it.
            let to = former
                .inner_address(Role::Guest)
                .unwrap_or_else(|| "127.0.0.1".to_owned());
            let to = format!("{to}:{}", world::PEER_PORT);
            Action::Tcp {
                to,
                send: "{nonce}".to_owned(),
                from: None,
            }
        }
        // On the outer leg, where the former's bundle was.
        ReuseCheck::Connection => {
            let bundle = former
                .inner_address(Role::Bundle)
                .unwrap_or_else(|| "127.0.0.1".to_owned());
            let to = format!("{bundle}:{}", bottle_policy::PROXY_PORT);
            let text = format!(
                "GET http://{host}/{{nonce}} HTTP/1.1\r\nhost: {host}\r\nx-bottle-nonce: {{nonce}}\r\n\r\n",
                host = world::PEER_ROUTE
            );
            Action::Talk {
                to,
                steps: vec![Step::Send { text }, Step::Response],
            }
        }
    }
}
