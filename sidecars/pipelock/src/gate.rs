//! What every way through pipelock shares: the rules, the resolver, the hop, and the words of a refusal.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle_policy::authority::host_authority;
use bottle_policy::{Allowed, Control, DecisionVerdict, DenyReason, Dial, Host, Rules, Stage, WireLimits, sentence};
use bottle_wire::{Authority, Counted, Recorder, ResolveError, Resolver};
use bytes::BytesMut;

use crate::hop::{HopPool, REFUSAL_FIELD, field};

/// A resolved destination is used at least this long within one intercepted connection, so that a TTL of zero does not
/// cost a look-up a request. Every look-up is checked anew.
const PINNED: Duration = Duration::from_secs(10);

/// Everything that the connections of one bottle share.
#[derive(Debug)]
pub struct Gate {
    /// What is allowed.
    pub rules: Rules,
    /// What follows the first request of a connection in K-PX-ONCE.
    #[cfg(feature = "leaky")]
    pub open: Rules,
    /// Who resolves.
    pub resolver: Resolver,
    /// Where decisions go.
    pub recorder: Recorder,
    /// The way on.
    pub hop: HopPool,
    /// The bottle's certificate authority.
    pub authority: Arc<Authority>,
    /// Byte and time limits.
    pub limits: WireLimits,
}

/// An allowed destination with its checked addresses.
#[derive(Clone, Debug)]
pub struct Destination {
    /// What was decided.
    pub allowed: Allowed,
    /// The host, as in records.
    pub host: Arc<str>,
    /// `host:port`, as in targets.
    pub place: Arc<str>,
    /// Checked; at least one.
    pub addresses: Arc<[IpAddr]>,
    /// When they are to be looked up again.
    pub until: Instant,
}

/// What a refused request was about, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The method.
    pub method: Option<String>,
    /// The host, printable.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The address dialled.
    pub address: Option<IpAddr>,
    /// The probe's nonce.
    pub nonce: Option<String>,
}

impl About {
    /// About an authority as it was sent.
    pub fn authority(method: &str, text: &[u8], default_port: Option<u16>, nonce: Option<String>) -> Self {
        let (host, port) = match host_authority(text) {
            Ok((host, port)) => (host.to_string(), port.or(default_port)),
            Err(_) => (printable(text), None),
        };
        Self {
            method: Some(method.to_owned()),
            host: Some(host),
            port,
            address: None,
            nonce,
        }
    }

    /// About a decided destination.
    pub fn allowed(method: &str, allowed: &Allowed, nonce: Option<String>) -> Self {
        let host = Some(allowed.host.to_string());
        Self {
            method: Some(method.to_owned()),
            host,
            port: Some(allowed.port),
            address: None,
            nonce,
        }
    }
}

/// What a guest is sent instead of an answer.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The stable name.
    pub name: String,
    /// The sentence.
    pub told: String,
}

