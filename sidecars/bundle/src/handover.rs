//! What init hands to a daemon: one line of JSON on the daemon's standard input.
//!
//! The pipe then stays open, and its end is the order to stop: init needs no capability to signal other users.

use bottle_policy::{BundleConfig, Daemon, Tokens};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The line in which a daemon tells init that it listens.
pub const READY_LINE: &str = "ready";

/// Everything one daemon is told.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The whole configuration, which holds no secret.
    pub config: BundleConfig,
    /// By which egress knows pipelock, for these two only.
    pub hop_secret: Option<String>,
    /// For egress only.
    pub tokens: Option<Tokens>,
    /// Key and certificate of the bottle's authority (PEM), for pipelock only: init minted it, so that a restarted pipelock
    /// does not change what the guest trusts.
    pub authority: Option<String>,
    /// By which the relay knows the launcher (hexadecimal digits), for the relay only.
    pub relay_secret: Option<String>,
}

/// The secrets of a bundle, each for the daemons that need it.
pub struct Secrets {
    /// By which egress knows pipelock.
    pub hop: Zeroizing<String>,
    /// Values by name, without the relay's.
    pub tokens: Tokens,
    /// By which the relay knows the launcher (hexadecimal digits).
    pub relay: Option<Zeroizing<String>>,
    /// Key and certificate of the authority (PEM).
    pub authority: Zeroizing<String>,
    /// The certificate alone (PEM); no secret.
    pub certificate: String,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        for value in self.tokens.tokens.values_mut() {
            value.zeroize();
        }
    }
}

impl Secrets {
    /// The line for `daemon`, with its line feed.
    pub fn line_for(&self, daemon: Daemon, config: &BundleConfig) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            config: &'a BundleConfig,
            hop_secret: Option<&'a str>,
            tokens: Option<&'a Tokens>,
            authority: Option<&'a str>,
            relay_secret: Option<&'a str>,
        }
        let relay = daemon == Daemon::Relay;
        let borrowed = Borrowed {
            config,
            hop_secret: (!relay).then_some(&self.hop),
            tokens: (daemon == Daemon::Egress).then_some(&self.tokens),
            authority: (daemon == Daemon::Pipelock).then_some(&self.authority),
            relay_secret: self.relay.as_deref().filter(|_| relay).map(String::as_str),
        };
        // Counted first: a vector that grew would leave copies of the secrets behind.
        let mut length = Length(1);
        serde_json::to_writer(&mut length, &borrowed)?;
        let mut line = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *line, &borrowed)?;
        line.push(b'\n');
        Ok(line)
    }
}

struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
