//! Why there is no plan.

use crate::manifest::ManifestError;
use crate::places::Place;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The manifest has no such bottle.
    #[error(transparent)]
    UnknownBottle(ManifestError),
    /// A value of the manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest asks for something that this version does not have.
    #[error("{place}: not built yet: {what}; take it out of the manifest to go on without it")]
    NotBuilt {
        /// Where.
        place: Place,
        /// What.
        what: String,
    },
    /// An option cannot be used.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the field of [`PrepareOptions`](crate::PrepareOptions) as a flag.
        option: &'static str,
        /// What can be given.
        expected: String,
        /// What was.
        found: String,
    },
    /// A fact about the host is not understood.
    #[error("host facts, {fact}: expected {expected}, found {found}")]
    Fact {
        /// Which.
        fact: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Every subnet that a bottle could have is in use.
    #[error(
        "no free subnet for the inner network: every /24 from 10.213.0.0 to 10.222.255.0 overlaps a network in use; remove unused networks, or use `topology: sealed`"
    )]
    NoSubnet,
}

impl PlanError {
    /// The place in the manifest, when the fault is there.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::UnknownBottle(error) | Self::Manifest(error) => Some(&error.place),
            Self::NotBuilt { place, .. } => Some(place),
            _ => None,
        }
    }
}