impl Refusal {
    /// Writes the refusal as a whole HTTP/1.1 response.
    pub fn write(&self, is_head: bool, keeps_alive: bool, out: &mut BytesMut) {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or("");
        out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", self.status).as_bytes());
        field(out, "content-type", b"text/plain; charset=utf-8");
        field(out, REFUSAL_FIELD, self.name.as_bytes());
        field(out, "content-length", (self.told.len() + 1).to_string().as_bytes());
        if !keeps_alive {
            field(out, "connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
        if !is_head {
            out.extend_from_slice(self.told.as_bytes());
            out.extend_from_slice(b"\n");
        }
    }
}

impl Gate {
    /// The rules for the request with this number (from 0) of a connection: always the same ones.
    pub fn rules(&self, number: u64) -> &Rules {
        #[cfg(feature = "leaky")]
        if number > 0 && !self.rules.controls().has(Control::EveryRequest) {
            return &self.open;
        }
        let _ = number;
        &self.rules
    }

    /// Whether a control is in force.
    pub fn has(&self, control: Control) -> bool {
        self.rules.controls().has(control)
    }

    /// Resolves an allowed destination and judges every address.
    ///
    /// # Errors
    /// `NameUnresolved`, `ResolverFailed` or `ResolvedAddress`.
    pub async fn destination(&self, allowed: Allowed) -> Result<Destination, DenyReason> {
        let now = Instant::now();
        let forever = now + Duration::from_secs(24 * 3600);
        let (addresses, until): (Arc<[IpAddr]>, Instant) = match (&allowed.host, allowed.dial) {
            #[cfg(feature = "leaky")]
            (_, Dial::To(address)) => (Arc::new([address]), forever),
            (Host::Addr(address), _) => (Arc::new([*address]), forever),
            (Host::Name(name), _) => {
                let answer = self.resolver.lookup(name).await.map_err(|error| match error {
                    ResolveError::NoAddress => DenyReason::NameUnresolved,
                    ResolveError::NoAnswer | ResolveError::NoServer => DenyReason::ResolverFailed,
                })?;
                (answer.addresses, answer.until)
            }
        };
        let _: Dial = allowed.dial;
        self.rules.dialled(&allowed, &addresses)?;
        let host: Arc<str> = match &allowed.host {
            Host::Name(name) => name.shared(),
            Host::Addr(_) => allowed.host.to_string().into(),
        };
        let place = format!("{host}:{}", allowed.port).into();
        Ok(Destination {
            allowed,
            host,
            place,
            addresses,
            until: until.max(now + PINNED),
        })
    }

    /// Records a refusal and puts it into words.
    pub async fn refuse(&self, stage: Stage, reason: DenyReason, about: About) -> Refusal {
        let told = sentence(reason, about.host.as_deref().unwrap_or("the destination"), about.port);
        let refusal = Refusal {
            status: reason.status(),
            name: reason.name().to_owned(),
            told,
        };
        self.refused(stage, &refusal, about, true).await;
        refusal
    }

    /// Records a refusal of the guest's connection that it is told nothing about (there is no way to).
    pub async fn cut_off(&self, stage: Stage, reason: DenyReason, about: About) {
        let refusal = Refusal {
            status: 0,
            name: reason.name().to_owned(),
            told: String::new(),
        };
        self.refused(stage, &refusal, about, false).await;
    }

    /// Records a refusal whose words are known.
    pub async fn refused(&self, stage: Stage, refusal: &Refusal, about: About, is_told: bool) {
        let mut record = self.recorder.blank(stage, DecisionVerdict::Deny, &refusal.name);
        record.method = about.method;
        record.host = about.host;
        record.port = about.port;
        record.address = about.address;
        record.nonce = about.nonce;
        record.told = is_told.then(|| refusal.told.clone());
        self.recorder.decision(record).await;
    }

    /// Records that something went on: one by one with a nonce, counted without.
    pub fn passed(&self, stage: Stage, method: &str, to: &Destination, nonce: Option<&str>) {
        self.passed_at(stage, method, to, 0, nonce);
    }

    /// As [`Gate::passed`], to the address with this number.
    fn passed_at(&self, stage: Stage, method: &str, to: &Destination, at: usize, nonce: Option<&str>) {
        // CONNECT dials nothing yet.
        let address = to.addresses.get(at).copied().filter(|_| stage != Stage::Connect);
        let Some(nonce) = nonce else {
            let method = http::Method::from_bytes(method.as_bytes()).unwrap_or_default();
            let (port, rule) = (to.allowed.port, to.allowed.rule);
            return self.recorder.count(Counted {
                method,
                host: to.host.clone(),
                port,
                address,
                rule,
                stage,
            });
        };
        let mut record = self.recorder.blank(stage, DecisionVerdict::Allow, to.allowed.rule);
        record.method = Some(method.to_owned());
        record.host = Some(to.host.to_string());
        record.port = Some(to.allowed.port);
        record.address = address;
        record.nonce = Some(nonce.to_owned());
        self.recorder.decision_later(record);
    }

    /// Time without a byte after which a connection ends.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.limits.idle_ms)
    }

    /// Time for a head or a handshake.
    pub fn head(&self) -> Duration {
        Duration::from_millis(self.limits.head_ms)
    }
}

/// Bytes as printable ASCII of at most 300 characters, anything else as `\xNN`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &b in bytes {
        if (0x21..=0x7e).contains(&b) && b != b'\\' {
            text.push(char::from(b));
        } else {
            text.push_str(&format!("\\x{b:02x}"));
        }
        if text.len() >= 296 {
            break;
        }
    }
    text
}

/// Records, when it goes out of scope, that a request went on, unless it was told otherwise: also when the guest goes away
/// while the upstream still thinks.
pub struct Sent<'a> {
    gate: &'a Gate,
    method: &'a str,
    to: &'a Destination,
    nonce: Option<&'a str>,
    at: usize,
    is_refused: bool,
}

impl<'a> Sent<'a> {
    /// The request is on its way.
    pub fn new(gate: &'a Gate, method: &'a str, to: &'a Destination, nonce: Option<&'a str>) -> Self {
        Self {
            gate,
            method,
            to,
            nonce,
            at: 0,
            is_refused: false,
        }
    }

    /// It goes to the address with this number.
    pub fn address(&mut self, at: usize) {
        self.at = at;
    }

    /// It never reached the upstream; the refusal is recorded elsewhere.
    pub fn refused(&mut self) {
        self.is_refused = true;
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_refused {
            self.gate
                .passed_at(Stage::Request, self.method, self.to, self.at, self.nonce);
        }
    }
}
