//! The way of a guest that cannot open its bundle's sockets: a relay of the backend's to the bundle's published port.
//!
//! The port can be found by every process of this machine, so the bundle asks for a secret. It is made here for one launch, goes
//! to the bundle with its tokens and to the backend, and is nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bottle_backend::{Observed, RelaySecret};
use bottle_plan::ContainerPlan;
use bottle_policy::Relay;

use crate::drift::Drift;
use crate::error::LaunchFailure;
use crate::launch::Site;
use crate::made::{Half, backend_failed};

impl Site {
    /// A fresh secret, when the plan has a relay.
    pub(crate) fn relay_secret(&self) -> std::io::Result<Option<RelaySecret>> {
        if self.plan().config.relay.is_none() {
            return Ok(None);
        }
        let mut filled = Ok(());
        let secret = RelaySecret::init_with_mut(|bytes| filled = getrandom::fill(bytes));
        filled.map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Some(secret))
    }

    /// Leads the guest's sockets to its bundle, when the plan has a relay.
    pub(crate) async fn lead(
        &self,
        secret: Option<RelaySecret>,
        bundle: &Observed,
        guest: &Half,
    ) -> Result<(), LaunchFailure> {
        let (Some(relay), Some(secret)) = (&self.plan().config.relay, secret) else {
            return Ok(());
        };
        self.say("leading the guest's sockets to the bundle");
        let to = published(relay, &self.plan().bundle, bundle)
            .map_err(|drift| LaunchFailure::Drift { drifts: vec![drift] })?;
        let led = self.backend.relay(&guest.id, to, secret).await;
        led.map_err(backend_failed("leading the guest's sockets to the bundle"))
    }
}

/// Where the relay's port is published: the planned place, which is one of this machine's loopback, or the bundle can be asked
/// from elsewhere.
fn published(relay: &Relay, planned: &ContainerPlan, bundle: &Observed) -> Result<SocketAddr, Drift> {
    let port = format!("{}/tcp", relay.port);
    let planned = planned.publish.iter().find(|(planned, ..)| *planned == port);
    let address = planned.map(|(_, address, _)| *address).filter(IpAddr::is_loopback);
    let places = bundle.published.get(&port).map_or(&[][..], Vec::as_slice);
    match places {
        [(found, port @ 1..)] if Some(*found) == address => Ok(SocketAddr::new(*found, *port)),
        _ => Err(Drift {
            field: format!("bundle.published.{port}"),
            planned: format!("one port of {}", address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            observed: serde_json::to_string(places).unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_backend::fake::Fake;
    use bottle_backend::{Backend, Role};
    use bottle_plan::{BackendKind, HostFacts, PrepareOptions, RelayFacts};
    use rstest::rstest;

    async fn seen(places: &[(&str, u16)]) -> (Relay, ContainerPlan, Observed) {
        let options = PrepareOptions {
            backend: Some(BackendKind::Smolmachines),
            command: vec!["true".to_owned()],
            bundle_image: "bundle:1".to_owned(),
            ..PrepareOptions::default()
        };
        let facts = HostFacts {
            relay: Some(RelayFacts { routed: None }),
            ..HostFacts::default()
        };
        let manifest = bottle_plan::parse("bottle.yaml", "version: 1\nbottles: { dev: { image: a } }\n").unwrap();
        let plan = bottle_plan::prepare(&manifest, "dev", &facts, &options).unwrap();
        let engine = Fake::new(BackendKind::Docker);
        let places: Vec<(IpAddr, u16)> = places.iter().map(|(at, port)| (at.parse().unwrap(), *port)).collect();
        engine.publishes(&plan.bundle.publish[0].0, &places);
        let none = Default::default();
        let id = engine.create(Role::Bundle, &plan.bundle, &none, &none).await.unwrap();
        let relay = plan.config.relay.unwrap();
        (relay, plan.bundle, engine.observe(Role::Bundle, &id).await.unwrap())
    }

    #[rstest]
    #[case::loopback(&[("127.0.0.1", 40_000)], true)]
    #[case::nowhere(&[], false)]
    #[case::no_port(&[("127.0.0.1", 0)], false)]
    #[case::everywhere(&[("0.0.0.0", 40_000)], false)]
    #[case::every_v6(&[("127.0.0.1", 40_000), ("::", 40_000)], false)]
    #[case::another_loopback(&[("127.0.0.2", 40_000)], false)]
    #[case::an_interface(&[("10.0.0.1", 40_000)], false)]
    #[case::twice(&[("127.0.0.1", 40_000), ("127.0.0.1", 40_001)], false)]
    #[tokio::test]
    async fn one_port_of_the_loopback_and_nothing_else(#[case] places: &[(&str, u16)], #[case] is_right: bool) {
        let (relay, planned, seen) = seen(places).await;
        let found = published(&relay, &planned, &seen);
        assert_eq!(found.is_ok(), is_right, "{found:?}");
        match found {
            Ok(to) => assert_eq!(to.to_string(), "127.0.0.1:40000"),
            Err(drift) => assert!(
                drift
                    .to_string()
                    .starts_with("bundle.published.9470/tcp: planned one port of"),
                "{drift}"
            ),
        }
    }
}
