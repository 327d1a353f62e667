//! What is said between the runner and the witness container.
//!
//! The runner writes one line of [`WitnessConfig`], then one [`WitnessOrder`] a line. The witness prints one [`WitnessEvent`] a
//! line. No guest has a part in either stream.

use serde::{Deserialize, Serialize};

use crate::Sighting;

/// First line of the witness's standard input.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Certificate (PEM) of the authority that the witness's good origins are signed by.
    pub ca_pem: String,
    /// Its private key (PEM); exists for one run only.
    pub ca_key_pem: String,
}

/// A later line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WitnessOrder {
    /// Says [`WitnessEvent::Mark`] once everything that had arrived before has been reported.
    Mark {
        /// Any text.
        id: String,
    },
    /// Forgets how often rebinding names were asked for.
    ResetNames,
    /// Has every origin answer a request like this from now on. The first order that fits a request counts.
    Answer(Answer),
}

/// What origins answer to some requests: files for tools that fetch, a stand-in of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Path of the request, without its query.
    pub path: String,
    /// Texts that the body of the request must have, all of them.
    pub given: Vec<String>,
    /// Content type.
    pub kind: String,
    /// The body, in base64.
    pub body: String,
}

/// A line of the witness's standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WitnessEvent {
    /// It serves.
    Ready {
        /// Its addresses on its network.
        addresses: Vec<String>,
    },
    /// It saw nonces.
    Sighting(Sighting),
    /// Answer to [`WitnessOrder::Mark`].
    Mark {
        /// The text of the order.
        id: String,
    },
    /// It cannot do its work; it ends after this line.
    Failed {
        /// Why.
        reason: String,
    },
    /// It missed packets: what it says of silence is worth nothing from here to the last mark.
    Dropped {
        /// How many.
        packets: u64,
    },
}

/// First line of the agent's standard output: it is ready for its list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentReady {
    /// Its process id inside the guest.
    pub ready: u32,
}

/// The agent's list: one JSON document on standard input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentList {
    /// The cases, attempted in order, at most `parallel` at a time.
    pub cases: Vec<AgentCase>,
    /// How many at a time.
    pub parallel: usize,
}

/// A case of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCase {
    /// Key, returned in the answer.
    pub case: String,
    /// `{nonce}`.
    pub nonce: crate::Nonce,
    /// `{ok}`.
    pub ok: crate::Nonce,
    /// What to attempt; `${...}` already replaced.
    pub action: crate::Action,
    /// Milliseconds after which the attempt is cut off (it is then not issued).
    pub limit_ms: u64,
    /// How many times longer than usual a connection and an answer are awaited: black holes are common, and so are slow machines.
    pub patience: u32,
}
