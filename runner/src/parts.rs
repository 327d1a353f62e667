//! The static programs that run inside guests and bundles, embedded so that the suite is one file.

use sha2::{Digest, Sha256};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/parts.rs"));
}

/// A part was not there when this program was built.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` was not built into this program: build both with `cargo xtask build`")]
pub struct PartMissing(pub &'static str);

/// All parts.
#[derive(Clone, Copy)]
pub struct Parts {
    /// `bottle-bundle`, which carries `bottle-guest`.
    pub bundle: &'static [u8],
    /// `bottle-bundle` with removable controls.
    pub leaky_bundle: &'static [u8],
    /// The probe agent.
    pub probe: &'static [u8],
    /// The stand-in internet.
    pub witness: &'static [u8],
}

/// The embedded parts.
pub fn parts() -> Result<Parts, PartMissing> {
    Ok(Parts {
        bundle: embedded::BUNDLE.ok_or(PartMissing("bottle-bundle"))?,
        leaky_bundle: embedded::LEAKY_BUNDLE.ok_or(PartMissing("bottle-bundle-leaky"))?,
        probe: embedded::PROBE.ok_or(PartMissing("bottle-probe"))?,
        witness: embedded::WITNESS.ok_or(PartMissing("bottle-witness"))?,
    })
}

/// SHA-256 in hex over the catalogue (ids, cases, controls, actions) and the parts. A self-test counts for this digest only.
pub fn digest(parts: &Parts) -> String {
    let mut hash = Sha256::new();
    for part in [
        parts.bundle,
        parts.leaky_bundle,
        parts.probe,
        parts.witness,
        embedded::GUEST.unwrap_or_default(),
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    for probe in probe_spec::CATALOGUE {
        hash.update(probe.id);
        for case in (probe.cases)() {
            hash.update(format!("{case:?}"));
        }
    }
    hex::encode(hash.finalize())
}
