//! What is added to a lab while a run goes on: networks, witnesses, control guests.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bottle_backend::{Labels, Resource, ResourceKind, Role};
use bottle_plan::{Attachment, NetworkMode, NetworkPlan, Subnet};
use probe_spec::Vantage;

use super::Lab;
use super::listener::hear_listener;
use super::site::{Site, plain};
use crate::error::SuiteError;
use crate::outside::Outside;
use crate::sightings::fresh_nonce;

/// What a further network is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// An ordinary one.
    Natted,
    /// Internal, as the engine makes it by default: the host has an address on it.
    InternalWithHost,
    /// Internal, without the host.
    Private,
}

impl Lab {
    fn site(&self) -> Site<'_> {
        Site {
            run: &self.run,
            backend: &*self.backend,
            made: &self.made,
        }
    }

    /// Labels of what the run makes beside bottles: a sweep finds it when the run dies.
    pub fn labels(&self, role: &str) -> Labels {
        self.site().labels(role)
    }

    /// Makes one more network; its name and subnet.
    pub async fn make_network(&self, kind: NetworkKind, subnets: &[Subnet]) -> Result<(String, String), SuiteError> {
        let plan = NetworkPlan {
            name: format!("bottle-conform-{}-{}", self.run, &fresh_nonce().as_str()[2..10]),
            role: "known-leaky".to_owned(),
            internal: kind != NetworkKind::Natted,
            host_absent: kind == NetworkKind::Private,
            masquerade: false,
            subnets: subnets.to_vec(),
            ipv6: None,
        };
        let site = self.site();
        let made = self.backend.create_network(&plan, &site.labels("known-leaky")).await;
        let made = made.map_err(SuiteError::engine("making a network of a known-leaky bottle"))?;
        self.made.add(ResourceKind::Network, &plan.name, &made.id);
        let mut subnets = self.subnets.lock().unwrap_or_else(PoisonError::into_inner);
        subnets.insert(plan.name.clone(), made.subnet.clone());
        Ok((plan.name, made.subnet))
    }

    /// Starts one more witness on a network; it and its id.
    pub async fn start_witness(
        &self,
        network: &str,
        subnet: &str,
        name: &str,
    ) -> Result<(Outside, String), SuiteError> {
        let site = self.site();
        let subnets = BTreeMap::from([(network.to_owned(), subnet.to_owned())]);
        site.witness(
            name,
            &self.images.witness.reference,
            &subnets,
            &self.witness_config,
            &self.sightings,
        )
        .await
    }

    /// Starts one more control guest on a network of a bottle; its id. It is removed with the lab, or by
    /// [`remove_container`](Self::remove_container) before the network is.
    pub async fn control_on(&self, network: &str) -> Result<String, SuiteError> {
        let attachment = Attachment {
            network: network.to_owned(),
            host_number: None,
            aliases: Vec::new(),
        };
        let name = format!("control-{}", &fresh_nonce().as_str()[2..10]);
        let plan = plain(
            &name,
            &self.images.probe.reference,
            NetworkMode::Networks(vec![attachment]),
            &self.run,
        );
        let site = self.site();
        Ok(site.start(&plan, &BTreeMap::new(), false).await?.0)
    }

    /// Starts a listener in the network namespace of a bundle, on its loopback only; its id. What it hears is seen at own-bundle.
    pub async fn listener_in(&self, bundle: &str) -> Result<String, SuiteError> {
        let name = format!("listener-{}", &fresh_nonce().as_str()[2..10]);
        let site = self.site();
        let labels = site.labels("own-bundle-listener");
        let image = &self.images.probe.reference;
        let id = crate::joined::create(&format!("bottle-conform-{}-{name}", self.run), image, bundle, &labels).await;
        let id = id.map_err(SuiteError::Joined)?;
        self.made.add(ResourceKind::Container, &name, &id);
        let failed = SuiteError::engine;
        let streams = self
            .backend
            .attach(Role::Bundle, &id, false)
            .await
            .map_err(failed("attaching to a listener"))?;
        self.backend
            .start(Role::Bundle, &id)
            .await
            .map_err(failed("starting a listener"))?;
        let task = hear_listener(streams, Vantage::OwnBundle, self.sightings.clone());
        self.made.listen(task);
        Ok(id)
    }

    /// Removes a container by its id; why it stays, where it does.
    pub async fn remove_container(&self, id: &str) -> Option<String> {
        let labels = Labels::new();
        let resource = Resource {
            kind: ResourceKind::Container,
            name: id.to_owned(),
            id: id.to_owned(),
            labels,
        };
        self.backend
            .remove(&resource)
            .await
            .map_err(SuiteError::engine("removing a container"))
            .err()
            .map(|error| error.to_string())
    }
}
