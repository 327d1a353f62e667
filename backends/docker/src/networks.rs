//! Networks and volumes.

use bollard::query_parameters::InspectNetworkOptions;
use bottle_backend::{BackendError, BackendErrorKind, Labels, NetworkMade};
use bottle_plan::{NetworkPlan, VolumePlan};

use crate::Docker;
use crate::call::{QUICK, call, failed, lacking};
use crate::{observe, request};

impl Docker {
    pub(crate) async fn make_network(&self, plan: &NetworkPlan, labels: &Labels) -> Result<NetworkMade, BackendError> {
        let name = format!("create network {}", plan.name);
        // The engine would make a second network of the same name.
        if self
            .look_at_network(&plan.name)
            .await
            .map(Some)
            .or_else(absent)?
            .is_some()
        {
            return Err(failed(
                &name,
                BackendErrorKind::Conflict,
                "a network of this name exists",
            ));
        }
        let id = self.make_with_a_free_subnet(&name, plan, labels).await?;
        let found = self.look_at_network(&id).await?;
        let first = found.subnets.first().ok_or_else(|| lacking(&name, "IPAM.Config"))?;
        Ok(NetworkMade {
            id,
            subnet: first.cidr.clone(),
            gateway: first.gateway,
        })
    }

    /// Tries the candidates in order until one does not overlap with what the engine has; the network's id.
    async fn make_with_a_free_subnet(
        &self,
        name: &str,
        plan: &NetworkPlan,
        labels: &Labels,
    ) -> Result<String, BackendError> {
        if plan.subnets.is_empty() {
            return Ok(call(
                name,
                QUICK,
                self.client.create_network(request::network(plan, None, labels)),
            )
            .await?
            .id);
        }
        let mut taken = Vec::new();
        for subnet in &plan.subnets {
            let body = request::network(plan, Some(subnet), labels);
            match call(name, QUICK, self.client.create_network(body)).await {
                Ok(made) => return Ok(made.id),
                Err(error) if error.kind == BackendErrorKind::Conflict && error.problem.contains("overlap") => {
                    taken.push(subnet.cidr.as_str());
                }
                Err(error) => return Err(error),
            }
        }
        let problem = format!(
            "every planned subnet overlaps with a network that exists: {}",
            taken.join(", ")
        );
        Err(failed(name, BackendErrorKind::Conflict, problem))
    }

    pub(crate) async fn look_at_network(&self, name: &str) -> Result<NetworkPlan, BackendError> {
        let what = format!("inspect network {name}");
        let found = call(
            &*what,
            QUICK,
            self.client.inspect_network(name, None::<InspectNetworkOptions>),
        )
        .await?;
        observe::network(&what, found)
    }

    pub(crate) async fn make_volume(&self, plan: &VolumePlan, labels: &Labels) -> Result<(), BackendError> {
        let name = format!("create volume {}", plan.name);
        // The engine would hand out an existing volume of the same name, with what is in it.
        let existing = call(
            format!("inspect volume {}", plan.name),
            QUICK,
            self.client.inspect_volume(&plan.name),
        )
        .await;
        if existing.map(Some).or_else(absent)?.is_some() {
            return Err(failed(
                &name,
                BackendErrorKind::Conflict,
                "a volume of this name exists",
            ));
        }
        call(name, QUICK, self.client.create_volume(request::volume(plan, labels)))
            .await
            .map(|_| ())
    }
}

fn absent<T>(error: BackendError) -> Result<Option<T>, BackendError> {
    if error.kind == BackendErrorKind::NotFound {
        Ok(None)
    } else {
        Err(error)
    }
}
