//! Refusals and failures of egress, as the guest and the decision records see them.

use bottle_wire::upstream::ConnectError;
use http::StatusCode;

/// Why a request was not answered by its upstream.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The secret of the hop is missing or wrong.
    NotPipelock,
    /// Pipelock said something else than what egress expects (named).
    HopMalformed(&'static str),
    /// The upstream was not reached, or its certificate not accepted.
    Connect(ConnectError),
    /// The upstream was reached and then failed to speak HTTP.
    Protocol(String),
    /// The upstream was reached and then was silent.
    Silent,
    /// The guest's request body ended early.
    Aborted,
}

impl Refusal {
    /// Stable kebab-case name for decision records.
    pub(crate) fn rule(&self) -> &'static str {
        match self {
            Self::NotPipelock => "not-pipelock",
            Self::HopMalformed(_) => "hop-malformed",
            Self::Connect(error) => error.rule(),
            Self::Protocol(_) => "upstream-protocol",
            Self::Silent => "upstream-timeout",
            Self::Aborted => "request-aborted",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotPipelock => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::HopMalformed(_) | Self::Aborted => StatusCode::BAD_REQUEST,
            Self::Connect(ConnectError::TimedOut { .. }) | Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) | Self::Protocol(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The sentence that the guest is sent.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::NotPipelock => "this hop takes requests from the bottle's own proxy only".into(),
            Self::HopMalformed(expected) => format!("the hop from the bottle's proxy expected {expected}"),
            Self::Connect(error) => error.to_string(),
            Self::Protocol(what) => format!("the upstream broke the protocol: {what}"),
            Self::Silent => "the upstream sent no byte for too long".into(),
            Self::Aborted => "the request ended before its body was complete".into(),
        }
    }

    /// Whether the peer is not to be trusted with a second request on its connection.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self, Self::NotPipelock | Self::HopMalformed(_) | Self::Aborted)
    }
}
