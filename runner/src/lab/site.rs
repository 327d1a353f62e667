//! How networks and containers of a lab are made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bottle_backend::{Backend, Labels, ResourceKind, Role, Streams};
use bottle_plan::{
    Attachment, ContainerPlan, Hardening, LABEL_ROLE, LABEL_SLUG, Limits, NetworkMode, NetworkPlan, Subnet,
};
use probe_spec::{Vantage, WitnessConfig};

use super::listener::hear_listener;
use super::made::Made;
use crate::addresses::{candidates, random_network6};
use crate::error::SuiteError;
use crate::outside::Outside;
use crate::sightings::Sightings;

/// Port of the listener that the run publishes on all addresses of the host.
const PUBLISHED_PORT: u16 = 7100;

/// Where things of the lab are made.
pub struct Site<'a> {
    /// Id of the run.
    pub run: &'a str,
    /// The engine.
    pub backend: &'a dyn Backend,
    /// What has been made so far.
    pub made: &'a Made,
}

impl Site<'_> {
    /// Labels of what is made here.
    pub fn labels(&self, role: &str) -> Labels {
        let mut labels = bottle_launch::owner_labels(self.run);
        labels.insert(LABEL_SLUG.to_owned(), format!("conform-{}", self.run));
        labels.insert(LABEL_ROLE.to_owned(), role.to_owned());
        labels
    }

    /// Name of the outer network.
    pub fn network_name(&self) -> String {
        format!("bottle-conform-{}", self.run)
    }

    /// The network on which every address in the world ends at the witness; its IPv4 subnet.
    pub async fn network(&self) -> Result<String, SuiteError> {
        let ip6 = random_network6();
        let plan = NetworkPlan {
            name: self.network_name(),
            role: "stand-in-internet".to_owned(),
            // An internal network's firewall would drop foreign destinations before the witness sees them.
            internal: false,
            host_absent: true,
            masquerade: false,
            subnets: candidates(214, 1, None),
            // The host keeps an address on an IPv6 network whatever it is told. It is not the one that members take for their
            // gateway: that one is the witness's.
            ipv6: Some(Subnet {
                cidr: format!("{}/64", ip6(0)),
                gateway: Some(ip6(1)),
                members_gateway: Some(ip6(0xfffe)),
            }),
        };
        let made = self
            .backend
            .create_network(&plan, &self.labels("stand-in-internet"))
            .await;
        let made = made.map_err(SuiteError::engine("making the outer network"))?;
        self.made.add(ResourceKind::Network, &plan.name, &made.id);
        Ok(made.subnet)
    }

    /// Creates and starts a container; its id, and its streams when `attached`.
    pub async fn start(
        &self,
        plan: &ContainerPlan,
        subnets: &BTreeMap<String, String>,
        attached: bool,
    ) -> Result<(String, Option<Streams>), SuiteError> {
        let failed = SuiteError::engine;
        let created = self
            .backend
            .create(Role::Bundle, plan, &self.labels(&plan.name), subnets)
            .await;
        let id = created.map_err(failed("making a container of the lab"))?;
        self.made.add(ResourceKind::Container, &plan.name, &id);
        let streams = if attached {
            let streams = self.backend.attach(Role::Bundle, &id, false).await;
            Some(streams.map_err(failed("attaching to a container of the lab"))?)
        } else {
            None
        };
        self.backend
            .start(Role::Bundle, &id)
            .await
            .map_err(failed("starting a container of the lab"))?;
        Ok((id, streams))
    }

    /// Starts a witness on the one network of `subnets`, as its host number 2.
    pub async fn witness(
        &self,
        name: &str,
        image: &str,
        subnets: &BTreeMap<String, String>,
        config: &WitnessConfig,
        sightings: &Arc<Sightings>,
    ) -> Result<(Outside, String), SuiteError> {
        let attachments = subnets.keys().map(|network| Attachment {
            network: network.clone(),
            host_number: Some(2),
            aliases: Vec::new(),
        });
        let mut plan = plain(name, image, NetworkMode::Networks(attachments.collect()), self.run);
        plan.stdin = true;
        plan.hardening.capabilities = ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"].map(str::to_owned).to_vec();
        let (id, streams) = self.start(&plan, subnets, true).await?;
        let streams =
            streams.ok_or_else(|| SuiteError::Outside(crate::outside::OutsideError::Silent(String::new())))?;
        Ok((Outside::begin(streams, config, sightings.clone()).await?, id))
    }

    /// A container that publishes a witness on every address of the host; the host's port.
    pub async fn published(&self, image: &str, sightings: &Arc<Sightings>) -> Result<u16, SuiteError> {
        let bridge = Attachment {
            network: "bridge".to_owned(),
            host_number: None,
            aliases: Vec::new(),
        };
        let mut plan = plain("published", image, NetworkMode::Networks(vec![bridge]), self.run);
        plan.command = ["listen", "--ports", &PUBLISHED_PORT.to_string()]
            .map(str::to_owned)
            .to_vec();
        let port = format!("{PUBLISHED_PORT}/tcp");
        plan.publish = vec![(port.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)];
        let (id, streams) = self.start(&plan, &BTreeMap::new(), true).await?;
        if let Some(streams) = streams {
            let task = hear_listener(streams, Vantage::HostWildcard, sightings.clone());
            self.made.listen(task);
        }
        let seen = self.backend.observe(Role::Bundle, &id).await;
        let seen = seen.map_err(SuiteError::engine("reading back the published witness"))?;
        Ok(seen
            .published
            .get(&port)
            .and_then(|bindings| bindings.first())
            .map_or(0, |(_, port)| *port))
    }
}

/// A container of the lab: the probe image's `wait`, hardened like a guest.
pub fn plain(name: &str, image: &str, network: NetworkMode, run: &str) -> ContainerPlan {
    let is_probe = image.contains("/probe:");
    ContainerPlan {
        name: format!("bottle-conform-{run}-{name}"),
        image: image.to_owned(),
        entrypoint: if is_probe {
            vec!["/bottle-probe".to_owned()]
        } else {
            Vec::new()
        },
        command: if is_probe { vec!["wait".to_owned()] } else { Vec::new() },
        env: BTreeMap::new(),
        user: Some("0:0".to_owned()),
        workdir: None,
        hostname: Some(name.to_owned()),
        tty: false,
        stdin: false,
        network,
        dns: Vec::new(),
        extra_hosts: Vec::new(),
        publish: Vec::new(),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        hardening: Hardening::default(),
        limits: Limits {
            memory: Some(512 << 20),
            milli_cpus: None,
            pids: Some(512),
            open_files: Some(16_384),
        },
        auto_remove: true,
    }
}
