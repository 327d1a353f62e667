//! What is said and heard over a connection.

use serde::{Deserialize, Serialize};

/// How a name server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsTransport {
    /// RFC 1035 over UDP.
    Udp,
    /// RFC 7766.
    Tcp,
    /// DNS over TLS, RFC 7858.
    Tls,
    /// DNS over HTTPS, RFC 8484, as a plain TLS POST.
    Https,
}

/// How the lines of a trace begin that tell a certificate.
pub const CERTIFICATE_LINE: &str = "certificate ";

/// A step of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Sends a text as it is.
    Send {
        /// The text (may hold control bytes).
        text: String,
    },
    /// Sends a text in pieces.
    SendSlowly {
        /// The text.
        text: String,
        /// Bytes a piece.
        piece: usize,
        /// Pause between pieces in milliseconds.
        pause_ms: u64,
    },
    /// Reads an HTTP response head (and the body that it announces, at most 64 KiB). Fails on anything else.
    Response,
    /// Reads a response and ends the conversation unless its status is 2xx or 101.
    Success,
    /// Reads what comes for this long (at most 64 KiB).
    Read {
        /// Milliseconds.
        ms: u64,
    },
    /// Starts TLS as a client; certificates are not verified (the issuer is reported). What follows is inside it.
    Tls {
        /// Server name to send; `None` sends none; an address sends none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sni: Option<String>,
        /// ALPN protocols.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        alpn: Vec<String>,
        /// Sends the first flight in pieces of this many bytes, 30 ms apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        split: Option<usize>,
    },
    /// Reports the certificate that the peer of the TLS begun last showed: lines of the trace that begin with
    /// [`CERTIFICATE_LINE`], its DER in base64.
    Certificate,
    /// Sends one HTTP/2 request (connection preface and settings first, if not yet sent) and reads its answer for 500 ms.
    H2 {
        /// `:method`.
        method: String,
        /// `:scheme`.
        scheme: String,
        /// `:authority`.
        authority: String,
        /// `:path`.
        path: String,
        /// Field lines.
        fields: Vec<(String, String)>,
        /// Body.
        body: String,
    },
    /// Upgrades to WebSocket (RFC 6455) and sends one masked text frame.
    WebSocket {
        /// `Host` field.
        host: String,
        /// Path.
        path: String,
        /// Extra field lines.
        fields: Vec<(String, String)>,
        /// Text of the frame.
        text: String,
    },
    /// Waits.
    Pause {
        /// Milliseconds.
        ms: u64,
    },
}
