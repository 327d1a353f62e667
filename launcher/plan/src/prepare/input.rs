//! What `prepare` is given beside the manifest.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::plan::{BackendKind, Limits, Topology};

/// What the host is like. No secret is part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Subnets (CIDR) that are in use: the engine's networks and the host's interfaces.
    pub subnets: Vec<String>,
    /// Processors of the engine's machine, where they are known: an engine refuses a limit above them.
    pub processors: Option<u32>,
    /// How the sockets of a machine's bundle are led to it by a relay of the launcher's, when it cannot open them itself.
    pub relay: Option<RelayFacts>,
    /// The operator's home directory, for `~/` in paths of the manifest.
    pub home: String,
    /// The operator's user id.
    pub uid: u32,
    /// The operator's group id.
    pub gid: u32,
    /// Limits where the manifest names none; what is `None` here has the built-in default.
    pub default_limits: Limits,
    /// Contents of the files of [`Manifest::ca_files`](crate::Manifest::ca_files), by the path as it is written there.
    pub ca_files: BTreeMap<String, String>,
    /// The directory of [`Manifest::workspace`](crate::Manifest::workspace), absolute.
    pub workspace: Option<String>,
    /// Randomness for the slug.
    pub slug_entropy: [u8; 8],
}

/// Where bundles publish the port of their relay. Sealed bottles' do on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayFacts {
    /// The loopback address of the next routed bottle; `None` when all of them are in use.
    pub routed: Option<Ipv4Addr>,
}

/// What the command line said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Instead of the manifest's backend.
    pub backend: Option<BackendKind>,
    /// Instead of the manifest's topology.
    pub topology: Option<Topology>,
    /// An agent of the manifest.
    pub agent: Option<String>,
    /// What to run in the guest; without an agent never empty, with one instead of its command.
    pub command: Vec<String>,
    /// Whether the guest gets a terminal.
    pub tty: bool,
    /// Whether the guest's standard input is held open.
    pub stdin: bool,
    /// An existing network for the bundle's way out, instead of one of its own.
    pub outer_network: Option<String>,
    /// Name servers (`address` or `address:port`) instead of the manifest's.
    pub resolver: Option<Vec<String>>,
    /// Certificate authorities (PEM) trusted for upstreams besides the manifest's.
    pub extra_upstream_roots: Vec<String>,
    /// Whether the public certificate authorities are trusted for upstreams.
    pub public_roots: bool,
    /// A slug instead of one made from the entropy.
    pub slug: Option<String>,
    /// Image reference of the bundle.
    pub bundle_image: String,
    /// Image of the guest instead of the manifest's.
    pub image: Option<String>,
    /// User in the guest instead of the manifest's.
    pub user: Option<String>,
    /// Whether the image's own trust stores are replaced: by the bottle's authority, the only one that a guest meets.
    pub system_trust: bool,
    /// Environment of the guest, besides the manifest's; wins over it.
    pub extra_env: BTreeMap<String, String>,
}

impl Default for PrepareOptions {
    /// Nothing said: no command, no bundle image (both are needed), public authorities trusted.
    fn default() -> Self {
        Self {
            backend: None,
            topology: None,
            agent: None,
            command: Vec::new(),
            tty: false,
            stdin: false,
            outer_network: None,
            resolver: None,
            extra_upstream_roots: Vec::new(),
            public_roots: true,
            slug: None,
            bundle_image: String::new(),
            image: None,
            user: None,
            system_trust: false,
            extra_env: BTreeMap::new(),
        }
    }
}
