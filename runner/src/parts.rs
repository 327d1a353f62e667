//! The static programs that run inside guests and bundles, embedded so that the suite is one file.

use bottle_backend::{Architecture, PartsError, choose};
use sha2::{Digest, Sha256};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/parts.rs"));
}

/// All parts for one architecture.
#[derive(Clone, Copy)]
pub struct Parts {
    /// Which they are for.
    pub architecture: Architecture,
    /// `bottle-bundle`, which carries `bottle-guest`.
    pub bundle: &'static [u8],
    /// `bottle-bundle` with removable controls.
    pub leaky_bundle: &'static [u8],
    /// The probe agent.
    pub probe: &'static [u8],
    /// The stand-in internet.
    pub witness: &'static [u8],
}

/// The embedded parts for an engine's platform.
pub fn parts(platform: &str) -> Result<Parts, PartsError> {
    let architecture = Architecture::of_platform(platform)?;
    Ok(Parts {
        architecture,
        bundle: choose(architecture, "bottle-bundle", embedded::BUNDLE)?,
        leaky_bundle: choose(architecture, "bottle-bundle-leaky", embedded::LEAKY_BUNDLE)?,
        probe: choose(architecture, "bottle-probe", embedded::PROBE)?,
        witness: choose(architecture, "bottle-witness", embedded::WITNESS)?,
    })
}

/// SHA-256 in hex over the suite: its sources, the catalogue (ids, cases, controls, actions) and the parts. A self-test counts for
/// this digest only.
pub fn digest(parts: &Parts) -> String {
    let mut hash = Sha256::new();
    for part in [parts.bundle, parts.leaky_bundle, parts.probe, parts.witness] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(embedded::SOURCES);
    for probe in probe_spec::CATALOGUE {
        hash.update(probe.id);
        for case in (probe.cases)() {
            hash.update(format!("{case:?}"));
        }
    }
    hex::encode(hash.finalize())
}
