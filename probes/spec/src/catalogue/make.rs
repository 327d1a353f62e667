//! Builders that keep the probe files short.

use crate::{Action, CaseSpec, Disturbance, How, Leak, Oracle, Place, RunnerCase, Step, Vantage};

/// The field that decision records copy the case's nonce from.
pub const NONCE_FIELD: &str = "x-bottle-nonce: {nonce}\r\n";
/// The same with the nonce of the allowed part of a conversation.
pub const OK_FIELD: &str = "x-bottle-nonce: {ok}\r\n";

/// A case by the agent whose nonce must not be seen anywhere.
pub fn unseen(name: impl Into<String>, action: Action) -> CaseSpec {
    spec(name, How::Agent(action), Oracle::Unseen)
}

/// A case by the agent whose nonce must not be seen together with a planted secret.
pub fn secret_unseen(name: impl Into<String>, action: Action) -> CaseSpec {
    spec(name, How::Agent(action), Oracle::SecretUnseen)
}

/// A case by the runner.
pub fn runner(name: impl Into<String>, case: RunnerCase) -> CaseSpec {
    spec(name, How::Runner(case), Oracle::Unseen)
}

/// A case that hammers while something is done to the bundle.
pub fn hammer(name: impl Into<String>, action: Action, meanwhile: Disturbance) -> CaseSpec {
    spec(name, How::Hammer { action, meanwhile }, Oracle::Unseen)
}

fn spec(name: impl Into<String>, how: How, oracle: Oracle) -> CaseSpec {
    CaseSpec {
        name: name.into(),
        how,
        oracle,
        alive: Vec::new(),
        decision: false,
        controls: Vec::new(),
        needs: Vec::new(),
    }
}

impl CaseSpec {
    /// The witnesses that must be shown to work.
    pub(super) fn alive(mut self, alive: &[Vantage]) -> Self {
        self.alive = alive.to_vec();
        self
    }

    /// The known-leaky bottles, each of which turns it red.
    pub(super) fn controls(mut self, controls: &[Leak]) -> Self {
        self.controls = controls.to_vec();
        self
    }

    /// A logged refusal is promised.
    pub(super) fn denied(mut self) -> Self {
        self.decision = true;
        self
    }

    /// What it needs of a topology.
    pub(super) fn needs(mut self, needs: &[&'static str]) -> Self {
        self.needs = needs.to_vec();
        self
    }
}

/// An HTTP request over a plain connection, straight to `to`.
pub fn tcp(to: impl Into<String>) -> Action {
    tcp_sending(
        to,
        format!("GET /{{nonce}} HTTP/1.1\r\nHost: bottle\r\n{NONCE_FIELD}\r\n"),
    )
}

/// These bytes over a plain connection.
pub fn tcp_sending(to: impl Into<String>, send: impl Into<String>) -> Action {
    Action::Tcp {
        to: to.into(),
        send: send.into(),
        from: None,
    }
}

/// A datagram with the nonce.
pub fn udp(to: impl Into<String>) -> Action {
    udp_sending(to, "{nonce}")
}

/// A datagram with these bytes.
pub fn udp_sending(to: impl Into<String>, send: impl Into<String>) -> Action {
    Action::Udp {
        to: to.into(),
        send: send.into(),
        pad_to: None,
    }
}

/// Several things in order.
pub fn sequence(actions: impl IntoIterator<Item = Action>) -> Action {
    Action::Sequence {
        actions: actions.into_iter().collect(),
    }
}

/// A conversation with the guest's proxy.
pub fn proxy(steps: impl IntoIterator<Item = Step>) -> Action {
    Action::Talk {
        to: "proxy".to_owned(),
        steps: steps.into_iter().collect(),
    }
}

/// Bytes as they are.
pub fn send(text: impl Into<String>) -> Step {
    Step::Send { text: text.into() }
}

/// The head of a CONNECT with the case's nonce.
pub fn connect(authority: &str) -> Step {
    connect_with(authority, NONCE_FIELD)
}

/// The head of a CONNECT with these field lines.
pub fn connect_with(authority: &str, fields: &str) -> Step {
    send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n"
    ))
}

/// TLS with a server name.
pub fn tls(sni: &str) -> Step {
    Step::Tls {
        sni: Some(sni.to_owned()),
        alpn: Vec::new(),
        split: None,
    }
}

/// TLS without a server name.
pub fn tls_nameless() -> Step {
    Step::Tls {
        sni: None,
        alpn: Vec::new(),
        split: None,
    }
}

/// TLS that offers HTTP/2.
pub fn tls_h2(sni: &str) -> Step {
    Step::Tls {
        sni: Some(sni.to_owned()),
        alpn: vec!["h2".to_owned()],
        split: None,
    }
}

/// A GET with the case's nonce in its path and in its field.
pub fn get(host: &str) -> Step {
    send(get_text(host))
}

/// The text of [`get`].
pub fn get_text(host: &str) -> String {
    format!("GET /{{nonce}} HTTP/1.1\r\nHost: {host}\r\n{NONCE_FIELD}\r\n")
}

/// An allowed GET that carries `{ok}` only.
pub fn get_ok(host: &str) -> String {
    format!("GET /{{ok}} HTTP/1.1\r\nHost: {host}\r\n{OK_FIELD}\r\n")
}

/// Reads what comes for a moment, so that what was sent has time to be passed on before the connection ends.
pub fn listen() -> Step {
    Step::Read { ms: 400 }
}

/// CONNECT to `authority`, TLS with `sni`, then a request to `host` inside, all through the guest's proxy.
pub fn tunnel(authority: &str, sni: Option<&str>, host: &str) -> Action {
    tunnel_sending(authority, sni, get_text(host))
}

/// As [`tunnel`] with these bytes inside.
pub fn tunnel_sending(authority: &str, sni: Option<&str>, inside: impl Into<String>) -> Action {
    let tls = sni.map_or_else(tls_nameless, tls);
    proxy([connect(authority), Step::Success, tls, send(inside), listen()])
}

/// An absolute-form GET through the guest's proxy.
pub fn absolute(url_authority: &str) -> Action {
    absolute_to(url_authority, url_authority)
}

/// An absolute-form GET whose target and `Host` are these.
pub fn absolute_to(url_authority: &str, host: &str) -> Action {
    proxy([send(absolute_text(url_authority, host)), listen()])
}

/// The text of [`absolute_to`].
pub fn absolute_text(url_authority: &str, host: &str) -> String {
    format!("GET http://{url_authority}/{{nonce}} HTTP/1.1\r\nHost: {host}\r\n{NONCE_FIELD}\r\n")
}

/// An allowed absolute-form GET that carries `{ok}` only.
pub fn absolute_ok(url_authority: &str) -> String {
    format!("GET http://{url_authority}/{{ok}} HTTP/1.1\r\nHost: {url_authority}\r\n{OK_FIELD}\r\n")
}

/// A field line as a pair.
pub fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Looks for texts in a place where the planted marker is too.
pub fn find(place: Place, needles: &[&str]) -> Action {
    find_marked(place, needles, "${marker}")
}

/// Looks for texts in a place where this marker is.
pub fn find_marked(place: Place, needles: &[&str], marker: &str) -> Action {
    Action::Find {
        place,
        needles: needles.iter().map(|&needle| needle.to_owned()).collect(),
        marker: marker.to_owned(),
    }
}
